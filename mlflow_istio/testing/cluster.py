"""An in-memory Cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from mlflow_istio.core.basics.objects import Object, annotations_of, labels_of, name_of, ready_replicas
from mlflow_istio.core.matching.coverage import arrivals
from mlflow_istio.core.matching.places import placed
from mlflow_istio.core.matching.probe import VERSION_HEADER, Probe, header_text
from mlflow_istio.core.matching.requests import Request, answering_route
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.core.mesh.delegation import merged
from mlflow_istio.core.mesh.manifests import VERSION_ANNOTATION
from mlflow_istio.errors import EditConflict, NotFound, NotReady, NotRouted
from mlflow_istio.ports.cluster import Address, Edit

_RETRIES = 10


class InMemoryCluster:
    """A Cluster in a dict. Deployments are ready at once, routes are evaluated as Istio would.

    Attributes:
        unready: Names of Deployments that never become ready.
        unroutable: Whether proxies never take a change over.
        before_write: Called with (kind, name) between the read and the write of an edit, to play another writer.
        writes: (verb, kind, name) of every write that changed something, in order.
    """

    def __init__(self, scope: str = "in-memory") -> None:
        self._scope = scope
        self._objects: dict[tuple[str, str], Object] = {}
        self._version = 0
        self.unready: set[str] = set()
        self.unroutable = False
        self.before_write: Callable[[str, str], None] = lambda _kind, _name: None
        self.writes: list[tuple[str, str, str]] = []

    @property
    def scope(self) -> str:
        """See ``ports.Cluster``."""
        return self._scope

    def get(self, kind: str, name: str) -> Object | None:
        """See ``ports.Cluster``."""
        obj = self._objects.get((kind, name))
        return None if obj is None else self._with_status(_copied(obj))

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        """See ``ports.Cluster``."""
        return [
            self._with_status(_copied(obj))
            for (its_kind, _), obj in sorted(self._objects.items())
            if its_kind == kind and labels.items() <= labels_of(obj).items()
        ]

    def apply(self, obj: Object) -> Object:
        """See ``ports.Cluster``."""
        return self._store("apply", obj)

    def edit(self, kind: str, name: str, change: Edit) -> tuple[Object | None, Object]:
        """See ``ports.Cluster``."""
        for _ in range(_RETRIES):
            before = self.get(kind, name)
            after = change(_copied(before))
            if after == before:
                return before, after
            self.before_write(kind, name)
            if self._version_of(before) == self._version_of(self.get(kind, name)):
                return before, self._store("edit", after)
        raise EditConflict(f"{kind} '{name}' kept being changed by others: run the command again")

    def delete(self, kind: str, name: str) -> bool:
        """See ``ports.Cluster``."""
        if self._objects.pop((kind, name), None) is None:
            return False
        self.writes.append(("delete", kind, name))
        return True

    def wait_ready(self, deployment: str, timeout: float) -> None:
        """See ``ports.Cluster``."""
        found = self.get("Deployment", deployment)
        if found is None:
            raise NotFound(f"there is no deployment '{deployment}'")
        if ready_replicas(found) < max(1, int(found["spec"].get("replicas", 1))):
            raise NotReady(
                f"deployment '{deployment}' was not ready within {timeout:g} s", detail="(its last log lines)"
            )

    def wait_routed(self, probe: Probe, timeout: float) -> Sequence[str]:
        """See ``ports.Cluster``."""
        if not self._proves(probe):
            raise NotRouted(f"no proxy confirmed {probe.purpose} within {timeout:g} s")
        return ("in-memory",)

    def address(self, virtual_service: str) -> Address:
        """See ``ports.Cluster``."""
        if self.get("VirtualService", virtual_service) is None:
            raise NotFound(f"there is no endpoint '{virtual_service}'")
        return Address(url=f"http://{virtual_service}.invalid")

    def _store(self, verb: str, obj: Object) -> Object:
        key = (str(obj["kind"]), name_of(obj))
        stored = self._objects.get(key)
        bare = {name: value for name, value in _copied(obj).items() if name != "status"}
        bare["metadata"].pop("resourceVersion", None)
        if stored is not None:
            without = {name: value for name, value in stored["metadata"].items() if name != "resourceVersion"}
            if {**stored, "metadata": without} == bare:
                return self._with_status(_copied(stored))
        self._version += 1
        bare["metadata"]["resourceVersion"] = str(self._version)
        self._objects[key] = bare
        self.writes.append((verb, *key))
        return self._with_status(_copied(bare))

    def _with_status(self, obj: Object) -> Object:
        if obj["kind"] == "Deployment":
            replicas = int(obj["spec"].get("replicas", 1))
            ready = 0 if name_of(obj) in self.unready else replicas
            obj["status"] = {"replicas": replicas, "readyReplicas": ready}
        return obj

    @staticmethod
    def _version_of(obj: Object | None) -> str | None:
        return None if obj is None else str(obj["metadata"]["resourceVersion"])

    def _proves(self, probe: Probe) -> bool:
        virtual_service = self.get("VirtualService", probe.virtual_service)
        if virtual_service is None or self.unroutable:
            return False
        whole = placed(merged(readable(virtual_service), lambda name: self.get("VirtualService", name)))
        headers = {name.lower(): value for name, value in probe.headers.items()}
        path, _, query = probe.path.partition("?")
        usual = arrivals(whole)[0].host
        for gateway in dict.fromkeys(arrival.gateway for arrival in arrivals(whole)):
            if probe.gateways is None or gateway in probe.gateways:
                request = Request(
                    method=probe.method,
                    path=path,
                    query=dict(parse_qsl(query, keep_blank_values=True)),
                    headers=headers,
                    authority=headers.get("host", usual),
                    gateway=gateway,
                )
                route = answering_route(whole, request)
                if route is None or not self._answers(probe, route):
                    return False
        return True

    def _answers(self, probe: Probe, route: Object) -> bool:
        if "directResponse" in route:
            answer = route["directResponse"]
            return probe.proved_by(answer.get("status", 200), {}, (answer.get("body") or {}).get("string", ""))
        if not route.get("route"):
            return False
        subset = route["route"][0]["destination"].get("subset", "")
        rule = self.get("DestinationRule", route["route"][0]["destination"]["host"])
        known = {entry["name"] for entry in (rule or {}).get("spec", {}).get("subsets", [])}
        deployment = self.get("Deployment", subset)
        if subset not in known or deployment is None or not ready_replicas(deployment):
            return False
        version = header_text(annotations_of(deployment).get(VERSION_ANNOTATION, ""))
        return probe.proved_by(200, {VERSION_HEADER: version}, "")


def _copied(obj: Any) -> Any:
    """A copy that shares nothing; by way of JSON, which is what a real API server gets, and much faster than ``deepcopy``."""
    return json.loads(json.dumps(obj))
