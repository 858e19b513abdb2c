"""A world whose users send requests while a driver sleeps, for the tests of progressive releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan, auto_guards
from mlflow_istio.errors import NotFound
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.driving.drive import DriverDependencies, DriveResult
from mlflow_istio.releases.driving.opening import ReleaseRequest, open_release
from mlflow_istio.releases.driving.progressive import drive
from mlflow_istio.testing import InMemoryMetrics, StillClock
from tests.support.in_memory import Killed, Numbers, World, a_request, a_world


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How a deployment answers: its share of failures, its milliseconds, and how much longer with all traffic on one replica."""

    errors: float = 0.01
    milliseconds: float = 8.0
    queueing: float = 0.0
    kpis: Mapping[str, float] = field(default_factory=dict)


class BusyClock(StillClock):
    """A clock during whose sleeps users send requests; things may be planned for a second of its time."""

    def __init__(self, users: Users) -> None:
        super().__init__()
        self._users = users

    def sleep(self, seconds: float) -> None:
        start = self.monotonic()
        super().sleep(seconds)
        self._users.send(seconds)
        for at in [at for at in self._users.plans if start < at <= self.monotonic()]:
            self._users.plans.pop(at)()


@dataclass(kw_only=True)
class Users:
    """Callers who follow the endpoint's weights.

    Attributes:
        world: Where they send.
        metrics: What counts their requests.
        behaviours: How each deployment answers.
        rate: Requests a second.
        plans: What happens at a second of the clock.
        lost: Requests that failed though the stable would have answered them.
    """

    world: World
    metrics: InMemoryMetrics = field(default_factory=InMemoryMetrics)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    rate: float = 100.0
    plans: dict[float, Callable[[], None]] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def send(self, seconds: float) -> None:
        try:
            endpoint = self.world.endpoint()
        except NotFound:
            return
        weights = endpoint.traffic.weights
        names = list(weights)
        counts = self.rng.multinomial(round(self.rate * seconds), [weights[name] / 100 for name in names])
        for name, count in zip(names, counts, strict=True):
            how = self.behaviours.get(name, Behaviour())
            errors = int(self.rng.binomial(count, how.errors))
            slow = int(self.rng.binomial(count, 0.1))
            milliseconds = how.milliseconds * (1 + how.queueing * self._load(name, weights[name]))
            self.metrics.serve(name, int(count) - slow, errors=errors, milliseconds=milliseconds)
            self.metrics.serve(name, slow, milliseconds=milliseconds * 5)
            for kpi, rate in how.kpis.items():
                self.metrics.count(
                    name, {f"kpi/{kpi}/n": int(count), f"kpi/{kpi}/events": int(self.rng.binomial(count, rate))}
                )

    def _load(self, name: str, weight: int) -> float:
        """What one replica of a deployment has to answer, as a part of all traffic."""
        found = self.world.cluster.get("Deployment", name)
        replicas = 1 if found is None else max(1, int(found["spec"].get("replicas", 1)))
        return weight / 100 / replicas


@dataclass(kw_only=True)
class Stage:
    """Everything a progressive release needs, in memory; churn-v1 is stable, churn-v2 is to be released."""

    world: World = field(default_factory=lambda: a_world("churn-v1"))
    users: Users = field(init=False)
    clock: BusyClock = field(init=False)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    says: Callable[[str, Mapping[str, Any]], str] = lambda _url, _payload: ""
    ids: Any = field(default_factory=Numbers)

    def __post_init__(self) -> None:
        self.users = Users(world=self.world)
        self.clock = BusyClock(self.users)

    @property
    def context(self) -> Context:
        return replace(self.world.context, clock=self.clock)

    @property
    def dependencies(self) -> DriverDependencies:
        return DriverDependencies(metrics=self.users.metrics, ask=self.ask)

    def ask(self, url: str, payload: Mapping[str, Any], timeout: float) -> str:
        words = self.says(url, payload)
        self.asked.append((str(payload["event"]), str(payload["gate"]), words))
        return words

    def open(self, *, request: Mapping[str, Any] | None = None, **plan: Any) -> str:
        self.users.send(60)  # a history, from which the edges are chosen
        return open_release(self.context, self.dependencies, a_release_request(dict(request or {}), **plan))

    def drive(self, **how: Any) -> DriveResult:
        return drive(self.context, self.dependencies, "churn", **how)

    def release(self, **plan: Any) -> DriveResult:
        self.open(**plan)
        return self.drive()

    def weights_seen(self) -> list[int]:
        """churn-v2's weight after each recorded change."""
        return [
            change.after.weights.get("churn-v2", 0)
            for change in self.world.registry.history("prod", "churn")
            if change.after
        ]

    def outcome(self) -> str:
        endpoint = self.world.endpoint()
        return endpoint.last.outcome if endpoint.last else "open"


def a_plan(**changes: Any) -> ReleasePlan:
    values: dict[str, Any] = {
        "strategy": "canary",
        "stable": "churn-v1",
        "candidates": ("churn-v2",),
        "steps": (10, 50),
        "interval": 5.0,
        "hold": 20.0,
        "min_requests": 100,
        "deadline": 3600.0,
        "guards": auto_guards(),
    }
    return ReleasePlan(**{**values, **changes})


def a_release_request(request: dict[str, Any], **plan: Any) -> ReleaseRequest:
    def make(endpoint: Endpoint) -> ReleasePlan:
        return a_plan(**{"stable": endpoint.stable.name, **plan})

    values: dict[str, Any] = {
        "endpoint": "churn",
        "plan": make,
        "candidates": ("churn-v2",),
        "strategy": plan.get("strategy", "canary"),
        "deployments": (a_request("churn-v2"),),
    }
    return ReleaseRequest(**{**values, **request})


ERRORS = (GuardPlan(name="errors", kind="errors", allowed=NonInferiorityMargin(rate_difference=0.03)),)
QUICK: dict[str, Any] = {"guards": ERRORS, "hold": 10.0}


def a_stage(**behaviours: Behaviour) -> Stage:
    stage = Stage()
    stage.users.behaviours = {name.replace("_", "-"): how for name, how in behaviours.items()}
    return stage


def kill() -> None:
    raise Killed
