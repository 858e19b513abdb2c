"""What the use-cases need from the outside world.

Each Protocol has one contract suite (``tests/contract``) that every implementation passes, the in-memory ones of
``mlflow_istio.testing`` included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias, runtime_checkable

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.endpoint import Release
from mlflow_istio.core.model_card import ModelCard
from mlflow_istio.core.model_version import ModelReference, ModelVersion
from mlflow_istio.core.objects import Object
from mlflow_istio.core.probe import Probe
from mlflow_istio.core.routing_change import RoutingChange
from mlflow_istio.core.standing import Standing

Edit: TypeAlias = Callable[[Object | None], Object]
"""A pure function from the object as it is (None when absent) to the object as it should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """How a caller reaches an endpoint.

    Attributes:
        url: Base URL; scoring is ``POST {url}{scoring}``.
        headers: Headers to send with every request (on the local mesh none but those that an endpoint's own match asks for).
        scoring: Path of scoring below the URL; another one only where an adopted route takes exact paths.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    scoring: str = "/invocations"


@runtime_checkable
class Cluster(Protocol):
    """What runs deployments and routes: real Kubernetes with Istio, or the local mesh.

    Objects are raw dicts of the kinds ``Deployment``, ``Service``, ``DestinationRule`` and ``VirtualService``.
    Nothing handed in is changed, nothing handed out is shared.
    """

    @property
    def scope(self) -> str:
        """Where this is, for the registry's names: the namespace, or ``local-MESH``."""

    def get(self, kind: str, name: str) -> Object | None:
        """The object, or None when there is none.

        A Deployment carries a current ``status.replicas`` and ``status.readyReplicas``.

        Raises:
            ClusterError: The cluster can't be reached or refuses.
        """

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        """The objects of a kind that carry all the labels, ordered by name."""

    def apply(self, obj: Object) -> Object:
        """Create the object or set the fields that we own, and return it as stored.

        Applying the same object twice changes nothing the second time.

        Raises:
            Unsupported: A field that this cluster can't carry out; nothing was applied.
            ClusterError: The cluster refused (a webhook's words in ``detail``); nothing was applied.
        """

    def edit(self, kind: str, name: str, change: Edit) -> tuple[Object | None, Object]:
        """Read, apply a pure function, and write under optimistic concurrency; reread and reapply on conflict.

        When ``change`` returns an object equal to what it got, nothing is written.

        Args:
            kind: The object's kind.
            name: The object's name.
            change: Gets the object as it is, or None when it is absent (what it returns is then created).
                An exception it raises passes through, with nothing written.

        Returns:
            The object before (None if it was created) and after, as stored.

        Raises:
            EditConflict: Others kept changing it until the retries ran out.
            Unsupported: As for ``apply``; nothing was written.
            ClusterError: The cluster refused; nothing was written.
        """

    def delete(self, kind: str, name: str) -> bool:
        """Delete the object; False when there was none. Deleting a Deployment ends its processes."""

    def wait_ready(self, deployment: str, timeout: float) -> None:
        """Block until all desired replicas of a Deployment's current revision are ready.

        Args:
            deployment: Name of the Deployment.
            timeout: Seconds.

        Raises:
            NotReady: It did not come up; ``detail`` has the last log lines. Zero desired replicas are never ready.
            NotFound: There is no such Deployment.
        """

    def wait_routed(self, probe: Probe, timeout: float) -> Sequence[str]:
        """Ask every reachable proxy until it gives the answer that proves the probe.

        Returns:
            The proxies that proved it; empty when this cluster has no proxy we can reach (which proves nothing).

        Raises:
            NotRouted: A reachable proxy did not give the answer in time.
        """

    def address(self, virtual_service: str) -> Address:
        """How to reach the hosts of a VirtualService; ``desk.address_of`` knows how to reach an endpoint.

        Raises:
            NotFound: There is none of that name.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the registry says of a scope besides its history, for ``doctor``.

    Attributes:
        open_runs: Endpoint to (release id to run), for releases whose run has not ended; every endpoint it ever knew is a key.
        tags: ``MODEL/VERSION`` to those of its tags that are ours in this scope.
        aliases: (registered model, alias) to version number.
        owners: (registered model, alias) to the ``SCOPE/ENDPOINT`` that owns it.
    """

    open_runs: Mapping[str, Mapping[str, str]]
    tags: Mapping[str, Mapping[str, str]]
    aliases: Mapping[tuple[str, str], int]
    owners: Mapping[tuple[str, str], str]


