"""One pod from its binding to its removal."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.kubelet import volumes
from tests.testbed.kubelet.api import NodeApi
from tests.testbed.kubelet.container import Container, Surroundings, now
from tests.testbed.kubelet.environment import NotRunnableError
from tests.testbed.network import BRIDGE_ADDRESS, Host, Network, processes_in

_RETRY_SECONDS = 0.5
_FINISHED_POLL_SECONDS = 0.2
_STARTED_POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """The node that all pods run on, and what its pods need from it.

    Attributes:
        folder: where the pods' volumes and logs lie.
        dirty: is called with a pod whose status has changed.
        eager, first_delay, longest_delay: see `Surroundings`.
    """

    name: str
    labels: Mapping[str, str]
    api: NodeApi
    network: Network
    folder: Path
    dirty: Callable[[Pod], None]
    api_port: int
    eager: bool
    first_delay: float
    longest_delay: float


class Pod:
    """Runs a pod's containers and knows its status.

    Init containers with `restartPolicy: Always` are sidecars, as the Kubernetes documentation has them ("Sidecar Containers"): the
    next container starts once they have started, by their startup probe if there is one; they are started again when they die;
    the pod is ready when they are, too; they end after the others, the last one first.
    """

    def __init__(self, manifest: Mapping[str, Any], node: Node) -> None:
        self.manifest = manifest
        self.folder = node.folder / str(manifest["metadata"]["uid"])
        self.host: Host | None = None
        self._node = node
        self._started_at = now()
        self._grace = 0.0
        self._stop = threading.Event()
        self._init: list[Container] = []
        self._sidecars: list[Container] = []
        self._main: list[Container] = []
        self._trouble: dict[str, str] | None = None
        self._scheduled = self._initialized = False
        self._conditions: dict[str, tuple[bool, str]] = {}
        self._conditions_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"pod {self.name}", daemon=True)

    @property
    def name(self) -> str:
        """Namespace and name, as people write it."""
        return f"{self.manifest['metadata']['namespace']}/{self.manifest['metadata']['name']}"

    def start(self) -> None:
        """Starts the pod without waiting for it."""
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Lets the pod end, its containers within so many seconds, without waiting for it."""
        self._grace = grace
        self._stop.set()

    def log(self, container: str | None) -> Path:
        """The file with everything one of its containers printed; by default the first's."""
        name = container or self.manifest["spec"]["containers"][0]["name"]
        return self.folder / f"{name}.log"

    def _run(self) -> None:
        try:
            if self._schedule():
                self._live()
        finally:
            self._end()
            self._node.api.remove(self.manifest)

    def _schedule(self) -> bool:
        """Binds the pod, unless its node selector asks for another node than there is."""
        selector = self.manifest["spec"].get("nodeSelector") or {}
        if not selector.items() <= self._node.labels.items():
            self._trouble = {"reason": "Unschedulable", "message": "0/1 nodes match the pod's node selector"}
            self._node.dirty(self)
            self._stop.wait()
            return False
        if not self.manifest["spec"].get("nodeName"):
            self._node.api.bind(self.manifest, self._node.name)
        self._scheduled = True
        return not self._stop.is_set()

    def _live(self) -> None:
        self.folder.mkdir(parents=True)
        self.host = self._node.network.add()
        self._node.dirty(self)
        around = self._surroundings(self.host)
        if around is None:
            return
        spec = self.manifest["spec"]
        policy = spec.get("restartPolicy", "Always")
        self._main = [Container(container, around, policy=policy) for container in spec["containers"]]
        init_policy = "Never" if policy == "Never" else "OnFailure"
        self._init = [
            Container(container, around, policy=container.get("restartPolicy") or init_policy)
            for container in spec.get("initContainers") or ()
        ]
        self._sidecars = [
            container
            for container, said in zip(self._init, spec.get("initContainers") or (), strict=True)
            if said.get("restartPolicy") == "Always"
        ]
        for container in self._init:
            container.start()
            if container in self._sidecars:
                while not container.is_started:
                    if self._stop.wait(_STARTED_POLL_SECONDS):
                        return
                continue
            while not container.finished.wait(_FINISHED_POLL_SECONDS):
                if self._stop.is_set():
                    return
            if container.exit_code != 0:
                self._node.dirty(self)
                self._stop.wait()
                return
        self._initialized = True
        for container in self._main:
            container.start()
        self._node.dirty(self)
        while self._sidecars and not all(container.finished.is_set() for container in self._main):
            if self._stop.wait(_FINISHED_POLL_SECONDS):
                return
        for sidecar in reversed(self._sidecars):
            sidecar.stop(time.monotonic() + float(spec.get("terminationGracePeriodSeconds", 30)))
        self._stop.wait()

    def _surroundings(self, host: Host) -> Surroundings | None:
        """Lays the volumes out, trying again while a Secret or ConfigMap of theirs is missing."""
        namespace = self.manifest["metadata"]["namespace"]
        facts = {"nodeName": self._node.name, "hostIP": BRIDGE_ADDRESS, "podIP": host.address}

        def lookup(kind: str, name: str) -> dict[str, Any] | None:
            return self._node.api.read(kind, namespace, name)

        def token(audience: str | None, seconds: int) -> str:
            return self._node.api.token(self.manifest, audience, seconds)

        while not self._stop.is_set():
            try:
                laid = volumes.lay_out(self.manifest, facts, self.folder / "volumes", lookup, token)
            except NotRunnableError as error:
                self._trouble = {"reason": "ContainerCreating", "message": str(error)}
                self._node.dirty(self)
                self._stop.wait(_RETRY_SECONDS)
                continue
            self._trouble = None
            return Surroundings(
                pod=self.manifest,
                facts=facts,
                host=host,
                folder=self.folder,
                laid=laid,
                lookup=lookup,
                changed=lambda: self._node.dirty(self),
                api_port=self._node.api_port,
                eager=self._node.eager,
                first_delay=self._node.first_delay,
                longest_delay=self._node.longest_delay,
            )
        return None

    def _end(self) -> None:
        """Ends every process of the pod, then its network host and its files.

        Sidecars are told when everything else has ended, the last one first, unless the pod's time is over before
        (Kubernetes documentation, "Pod Lifecycle", termination with sidecars); their preStop hooks run at once.
        """
        deadline = time.monotonic() + self._grace
        others = [container for container in (*self._init, *self._main) if container not in self._sidecars]
        stops: list[threading.Thread] = []
        for container in (*others, *reversed(self._sidecars)):
            before = tuple(stops) if container in self._sidecars and self._grace else None
            stops.append(threading.Thread(target=_stop, args=(container, deadline, before)))
            stops[-1].start()
        for stop in stops:
            stop.join()
        if self.host is not None:
            for pid in processes_in(self.host):
                _kill(pid)
            self._node.network.remove(self.host)
        shutil.rmtree(self.folder, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """The pod's status as the API shows it."""
        init, main = [container.status() for container in self._init], [container.status() for container in self._main]
        sidecars = [container.status() for container in self._sidecars]
        ready = bool(main) and self._initialized and all(container["ready"] for container in (*main, *sidecars))
        status: dict[str, Any] = {
            "phase": self._phase(),
            "startTime": self._started_at,
            "containerStatuses": main or self._not_yet("containers"),
            "initContainerStatuses": init or self._not_yet("initContainers"),
            "conditions": [
                self._condition("PodScheduled", self._scheduled),
                self._condition("Initialized", self._initialized),
                self._condition("ContainersReady", ready),
                self._condition("Ready", ready),
            ],
        }
        if self.host is not None:
            addresses = {"podIP": self.host.address, "podIPs": [{"ip": self.host.address}]}
            status.update({"hostIP": BRIDGE_ADDRESS, "hostIPs": [{"ip": BRIDGE_ADDRESS}], **addresses})
        return status

    def _phase(self) -> str:
        if any(container.exit_code not in (None, 0) for container in self._init if container not in self._sidecars):
            return "Failed"
        if self._main and all(container.finished.is_set() for container in self._main):
            return "Succeeded" if all(container.exit_code == 0 for container in self._main) else "Failed"
        return "Running" if any(container.has_run for container in self._main) else "Pending"

    def _not_yet(self, field: str) -> list[dict[str, Any]]:
        if not self._scheduled:
            return []
        waiting = self._trouble or {"reason": "ContainerCreating"}
        return [
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"waiting": waiting},
            }
            for container in self.manifest["spec"].get(field) or ()
        ]

    def _condition(self, kind: str, holds: bool) -> dict[str, Any]:
        with self._conditions_lock:
            before = self._conditions.get(kind)
            if before is None or before[0] != holds:
                self._conditions[kind] = (holds, now())
            since = self._conditions[kind][1]
        condition = {"type": kind, "status": str(holds), "lastTransitionTime": since}
        if kind == "PodScheduled" and not holds and self._trouble:
            condition.update(self._trouble)
        return condition


def _stop(container: Container, deadline: float, before: tuple[threading.Thread, ...] | None) -> None:
    """Ends one container, after those before it where there are such."""

    def turn() -> None:
        for thread in before or ():
            thread.join(max(0.0, deadline - time.monotonic()))

    container.stop(deadline, None if before is None else turn)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
