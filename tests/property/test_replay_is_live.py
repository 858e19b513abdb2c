"""A replay ends as a driver would that reads the same counts, at the same look and for the same reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS, latency_series
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan, auto_guards
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.core.release.replay import Counts, Traffic, replayed
from mlflow_istio.releases.driving.drive import Seen
from mlflow_istio.releases.driving.opening import open_release
from mlflow_istio.releases.driving.progressive import drive
from mlflow_istio.testing import StillClock
from tests.support.simulated_users import Stage, a_plan, a_release_request

EDGES = (50, 250, 1000)
INTERVAL = 10.0
NAMES = ("churn-v1", "churn-v2")

plans = st.builds(
    a_plan,
    steps=st.sampled_from([(10,), (5, 25, 50)]),
    interval=st.just(INTERVAL),
    hold=st.sampled_from([0.0, 20.0]),
    warmup=st.sampled_from([0.0, 15.0, 30.0]),
    min_requests=st.sampled_from([0, 50]),
    deadline=st.sampled_from([95.0, 300.0]),
    no_data=st.sampled_from(["hold", "rollback"]),
    undecided=st.sampled_from(["rollback", "hold"]),
    promote=st.sampled_from([True, True, False]),
    guards=st.sampled_from(
        [auto_guards(), auto_guards()[:1], (GuardPlan(name="slo", kind="objective", limit=0.2),), ()],
    ),
)
versions = st.fixed_dictionaries(
    {
        "errors": st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]),
        "slow": st.sampled_from([0.01, 0.1, 0.6]),
        "silent": st.sampled_from([0.0, 0.0, 0.2]),
    }
)


def traffic_of(seed: int, rate: float, how: Mapping[str, Mapping[str, float]]) -> Traffic:
    """Counts that depend on the look and the weights alone, so that both may ask for them."""

    def counts(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        rng = np.random.default_rng((seed, look))
        given = {}
        for name in NAMES:
            requests = int(rng.binomial(round(rate * INTERVAL), weights[name] / 100))
            slower = requests - int(rng.binomial(requests, 0.5)), int(rng.binomial(requests, how[name]["slow"]) // 2)
            given[name] = Counts(
                requests=requests,
                errors=int(rng.binomial(requests, how[name]["errors"])),
                slower_than=dict(zip(EDGES, (max(slower), min(slower), min(slower) // 3), strict=True)),
            )
        return {name: given[name] for name in NAMES if rng.random() >= how[name]["silent"]}

    return counts


class GivenClock(StillClock):
    """A clock whose every interval brings the counts that are given for it."""

    def __init__(self, stage: Stage, traffic: Traffic) -> None:
        super().__init__()
        self._stage, self._traffic, self._look = stage, traffic, 0

    def sleep(self, seconds: float) -> None:
        assert seconds == INTERVAL
        super().sleep(seconds)
        self._look += 1
        metrics = self._stage.users.metrics
        weights = {name: self._stage.world.endpoint().traffic.weights.get(name, 0) for name in NAMES}
        given = self._traffic(self._look, weights)
        metrics.silent = {name for name in NAMES if name not in given and weights[name]}
        for name in NAMES:
            metrics.count(name, {REQUESTS: 0, ERRORS: 0})
        if metrics.silent - self._excused():
            given = {}  # what the silent one has answered is not known, so in a replay the interval counts for nobody
        for name, counts in given.items():
            within = {latency_series(edge): counts.requests - slower for edge, slower in counts.slower_than.items()}
            everything = {latency_series(float("inf")): counts.requests}
            metrics.count(name, {REQUESTS: counts.requests, ERRORS: counts.errors, **within, **everything})

    def _excused(self) -> set[str]:
        """For whom nobody waits: a stable that serves nothing."""
        progress = self._stage.world.endpoint().progress
        broken = bool(progress) and progress_from_text(str(progress)).evidence.stable_failed
        return {NAMES[0]} if broken else set()


def driven(plan: ReleasePlan, traffic: Traffic) -> tuple[str, int, str]:
    """Outcome, look and reason of a release that is driven on in-memory ports."""
    stage = Stage()
    clock = GivenClock(stage, traffic)
    looks: list[Seen] = []
    context = replace(stage.world.context, clock=clock)
    dependencies = replace(stage.dependencies, watch=looks.append)
    values = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    open_release(context, dependencies, a_release_request({}, **values))
    clock.sleep(INTERVAL)
    ending = drive(context, dependencies, "churn")
    outcome = "open" if ending.outcome == "held" else ending.outcome
    return outcome, looks[-1].progress.looks, ending.reason


@given(
    plan=plans,
    seed=st.integers(0, 2**32),
    rate=st.sampled_from([0.3, 5.0, 30.0, 200.0]),
    stable=versions,
    candidate=versions,
)
@settings(max_examples=40, deadline=None)
def test_a_replay_and_a_drive_end_the_same_way_at_the_same_look(
    plan: ReleasePlan, seed: int, rate: float, stable: Mapping[str, float], candidate: Mapping[str, float]
) -> None:
    traffic = traffic_of(seed, rate, dict(zip(NAMES, (stable, candidate), strict=True)))
    replay = replayed(plan, traffic, looks=40)
    assert (replay.outcome, replay.look, replay.reason) == driven(plan, traffic)
