"""An in-memory Cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from mlflow_istio.core.basics.objects import Object, labels_of, name_of, ready_replicas, wanted_replicas
from mlflow_istio.core.matching.coverage import arrivals
from mlflow_istio.core.matching.probe import Probe
from mlflow_istio.core.matching.requests import Request
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.errors import EditConflict, InvalidInput, NotFound, NotReady, NotRouted
from mlflow_istio.ports.cluster import Address, Edit
from mlflow_istio.testing.routing import Answers, Objects, answers_to

_RETRIES = 10
_PORT = 80
"""Port at which a prober arrives: its requests are plain HTTP."""


class InMemoryCluster:
    """A Cluster in a dict. Deployments are ready at once, and ``answers`` says what Istio's proxies would do with a request.

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

    @property
    def place(self) -> str:
        """See ``ports.Cluster``."""
        return f"{self._scope}-place"

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
        obj = self.get("Deployment", deployment)
        if obj is None:
            raise NotFound(f"there is no deployment '{deployment}'")
        if ready_replicas(obj) < max(1, wanted_replicas(obj)):
            raise NotReady(
                f"deployment '{deployment}' was not ready within {timeout:g} s", detail="(its last log lines)"
            )

    def wait_routed(self, probe: Probe, timeout: float) -> Sequence[str]:
        """See ``ports.Cluster``. A prober's requests are plain HTTP."""
        if not probe.gets_in("http", _PORT):
            return ()
        if not self._proves(probe):
            raise NotRouted(f"no proxy confirmed {probe.purpose} within {timeout:g} s")
        return ("in-memory",)

    def address(self, virtual_service: str) -> Address:
        """See ``ports.Cluster``."""
        if self.get("VirtualService", virtual_service) is None:
            raise NotFound(f"there is no endpoint '{virtual_service}'")
        return Address(url=f"http://{virtual_service}.invalid")

    def answers(self, virtual_service: str, request: Request) -> Answers:
        """What becomes of a request that arrives at a VirtualService: who answers, with which share, and who gets copies.

        Raises:
            NotFound: There is none of that name.
            Unsupported: Whether a route takes it can't be told without a proxy; names route and field.
        """
        obj = self.get("VirtualService", virtual_service)
        if obj is None:
            raise NotFound(f"there is no VirtualService '{virtual_service}'")
        return self._answers(obj, request, self._objects)

    def _answers(self, virtual_service: Object, request: Request, objects: Objects) -> Answers:
        deployments = [each for (kind, _), each in self._objects.items() if kind == "Deployment"]
        ready = [name_of(each) for each in deployments if ready_replicas(self._with_status(dict(each)))]
        return answers_to(request, virtual_service, objects, ready)

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
            replicas = wanted_replicas(obj)
            ready = 0 if name_of(obj) in self.unready else replicas
            obj["status"] = {"replicas": replicas, "readyReplicas": ready}
        return obj

    @staticmethod
    def _version_of(obj: Object | None) -> str | None:
        return None if obj is None else str(obj["metadata"]["resourceVersion"])

    def _readable(self) -> Iterator[tuple[tuple[str, str], Object]]:
        """The objects that an API server would hold: others' VirtualServices of another shape reach no proxy."""
        for key, obj in self._objects.items():
            with suppress(InvalidInput):
                yield key, readable(obj) if key[0] == "VirtualService" else obj

    def _proves(self, probe: Probe) -> bool:
        virtual_service = self.get("VirtualService", probe.virtual_service)
        if virtual_service is None or self.unroutable:
            return False
        virtual_service = seen_by_strangers(readable(virtual_service))
        seen = {key: seen_by_strangers(obj) if key[0] == "VirtualService" else obj for key, obj in self._readable()}
        headers = {name.lower(): value for name, value in probe.headers.items()}
        path, _, query = probe.path.partition("?")
        ways = arrivals(virtual_service)
        for gateway in dict.fromkeys(way.gateway for way in ways):
            if probe.gateways is None or gateway in probe.gateways:
                request = Request(
                    method=probe.method,
                    path=path,
                    query=first_values(query),
                    headers={name: value for name, value in headers.items() if name != "host"},
                    authority=headers.get("host", ways[0].host),
                    port=_PORT,
                    gateway=gateway,
                )
                answers = self._answers(virtual_service, request, seen).answers
                if not all(probe.proved_by(answer.status, answer.headers, answer.body) for answer in answers):
                    return False
        return True


def first_values(query: str) -> dict[str, str]:
    """The parameters of a query; of several of one name the first counts, as to Envoy."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        values.setdefault(name, value)
    return values


def seen_by_strangers(virtual_service: Object) -> Object:
    """A VirtualService without the matches that no prober meets: it has no pod whose labels or namespace count, and no token."""
    http = []
    for route in virtual_service.get("spec", {}).get("http") or []:
        left = [match for match in route.get("match") or [] if not _asks_who_calls(match)]
        if left or not route.get("match"):
            http.append({**route, "match": left} if left else route)
    return {**virtual_service, "spec": {**virtual_service.get("spec", {}), "http": http}}


def _asks_who_calls(match: Object) -> bool:
    pod = not match.get("gateways") and (
        match.get("sourceLabels") or match.get("sourceNamespace")
    )  # as istiod reads it
    return bool(pod) or any(name.startswith("@") for name in match.get("headers") or {})


def _copied(obj: Any) -> Any:
    """A copy that shares nothing; by way of JSON, which is what a real API server gets, and much faster than ``deepcopy``."""
    return json.loads(json.dumps(obj))
