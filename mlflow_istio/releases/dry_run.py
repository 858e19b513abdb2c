"""Run a use-case without applying anything: the same code on ports that remember writes instead of doing them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from mlflow_istio.core.basics.model_version import ModelReference, ModelVersion
from mlflow_istio.core.basics.objects import Object, labels_of, name_of, wanted_replicas
from mlflow_istio.core.endpoint.registry_state import RegistryState
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.inspection.difference import difference
from mlflow_istio.core.matching.probe import Probe
from mlflow_istio.ports.cluster import Address, Cluster, Edit
from mlflow_istio.ports.registry import Registry, Survey
from mlflow_istio.ports.runs import Figure, Runs


class DryCluster:
    """A Cluster whose writes stay in memory, over one that is only read."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._written: dict[tuple[str, str], Object | None] = {}
        self._before: dict[tuple[str, str], Object | None] = {}

    @property
    def scope(self) -> str:
        """See ``ports.Cluster``."""
        return self._cluster.scope

    @property
    def place(self) -> str:
        """See ``ports.Cluster``."""
        return self._cluster.place

    def get(self, kind: str, name: str) -> Object | None:
        """See ``ports.Cluster``."""
        if (kind, name) in self._written:
            return copy.deepcopy(self._written[(kind, name)])
        return self._cluster.get(kind, name)

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        """See ``ports.Cluster``."""
        real = {name_of(obj): obj for obj in self._cluster.list(kind, labels)}
        for (its_kind, name), obj in self._written.items():
            if its_kind == kind:
                real.pop(name, None)
                if obj is not None and labels.items() <= labels_of(obj).items():
                    real[name] = copy.deepcopy(obj)
        return [real[name] for name in sorted(real)]

    def apply(self, obj: Object) -> Object:
        """See ``ports.Cluster``."""
        return self._write(str(obj["kind"]), name_of(obj), obj)

    def edit(self, kind: str, name: str, change: Edit) -> tuple[Object | None, Object]:
        """See ``ports.Cluster``."""
        before = self.get(kind, name)
        after = change(copy.deepcopy(before))
        return before, after if after == before else self._write(kind, name, after)

    def delete(self, kind: str, name: str) -> bool:
        """See ``ports.Cluster``."""
        if self.get(kind, name) is None:
            return False
        self._write(kind, name, None)
        return True

    def wait_ready(self, deployment: str, timeout: float) -> None:
        """Nothing to wait for: pods that a dry run adds are taken to come up."""

    def wait_routed(self, probe: Probe, timeout: float) -> Sequence[str]:
        """Nothing to wait for: a dry run does not reach the proxies."""
        del timeout
        return (f"(not asked: {probe.purpose})",)

    def address(self, virtual_service: str) -> Address:
        """The address, or a placeholder for one that only the dry run has."""
        if self._cluster.get("VirtualService", virtual_service) is None:
            return Address(url="(known once the endpoint exists)")
        return self._cluster.address(virtual_service)

    def difference(self) -> str:
        """What would have been written, as unified differences of YAML; empty when nothing would."""
        return "\n".join(
            part
            for key, after in self._written.items()
            if (part := difference(key[0], key[1], self._before[key], after))
        )

    def _write(self, kind: str, name: str, obj: Object | None) -> Object:
        key = (kind, name)
        self._before.setdefault(key, self._cluster.get(kind, name))
        stored = copy.deepcopy(obj)
        if stored is not None and kind == "Deployment":
            replicas = wanted_replicas(stored)
            stored["status"] = {"replicas": replicas, "readyReplicas": replicas}
        self._written[key] = stored
        return copy.deepcopy(stored) or {}


class DryRegistry:
    """A Registry that only reads, and remembers what it was to record: a use-case of several changes asks for the earlier ones."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._recorded: dict[tuple[str, str], RoutingChange] = {}

    def resolve(self, reference: ModelReference) -> ModelVersion:
        """See ``ports.Registry``."""
        return self._registry.resolve(reference)

    def check_aliases(self, model: str, aliases: Sequence[str], owner: str) -> None:
        """See ``ports.Registry``."""
        self._registry.check_aliases(model, aliases, owner)

    def check_place(self, scope: str, endpoint: str, *, take_over: bool = False) -> None:
        """See ``ports.Registry``; nothing is taken over."""
        if not take_over:
            self._registry.check_place(scope, endpoint)

    def open_run(self, scope: str, endpoint: str, release: Release | None, *, new: bool = False) -> str:
        """No run is opened."""
        del scope, endpoint, new
        return f"(dry run of {release.id if release else 'the standing run'})"

    def check_run(self, scope: str, endpoint: str, release: Release) -> None:
        """See ``ports.Registry``."""
        self._registry.check_run(scope, endpoint, release)

    def close_run(self, run: str, outcome: str) -> None:
        """No run is closed."""

    def record(self, scope: str, change: RoutingChange, objects: Mapping[str, Object]) -> tuple[str, ...]:
        """Nothing is recorded, but remembered."""
        del objects
        self._recorded[(scope, change.id)] = change
        return ()

    def history(self, scope: str, endpoint: str) -> Sequence[RoutingChange]:
        """What is recorded, and after it what only the dry run has."""
        real = self._registry.history(scope, endpoint)
        known = {change.id for change in real}
        ours = [
            change
            for (its_scope, _), change in self._recorded.items()
            if (its_scope, change.endpoint) == (scope, endpoint) and change.id not in known
        ]
        return [*real, *ours]

    def survey(self, scope: str, models: Sequence[str]) -> Survey:
        """See ``ports.Registry``."""
        return self._registry.survey(scope, models)

    def publish(self, standing: RegistryState) -> tuple[str, ...]:
        """Nothing is published."""
        del standing
        return ()


class DryRuns:
    """A Runs that only reads."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def keep(
        self,
        run: str,
        *,
        figures: Mapping[str, float] | None = None,
        step: int = 0,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is kept."""

    def figures(self, run: str) -> Mapping[str, Sequence[Figure]]:
        """See ``ports.Runs``."""
        return self._runs.figures(run)

    def text(self, run: str, path: str) -> str | None:
        """See ``ports.Runs``."""
        return self._runs.text(run, path)

    def tag(self, label: str, key: str) -> str | None:
        """See ``ports.Runs``."""
        return self._runs.tag(label, key)
