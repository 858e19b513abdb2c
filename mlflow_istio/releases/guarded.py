"""Carry out a plan only on the endpoint it was made for: a Cluster that looks again inside every edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.endpoint.endpoint import has_endpoint
from mlflow_istio.core.inspection.fingerprint import fingerprint, fits, moved
from mlflow_istio.core.matching.probe import Probe
from mlflow_istio.errors import MlflowIstioError, StateConflict
from mlflow_istio.ports.cluster import Address, Cluster, Edit
from mlflow_istio.releases.context import find_virtual_service


class GuardedCluster:
    """A Cluster that refuses to write once an endpoint is not as it was planned on.

    Its own edits move what it expects along, so that a plan of several steps can be carried out. It may begin at any state that the
    plan goes through, so that a plan whose command died can be given again.

    Args:
        cluster: The cluster.
        endpoint: The endpoint.
        states: Fingerprints that the plan goes through, the first at the time of the plan; empty while it is being made.

    Attributes:
        states: All fingerprints so far.

    Raises:
        StateConflict: The endpoint is in none of these states; names what has moved.
    """

    def __init__(self, cluster: Cluster, endpoint: str, states: Sequence[Mapping[str, str]] = ()) -> None:
        self._cluster = cluster
        self._endpoint = endpoint
        self._expected: Mapping[str, str] = self._now()
        self.states = [dict(self._expected)]
        if states and not any(fits(state, self._expected) for state in states):
            raise self._moved(states[0], self._expected)

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
        return self._cluster.get(kind, name)

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        """See ``ports.Cluster``."""
        return self._cluster.list(kind, labels)

    def apply(self, obj: Object) -> Object:
        """See ``ports.Cluster``. A new object is made only for an endpoint that is as planned."""
        if self._cluster.get(str(obj["kind"]), name_of(obj)) is None:
            self._check()
        return self._cluster.apply(obj)

    def edit(self, kind: str, name: str, change: Edit) -> tuple[Object | None, Object]:
        """See ``ports.Cluster``. The endpoint is compared with the plan inside the edit, on the object that is written."""
        if kind not in ("VirtualService", "DestinationRule"):
            return self._cluster.edit(kind, name, change)

        def guarded(obj: Object | None) -> Object:
            fingerprint = self._now(kind, name, obj)
            try:
                after = change(obj)
            except MlflowIstioError as exc:  # what the plan did not foresee says more than what it led to
                if fingerprint != self._expected:
                    raise self._moved(self._expected, fingerprint) from exc
                raise
            if after != obj and fingerprint != self._expected:
                raise self._moved(self._expected, fingerprint)
            return after

        before, after = self._cluster.edit(kind, name, guarded)
        self._went_to(self._now(kind, name, after))
        return before, after

    def delete(self, kind: str, name: str) -> bool:
        """See ``ports.Cluster``."""
        self._check()
        gone = self._cluster.delete(kind, name)
        self._went_to(self._now())
        return gone

    def wait_ready(self, deployment: str, timeout: float) -> None:
        """See ``ports.Cluster``."""
        self._cluster.wait_ready(deployment, timeout)

    def wait_routed(self, probe: Probe, timeout: float) -> Sequence[str]:
        """See ``ports.Cluster``."""
        return self._cluster.wait_routed(probe, timeout)

    def address(self, virtual_service: str) -> Address:
        """See ``ports.Cluster``."""
        return self._cluster.address(virtual_service)

    def _now(self, kind: str = "", name: str = "", obj: Object | None = None) -> dict[str, str]:
        """The endpoint's fingerprint, with one object as it is in the edit's hands."""
        endpoint = self._endpoint
        virtual_service = find_virtual_service(self._cluster, endpoint)
        if kind == "VirtualService":
            if obj is not None and has_endpoint(obj, endpoint):
                virtual_service = obj
            elif virtual_service is not None and name_of(virtual_service) == name:
                virtual_service = None  # the object in hand does not carry the endpoint (yet, or any more)
        in_hand = kind == "DestinationRule" and name == endpoint
        rule = obj if in_hand else self._cluster.get("DestinationRule", endpoint)
        return fingerprint(virtual_service, rule, endpoint)

    def _went_to(self, state: dict[str, str]) -> None:
        self._expected = state
        if state != self.states[-1]:
            self.states.append(dict(state))

    def _check(self) -> None:
        now = self._now()
        if now != self._expected:
            raise self._moved(self._expected, now)

    def _moved(self, expected: Mapping[str, str], present: Mapping[str, str]) -> StateConflict:
        differences = "; ".join(moved(expected, present))
        return StateConflict(
            f"the plan no longer fits endpoint '{self._endpoint}': {differences}: look at it, and make a new plan"
        )
