"""In-memory ports, for this package's tests and for yours.

Example:
    >>> from mlflow_istio.testing import InMemoryCluster, InMemoryRegistry
    >>> cluster, registry = InMemoryCluster(), InMemoryRegistry({"churn": [1, 2]})
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.endpoint import Release
from mlflow_istio.core.manifests import VERSION_ANNOTATION
from mlflow_istio.core.matching import Request, answering_route
from mlflow_istio.core.measures import ERRORS, REQUESTS, latency_series
from mlflow_istio.core.model_version import ModelReference, ModelVersion
from mlflow_istio.core.objects import Object, annotations_of, labels_of, name_of, ready_replicas
from mlflow_istio.core.probe import VERSION_HEADER, Probe, header_text
from mlflow_istio.core.routing_change import RoutingChange
from mlflow_istio.core.standing import Standing
from mlflow_istio.errors import EditConflict, MetricsError, NotFound, NotReady, NotRouted, RegistryError, StateConflict
from mlflow_istio.ports import Address, Edit

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
        return None if obj is None else self._with_status(copy.deepcopy(obj))

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        """See ``ports.Cluster``."""
        return [
            self._with_status(copy.deepcopy(obj))
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
            after = change(copy.deepcopy(before))
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

    def address(self, endpoint: str) -> Address:
        """See ``ports.Cluster``."""
        if self.get("VirtualService", endpoint) is None:
            raise NotFound(f"there is no endpoint '{endpoint}'")
        return Address(url=f"http://{endpoint}.invalid")

    def _store(self, verb: str, obj: Object) -> Object:
        key = (str(obj["kind"]), name_of(obj))
        stored = self._objects.get(key)
        bare = {name: value for name, value in copy.deepcopy(obj).items() if name != "status"}
        bare["metadata"].pop("resourceVersion", None)
        if stored is not None:
            without = {name: value for name, value in stored["metadata"].items() if name != "resourceVersion"}
            if {**stored, "metadata": without} == bare:
                return self._with_status(copy.deepcopy(stored))
        self._version += 1
        bare["metadata"]["resourceVersion"] = str(self._version)
        self._objects[key] = bare
        self.writes.append((verb, *key))
        return self._with_status(copy.deepcopy(bare))

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
        virtual_service = self.get("VirtualService", probe.endpoint)
        if virtual_service is None or self.unroutable:
            return False
        route = answering_route(
            virtual_service,
            Request(method="GET", path=probe.path, headers={k.lower(): v for k, v in probe.headers.items()}),
        )
        if route is None:
            return False
        if "directResponse" in route:
            answer = route["directResponse"]
            return probe.proved_by(answer["status"], {}, answer["body"]["string"])
        subset = route["route"][0]["destination"].get("subset", "")
        rule = self.get("DestinationRule", probe.endpoint)
        known = {entry["name"] for entry in (rule or {}).get("spec", {}).get("subsets", [])}
        deployment = self.get("Deployment", subset)
        if subset not in known or deployment is None or not ready_replicas(deployment):
            return False
        version = header_text(annotations_of(deployment).get(VERSION_ANNOTATION, ""))
        return probe.proved_by(200, {VERSION_HEADER: version}, "")


class InMemoryRegistry:
    """A Registry in dicts.

    Attributes:
        down: Whether every call fails as if the server were gone.
        gone: ``MODEL/VERSION`` whose files are gone.
        aliases: (model, alias) to version number.
        tags: ``MODEL/VERSION`` to its tags.
        owners: (model, alias) to the SCOPE/ENDPOINT that owns it.
        runs: Run id to outcome ("" while open).
        artifacts: Change id to the objects recorded with it.
    """

    def __init__(self, models: Mapping[str, Sequence[int]]) -> None:
        self._models = {model: list(versions) for model, versions in models.items()}
        self._changes: dict[tuple[str, str], dict[str, RoutingChange]] = {}
        self.down = False
        self.gone: set[str] = set()
        self.aliases: dict[tuple[str, str], int] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.owners: dict[tuple[str, str], str] = {}
        self.runs: dict[str, str] = {}
        self.artifacts: dict[str, dict[str, Object]] = {}

    def resolve(self, reference: ModelReference) -> ModelVersion:
        """See ``ports.Registry``."""
        self._up()
        versions = self._models.get(reference.model, [])
        if reference.alias == "latest" and versions:
            version = max(versions)
        elif reference.alias is not None:
            version = self.aliases.get((reference.model, reference.alias), 0)
        else:
            version = reference.version or 0
        if version not in versions:
            raise NotFound(f"registered model '{reference.model}' has no version for {reference}")
        found = ModelVersion(
            model=reference.model, version=version, alias=reference.alias, flavors=("python_function",)
        )
        if found.label in self.gone:
            raise NotFound(f"the files of {found.uri} are gone")
        return found

    def check_aliases(self, model: str, aliases: Sequence[str], owner: str) -> None:
        """See ``ports.Registry``."""
        self._up()
        for alias in aliases:
            other = self.owners.get((model, alias), owner)
            if other != owner:
                raise StateConflict(f"alias '{alias}' of model '{model}' belongs to {other}: set another alias")

    def open_run(self, scope: str, endpoint: str, release: Release | None) -> str:
        """See ``ports.Registry``."""
        self._up()
        run = f"run-{scope}-{endpoint}-{release.id if release else 'standing'}"
        self.runs.setdefault(run, "")
        return run

    def close_run(self, run: str, outcome: str) -> None:
        """See ``ports.Registry``."""
        self._up()
        self.runs[run] = outcome

    def record(self, scope: str, change: RoutingChange, objects: Mapping[str, Object]) -> None:
        """See ``ports.Registry``."""
        self._up()
        self.artifacts.setdefault(change.id, dict(objects))
        self._changes.setdefault((scope, change.endpoint), {}).setdefault(change.id, change)

    def history(self, scope: str, endpoint: str) -> Sequence[RoutingChange]:
        """See ``ports.Registry``."""
        self._up()
        return sorted(self._changes.get((scope, endpoint), {}).values(), key=lambda change: change.sequence)

    def publish(self, standing: Standing) -> None:
        """See ``ports.Registry``."""
        self._up()
        start = f"istio.{standing.scope}.{standing.endpoint}."
        for label in (*standing.removed, *(served.version for served in standing.served)):
            kept = {key: value for key, value in self.tags.get(label, {}).items() if not key.startswith(start)}
            self.tags[label] = kept
        for served in standing.served:
            self.tags[served.version] |= served.tags(standing.scope, standing.endpoint)
        for key, version in standing.aliases.items():
            if version is not None:
                self.aliases[key] = version
                self.owners[key] = standing.owner
            elif self.owners.get(key) == standing.owner:
                self.aliases.pop(key, None)
                if key[0] not in standing.models:
                    del self.owners[key]

    def _up(self) -> None:
        if self.down:
            raise RegistryError("the registry can't be reached (in-memory, down)")


class InMemoryMetrics:
    """A Metrics in a dict: tell it what each deployment has answered.

    Attributes:
        down: Whether every read fails as if the source were gone.
        silent: Deployments whose data are missing or too old.
        edges: Upper edges of the latency histogram in milliseconds, without infinity.
        reads: How often it was read.
    """

    def __init__(self, edges: Sequence[float] = (5, 10, 25, 50, 100, 250, 500, 1000)) -> None:
        self._counters: dict[str, dict[str, float]] = {}
        self.down = False
        self.silent: set[str] = set()
        self.edges = tuple(edges)
        self.reads = 0

    @property
    def name(self) -> str:
        """See ``ports.Metrics``."""
        return "the in-memory metrics"

    def serve(self, deployment: str, requests: int, *, errors: int = 0, milliseconds: float = 7.0) -> None:
        """Count answers that all took the same time."""
        slow_enough = [edge for edge in (*self.edges, float("inf")) if milliseconds <= edge]
        self.count(deployment, {REQUESTS: requests, ERRORS: errors})
        self.count(deployment, {latency_series(edge): 0 for edge in self.edges})
        self.count(deployment, {latency_series(edge): requests for edge in slow_enough})

    def count(self, deployment: str, growth: Mapping[str, float]) -> None:
        """Let any series grow, such as a KPI's (``core.measures.KpiCounts.series``)."""
        counters = self._counters.setdefault(deployment, {})
        for series, value in growth.items():
            counters[series] = counters.get(series, 0.0) + value

    def restart(self, deployment: str) -> None:
        """Let the deployment's counters start again from 0."""
        self._counters[deployment] = dict.fromkeys(self._counters.get(deployment, {}), 0.0)

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:  # noqa: ARG002
        """See ``ports.Metrics``."""
        self.reads += 1
        if self.down:
            raise MetricsError(f"{self.name} can't be reached (in-memory, down)")
        return {
            name: {"in-memory": dict(self._counters[name])}
            for name in deployments
            if name in self._counters and name not in self.silent
        }


class StillClock:
    """A Clock that moves only when somebody sleeps."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)) -> None:
        self._now = start
        self._elapsed = 0.0

    def now(self) -> datetime:
        """See ``ports.Clock``."""
        return self._now

    def monotonic(self) -> float:
        """See ``ports.Clock``."""
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        """See ``ports.Clock``."""
        self._elapsed += seconds
        self._now = self._now + timedelta(seconds=seconds)


__all__ = ["InMemoryCluster", "InMemoryMetrics", "InMemoryRegistry", "StillClock"]
