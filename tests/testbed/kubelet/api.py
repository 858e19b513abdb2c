"""What the node says to the API server, and how it waits out the API server's absence."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

from tests.testbed.kubelet.environment import NotRunnableError

_RETRY_SECONDS = 0.3
_CONNECT_SECONDS, _READ_SECONDS = 2.0, 10.0
_TIMEOUT = (_CONNECT_SECONDS, _READ_SECONDS)
# The server ends a watch before this many seconds pass in silence, so a longer one means that it is gone.
_WATCH_SECONDS = 600
_GONE, _CONFLICT, _TOO_MANY, _SERVER = 404, 409, 429, 500


class NodeApi:
    """Calls of one node: all but the watch are tried until the API server has answered, or `stopped` is set."""

    def __init__(self, kubeconfig: Path, stopped: threading.Event) -> None:
        self._stopped = stopped
        settings = client.Configuration()
        # A dead server is noticed here; the client's own retries would only hide it for longer.
        settings.retries = False
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        self._core = client.CoreV1Api(client.ApiClient(settings))

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields `("LISTED", list of pods)`, then each watch event, until the connection ends.

        Raises:
            urllib3.exceptions.HTTPError, ApiException: the API server is gone, or wants to be asked anew.
        """
        reply = self._core.list_pod_for_all_namespaces(_preload_content=False, _request_timeout=_TIMEOUT)
        listed = json.loads(reply.data)
        yield "LISTED", listed
        events = watch.Watch().stream(
            self._core.list_pod_for_all_namespaces,
            resource_version=listed["metadata"]["resourceVersion"],
            timeout_seconds=_WATCH_SECONDS,
            _request_timeout=(_CONNECT_SECONDS, _WATCH_SECONDS),
        )
        for event in events:
            yield event["type"], event["raw_object"]

    def read(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """A Secret or ConfigMap, None when there is none."""
        call = {"Secret": self._core.read_namespaced_secret, "ConfigMap": self._core.read_namespaced_config_map}[kind]
        found: list[dict[str, Any]] = []
        self._insist(
            lambda: found.append(
                json.loads(call(name, namespace, _preload_content=False, _request_timeout=_TIMEOUT).data)
            )
        )
        return found[0] if found else None

    def token(self, pod: Mapping[str, Any], audience: str | None, seconds: int) -> str:
        """A token of the pod's service account, bound to the pod as the kubelet's are.

        Raises:
            NotRunnableError: the API server refuses it, say because there is no such account.
        """
        meta = pod["metadata"]
        reference = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        spec: dict[str, Any] = {"expirationSeconds": seconds, "boundObjectRef": reference}
        if audience:
            spec["audiences"] = [audience]
        account = pod["spec"].get("serviceAccountName", "default")
        issued: list[str] = []
        try:
            self._insist(
                lambda: issued.append(
                    self._core.create_namespaced_service_account_token(
                        account, meta["namespace"], {"spec": spec}, _request_timeout=_TIMEOUT
                    ).status.token
                )
            )
        except ApiException as error:
            raise NotRunnableError(f"no token for service account {account!r}: {error.reason}") from error
        if not issued:
            raise NotRunnableError(f"service account {account!r} not found")
        return issued[0]

    def bind(self, pod: Mapping[str, Any], node: str) -> None:
        """Puts the pod on the node, as the scheduler does."""
        meta = pod["metadata"]
        body = {
            "metadata": {"name": meta["name"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self._insist(
            lambda: self._core.create_namespaced_pod_binding(
                meta["name"], meta["namespace"], body, _preload_content=False, _request_timeout=_TIMEOUT
            )
        )

    def write_status(self, pod: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Writes the pod's status; a pod of that name but another uid is left alone."""
        meta = pod["metadata"]
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        self._insist(
            lambda: self._core.patch_namespaced_pod_status(
                meta["name"], meta["namespace"], body, _preload_content=False, _request_timeout=_TIMEOUT
            )
        )

    def remove(self, pod: Mapping[str, Any]) -> None:
        """Takes a pod that has ended off the API server for good."""
        meta = pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        self._insist(
            lambda: self._core.delete_namespaced_pod(
                meta["name"], meta["namespace"], body=options, _preload_content=False, _request_timeout=_TIMEOUT
            )
        )

    def _insist(self, call: Callable[[], object]) -> None:
        """Tries until the API server has taken the call, or said that its object is gone or another by now."""
        while not self._stopped.is_set():
            try:
                call()
                return
            except urllib3.exceptions.HTTPError:
                pass
            except ApiException as error:
                if error.status in (_GONE, _CONFLICT):
                    return
                if error.status and error.status != _TOO_MANY and error.status < _SERVER:
                    raise
            self._stopped.wait(_RETRY_SECONDS)