@runtime_checkable
class Registry(Protocol):
    """The MLflow model registry and tracking server: the ledger. It has no compare-and-swap, so it is never the lock."""

    def resolve(self, reference: ModelReference) -> ModelVersion:
        """Turn a reference into a version number, once, and check that its files are there.

        Raises:
            NotFound: No such model, version, alias, or its files are gone.
            RegistryError: The registry can't be reached.
        """

    def check_aliases(self, model: str, aliases: Sequence[str], owner: str) -> None:
        """Refuse aliases of a registered model that another endpoint owns.

        Raises:
            StateConflict: Another SCOPE/ENDPOINT owns one; says which option to set.
            RegistryError: The registry can't be reached.
        """

    def open_run(self, scope: str, endpoint: str, release: Release | None) -> str:
        """The id of the MLflow run of a release (or the endpoint's standing run), created if there is none yet.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def close_run(self, run: str, outcome: str) -> None:
        """End a release's run with its outcome; ending it twice is fine.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def record(self, scope: str, change: RoutingChange, objects: Mapping[str, Object]) -> None:
        """Write one routing change; writing the same change again changes nothing.

        Args:
            scope: Scope of the endpoint.
            change: The change; without a run it goes to its release's run or the standing run.
            objects: Artifacts by file stem, such as ``before`` and ``after``; may be empty.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def history(self, scope: str, endpoint: str) -> Sequence[RoutingChange]:
        """All recorded changes of an endpoint, by sequence.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def survey(self, scope: str, models: Sequence[str]) -> Survey:
        """What the registry says of a scope now.

        Args:
            scope: The scope.
            models: Registered models whose tags and aliases are wanted.

        Raises:
            RegistryError: The registry can't be reached.
        """

    def publish(self, standing: Standing) -> None:
        """Make the tags and aliases say what stands now; writes only what differs.

        An alias that points to nothing is taken away, and is free for another endpoint once no version of its model is served.

        Raises:
            RegistryError: The registry can't be reached.
        """


@runtime_checkable
class Models(Protocol):
    """What model versions say of themselves."""

    def card(self, label: str) -> ModelCard:
        """Signature and input example of the model version ``MODEL/VERSION``.

        Raises:
            NotFound: There is no such version, or its files are gone.
            RegistryError: The registry can't be reached.
        """


@runtime_checkable
class Metrics(Protocol):
    """Where the counts of requests, errors, latencies and KPIs come from.

    The names of the series stand in ``core.measures``; all are raw cumulative counters, for ``CounterState`` to
    difference. Only live split traffic may be counted (no pinned, probe or mirrored requests) where the source can tell
    them apart; an implementation's docstring says where it can't.
    """

    @property
    def name(self) -> str:
        """What errors and warnings call it, such as ``Prometheus at http://localhost:9090``."""

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        """The counters now: deployment -> {source: {series: value}}.

        A deployment without data is absent, never a zero made up; data that are too old count as absent.

        Args:
            endpoint: The endpoint.
            deployments: Names of the deployments to read.

        Raises:
            MetricsError: The source can't be reached, refuses, or gave what can't be read.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One point of a metric of a run.

    Attributes:
        time: When it was taken, in UTC.
        step: Number of the look, or sequence of the change.
        value: Its value.
    """

    time: datetime
    step: int
    value: float


@runtime_checkable
class Runs(Protocol):
    """What a release's MLflow run holds besides its routing changes: figures of each look, and texts such as the report."""

    def keep(
        self,
        run: str,
        *,
        figures: Mapping[str, float] | None = None,
        step: int = 0,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Write metrics at a step, and text artifacts by path; a text of the same path is replaced.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def figures(self, run: str) -> Mapping[str, Sequence[Figure]]:
        """Every metric of the run with its history, by step.

        Raises:
            NotFound: There is no such run.
            RegistryError: The tracking server can't be reached.
        """

    def text(self, run: str, path: str) -> str | None:
        """One text artifact, or None when there is none.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def tag(self, label: str, key: str) -> str | None:
        """A tag of the model version ``MODEL/VERSION``, or None when it does not have it: how a person approves in the registry.

        Raises:
            NotFound: There is no such model version.
            RegistryError: The registry can't be reached.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What the recorders of a deployment's servers hold.

    Attributes:
        records: The records as written: ``request_id``, ``time``, ``deployment``, ``status``, ``ms``, perhaps ``output``,
            ``input``.
        complete_since: Unix seconds since which no record was lost to rotation; 0 when none ever was.
    """

    records: Sequence[Mapping[str, Any]]
    complete_since: float = 0.0


class Records(Protocol):
    """The recorders of model servers, for shadow comparison."""

    def read(self, endpoint: str, deployment: str, replicas: int) -> Recorded:
        """All that the servers of a deployment have kept.

        Args:
            endpoint: The endpoint.
            deployment: The deployment.
            replicas: How many servers it has.

        Raises:
            StateConflict: They record nothing; says which variables to set.
            ClusterError: They can't be reached, or refuse.
        """


class Clock(Protocol):
    """Time, so that tests need not wait for it."""

    def now(self) -> datetime:
        """The time in UTC, with its zone."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
