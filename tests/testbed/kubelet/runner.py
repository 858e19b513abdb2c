"""Watches pods and runs them."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
from kubernetes.client.rest import ApiException

from tests.testbed.errors import TestbedError
from tests.testbed.kubelet.api import NodeApi
from tests.testbed.kubelet.pod import Node, Pod
from tests.testbed.network import Host, Network

NODE_NAME = "testbed"
NODE_LABELS = {"kubernetes.io/hostname": NODE_NAME, "kubernetes.io/os": "linux"}
_RELIST_SECONDS = 0.3
_FINAL_PHASES = ("Succeeded", "Failed")


class Runner:
    """Runs every pod of the API server, each in threads of its own; one thread writes their statuses."""

    def __init__(self, kubeconfig: Path, network: Network, folder: Path, *, api_port: int, fast: bool) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Condition()
        self._pods: dict[str, Pod] = {}
        # The pods whose status is to be written, by uid, in the order in which they changed.
        self._dirty: dict[str, Pod] = {}
        self._node = Node(
            name=NODE_NAME,
            labels=NODE_LABELS,
            api=NodeApi(kubeconfig, self._stopped),
            network=network,
            folder=folder,
            dirty=self._mark,
            api_port=api_port,
            eager=fast,
            # The kubelet's own are 10 and 300 seconds.
            first_delay=1.0 if fast else 10.0,
            longest_delay=5.0 if fast else 300.0,
        )

    def start(self) -> None:
        """Starts to watch."""
        for target in (self._watch, self._write):
            threading.Thread(target=target, name=f"kubelet {target.__name__}", daemon=True).start()

    def host(self, pod: str) -> Host:
        """The network host of the pod `NAMESPACE/NAME`.

        Raises:
            TestbedError: no such pod runs.
        """
        host = self.pod(pod).host
        if host is None:
            raise TestbedError(f"pod {pod} has no address yet")
        return host

    def pod(self, name: str) -> Pod:
        """The pod `NAMESPACE/NAME`.

        Raises:
            TestbedError: no such pod runs.
        """
        with self._lock:
            for pod in self._pods.values():
                if pod.name == name:
                    return pod
            names = ", ".join(sorted(pod.name for pod in self._pods.values()))
        raise TestbedError(f"no pod {name!r} runs in the testbed, only: {names or 'none'}")

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                for kind, seen in self._node.api.pods():
                    if kind == "LISTED":
                        self._compare(seen)
                    else:
                        self._take(kind, seen)
            except (urllib3.exceptions.HTTPError, ApiException):
                self._stopped.wait(_RELIST_SECONDS)

    def _compare(self, listed: Mapping[str, Any]) -> None:
        for pod in listed["items"]:
            self._take("LISTED", pod)
        there = {pod["metadata"]["uid"] for pod in listed["items"]}
        with self._lock:
            gone = [pod for uid, pod in self._pods.items() if uid not in there]
        for pod in gone:
            self._forget(pod)

    def _take(self, kind: str, manifest: Mapping[str, Any]) -> None:
        meta = manifest["metadata"]
        with self._lock:
            known = self._pods.get(meta["uid"])
        if kind == "DELETED":
            if known:
                self._forget(known)
        elif known:
            if "deletionTimestamp" in meta:
                known.stop(float(meta.get("deletionGracePeriodSeconds") or 0))
        elif manifest.get("status", {}).get("phase") not in _FINAL_PHASES:
            pod = Pod(manifest, self._node)
            with self._lock:
                self._pods[meta["uid"]] = pod
            if "deletionTimestamp" in meta:
                pod.stop(0.0)
            pod.start()

    def _forget(self, pod: Pod) -> None:
        """Ends a pod that the API server no longer has, without grace."""
        pod.stop(0.0)
        with self._lock:
            self._pods.pop(pod.manifest["metadata"]["uid"], None)

    def _mark(self, pod: Pod) -> None:
        with self._lock:
            self._dirty[pod.manifest["metadata"]["uid"]] = pod
            self._lock.notify()

    def _write(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                self._lock.wait_for(lambda: self._dirty)
                pod = self._dirty.pop(next(iter(self._dirty)))
            try:
                self._node.api.write_status(pod.manifest, pod.status())
            except ApiException:
                # Refused: a defect of the testbed, shown in its log; the other pods' statuses must go on.
                traceback.print_exc(file=sys.stderr)
