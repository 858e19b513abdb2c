"""The driver when something is broken, how a release is opened and tried, and strategies with a comparison of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.adapters.figures.kpis import KpiMetrics
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.basics.model_card import Column, ModelCard
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.core.release.plan import GuardPlan
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.errors import (
    ClusterError,
    InvalidInput,
    NotFound,
    RegistryError,
    StateConflict,
)
from mlflow_istio.releases.driving.drive import DriverDependencies
from mlflow_istio.releases.driving.opening import open_release, release
from mlflow_istio.releases.driving.progressive import PATIENCE, drive
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import Killed, a_request
from tests.support.simulated_users import ERRORS, QUICK, Behaviour, Stage, a_release_request, a_stage, kill

# What may be broken


def test_a_registry_that_goes_down_blocks_neither_steps_nor_rollback() -> None:
    stage = a_stage(churn_v2=Behaviour(errors=0.06))
    stage.open(**QUICK)
    stage.world.registry.down = stage.world.runs.down = True
    assert stage.drive().outcome == "rolled-back"
    assert any("figures of a look could not be kept" in warning for warning in stage.world.warnings)
    assert any("wait on endpoint 'churn' itself" in warning for warning in stage.world.warnings)
    stage.world.registry.down = stage.world.runs.down = False
    shifting.rollback(stage.context, "churn")
    assert stage.world.history()[-1][1] == "rollback"


@pytest.mark.parametrize(("no_data", "outcome"), [("hold", "inconclusive"), ("rollback", "rolled-back")])
def test_a_source_of_figures_that_dies_follows_the_policy(no_data: Any, outcome: str) -> None:
    stage = a_stage()
    stage.users.plans[12.0] = lambda: setattr(stage.users.metrics, "down", True)
    ending = stage.release(**QUICK, no_data=no_data, deadline=600.0)
    assert ending.outcome == outcome
    assert "no data from the in-memory metrics" in ending.reason.lower().replace("no data", "no data")


def test_without_any_source_a_watched_release_does_not_start() -> None:
    stage = a_stage()
    stage.open(**QUICK, deadline=60.0)
    ending = drive(stage.context, DriverDependencies(), "churn")
    assert ending.outcome == "inconclusive"
    assert "metrics=none" in ending.reason
    assert stage.weights_seen()[-1] == 0


def test_counters_that_start_anew_are_no_evidence() -> None:
    stage = a_stage()
    stage.users.plans[12.0] = lambda: stage.users.metrics.restart("churn-v2")
    assert stage.release(**QUICK).outcome == "promoted"


def test_a_kpis_running_total_that_falls_is_no_data() -> None:
    """A callable that began anew, or a correction: taken for a restart, nearly all of it would be counted twice."""
    stage = a_stage()
    looks = {"churn-v1": 0, "churn-v2": 0}

    def sold(deployment: str) -> tuple[float, float]:
        looks[deployment] += 1
        n = 1000.0 * looks[deployment] if looks[deployment] < 4 else 900.0
        return n, n * 0.3

    stage.open(guards=(GuardPlan(name="sold", kind="rate", worse="lower"),), deadline=600.0)
    metrics = KpiMetrics(stage.users.metrics, [Kpi(name="sold", call=sold)])
    assert drive(stage.context, replace(stage.dependencies, metrics=metrics), "churn").outcome == "inconclusive"
    (warning,) = stage.world.warnings
    assert warning.startswith(
        "no figures: KPI 'sold' of 'churn-v1' had n=3000 and has 900 now, but counts so far only grow: "
    )


def test_an_answer_of_a_kpi_that_cannot_be_is_no_data_and_ends_no_driver() -> None:
    stage = a_stage()
    asked: list[str] = []

    def sold(deployment: str) -> tuple[float, float]:
        asked.append(deployment)
        n = 1000.0 * len(asked)
        return (n, n + 1) if len(asked) == 9 else (n, n // 10)

    stage.open(guards=(GuardPlan(name="sold", kind="rate", worse="lower"),), deadline=600.0)
    metrics = KpiMetrics(stage.users.metrics, [Kpi(name="sold", call=sold)])
    assert drive(stage.context, replace(stage.dependencies, metrics=metrics), "churn").outcome == "promoted"
    (warning,) = stage.world.warnings
    assert warning.startswith("no figures: for deployment 'churn-v1' KPI 'sold' gave 9001 events of 9000 observations")


SUMS = Kpi(name="spend", call=lambda deployment: (100, 1000, 20_000))
OF_THE_OTHER_KIND = (
    "KPI 'spend' gives sums of numbers (n, sum, sum of squares), but its guard counts events, so it can't be judged: list it in "
    '\'analysis\' as {"guard": "mean", "name": "spend"}'
)


def test_sums_are_not_taken_for_no_events() -> None:
    """A KPI that falls to a tenth would have as many events as before: none."""
    stage = a_stage()
    stage.open(guards=(GuardPlan(name="spend", kind="rate", worse="lower"),), deadline=600.0)
    dependencies = replace(stage.dependencies, metrics=KpiMetrics(stage.users.metrics, [SUMS]))
    ended = drive(stage.context, dependencies, "churn")
    assert (ended.outcome, stage.world.warnings) == ("inconclusive", [OF_THE_OTHER_KIND])
    assert "no data from spend" in ended.reason


def test_a_kpi_that_its_guard_cannot_judge_is_refused_before_anything_is_applied() -> None:
    stage = a_stage()
    dependencies = replace(stage.dependencies, metrics=KpiMetrics(stage.users.metrics, [SUMS]))
    request = a_release_request({}, guards=(GuardPlan(name="spend", kind="rate"),))
    with pytest.raises(InvalidInput, match=re.escape(OF_THE_OTHER_KIND)):
        open_release(stage.context, dependencies, request)
    assert stage.world.cluster.get("Deployment", "churn-v2") is None


def test_a_dead_stable_does_not_hold_up_the_fix() -> None:
    stage = a_stage(churn_v1=Behaviour(errors=1.0))
    ending = stage.release(**QUICK)
    assert ending.outcome == "promoted"
    assert ending.reason.startswith("The stable serves nothing")
    stage = a_stage(churn_v1=Behaviour(errors=1.0))
    stage.open(**QUICK)
    stage.world.cluster.unready.add("churn-v1")
    assert stage.drive().outcome == "promoted"


def test_a_candidate_that_loses_its_pods_gets_no_more_traffic_and_time_decides() -> None:
    stage = a_stage()
    stage.users.plans[8.0] = lambda: stage.world.cluster.unready.add("churn-v2")
    ending = stage.release(**QUICK, deadline=200.0)
    assert ending.outcome == "inconclusive"
    assert "has no ready replica" in ending.reason
    assert max(stage.weights_seen()) == 10


def test_a_candidate_whose_pods_come_back_goes_on() -> None:
    stage = a_stage()
    stage.users.plans[8.0] = lambda: stage.world.cluster.unready.add("churn-v2")
    stage.users.plans[100.0] = lambda: stage.world.cluster.unready.discard("churn-v2")
    assert stage.release(**QUICK).outcome == "promoted"


class Flaky:
    """A cluster that can't be reached for a while."""

    def __init__(self, cluster: Any, clock: Any, until: float) -> None:
        self._cluster, self._clock, self._until = cluster, clock, until

    def __getattr__(self, name: str) -> Any:
        if name == "get" and 20 < self._clock.monotonic() < self._until:
            raise ClusterError("no route to the API server", detail="said by a webhook\nand more")
        return getattr(self._cluster, name)


@pytest.mark.parametrize("until", [150.0, 20 + 3 * PATIENCE])
def test_a_cluster_that_can_not_be_reached_is_asked_again_for_a_while(until: float) -> None:
    stage = a_stage()
    stage.open(**QUICK)
    context = replace(stage.context, cluster=Flaky(stage.world.cluster, stage.clock, until))
    if until < PATIENCE:
        assert drive(context, stage.dependencies, "churn").outcome == "promoted"
        (said,) = (warning for warning in stage.world.warnings if "trying again: no route" in warning)
        assert said.endswith("(said by a webhook)")
    else:
        with pytest.raises(ClusterError, match="no route"):
            drive(context, stage.dependencies, "churn")
        stage.clock.sleep(until)
        assert stage.drive().outcome == "promoted"


# Opening


def test_a_release_needs_an_endpoint_with_a_stable() -> None:
    stage = a_stage()
    with pytest.raises(NotFound, match="there is no endpoint 'chrun'"):
        open_release(stage.context, stage.dependencies, a_release_request({"endpoint": "chrun"}))


def test_the_same_command_again_means_the_same_release_and_another_plan_is_refused() -> None:
    stage = a_stage()
    first = stage.open(**QUICK)
    assert open_release(stage.context, stage.dependencies, a_release_request({}, **QUICK)) == first
    with pytest.raises(StateConflict, match="open with another plan"):
        open_release(stage.context, stage.dependencies, a_release_request({}, hold=99.0))
    with pytest.raises(StateConflict, match=f"open release '{first}'"):
        open_release(
            stage.context,
            stage.dependencies,
            a_release_request({"candidates": ("churn-v3",)}, candidates=("churn-v3",)),
        )


@pytest.mark.parametrize("release_id", [None, "job-1"])
def test_a_release_that_an_earlier_version_opened_is_known_by_the_same_command(release_id: str | None) -> None:
    """Its plan says nothing of what came later, and today's fills that in where nothing is said."""
    stage = a_stage()
    told: list[str] = []
    context = replace(stage.context, tell=told.append)
    first = stage.open(request={"release_id": release_id}, **QUICK)
    today = {**QUICK, "control": "auto", "capacity": "follow", "warm": "auto"}
    request = a_release_request({"release_id": release_id}, **today)
    assert open_release(context, stage.dependencies, request) == first
    assert f"release '{first}' was opened by an earlier version of mlflow-istio, and goes on by its plan" in told
    assert stage.world.endpoint().release is not None
    other = a_release_request({"release_id": release_id}, **{**today, "control": "fresh"})
    with pytest.raises(StateConflict, match="another plan"):
        open_release(context, stage.dependencies, other)
    assert stage.drive().outcome == "promoted"
    if release_id:  # a pipeline's step that is run again after the end
        again = a_release_request({"release_id": release_id}, **today)
        assert open_release(context, stage.dependencies, again) == first


def test_superseding_returns_the_traffic_first_and_starts_counting_anew() -> None:
    stage = a_stage()
    first = stage.open(**QUICK)
    stage.users.plans[12.0] = kill
    with pytest.raises(Killed):
        stage.drive()
    second = open_release(
        stage.context, stage.dependencies, a_release_request({"supersede": True, "release_id": "two"}, **QUICK)
    )
    assert (first, second) != (second, first)
    progress = progress_from_text(stage.world.endpoint().progress or "")
    assert (progress.step, progress.looks, progress.evidence.requests) == (-1, 0, {})
    assert [action for _, action in stage.world.history()][-3:] == ["shift", "supersede", "start"]
    assert stage.drive().outcome == "promoted"


def test_superseding_with_an_id_that_only_the_registry_knows_ends_nobody_elses_release() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    used_up = Release(id="job-0", strategy="canary", candidates=("churn-v3",), opened=stage.context.clock.now())
    stage.context.registry.close_run(stage.context.registry.open_run("prod", "churn", used_up), "promoted")
    before = stage.world.text()
    again = {"supersede": True, "release_id": "job-0", "candidates": ("churn-v3",)}
    request = a_release_request({**again, "deployments": (a_request("churn-v3"),)}, candidates=("churn-v3",), **QUICK)
    with pytest.raises(StateConflict, match="'job-0' .* has ended as promoted, says the registry"):
        open_release(stage.context, stage.dependencies, request)
    assert stage.world.text() == before, "nothing was deployed either"


def test_a_release_without_a_plan_does_not_go_on_by_itself() -> None:
    stage = a_stage()
    stage.world.deploy("churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=10))
    with pytest.raises(StateConflict, match="opened without a plan"):
        open_release(stage.context, stage.dependencies, a_release_request({}, **QUICK))
    with pytest.raises(StateConflict, match="no release that goes on by itself"):
        stage.drive()


def test_what_is_stable_already_and_an_id_that_has_ended_are_refused() -> None:
    stage = a_stage()
    stage.release(**QUICK)
    with pytest.raises(InvalidInput, match="is stable already"):
        open_release(stage.context, stage.dependencies, a_release_request({}, **QUICK))
    last = stage.world.endpoint().last
    assert last is not None
    again = release(stage.context, stage.dependencies, a_release_request({"release_id": last.id}, **QUICK))
    assert again is not None
    assert (again.outcome, again.by_hand) == ("promoted", True)
    request: dict[str, Any] = {"release_id": last.id, "candidates": ("churn-v3",)}
    with pytest.raises(
        StateConflict,
        match="is a canary of churn-v2 .churn/2.: use another release_id for another plan .it has ended as promoted",
    ):
        open_release(stage.context, stage.dependencies, a_release_request(request, candidates=("churn-v3",)))


def test_a_candidate_that_is_not_there_is_refused_before_it_is_looked_at() -> None:
    """One that was misspelt, or is another endpoint's, has no model version whose example could be tried."""
    stage = a_stage()
    before = stage.world.text()
    request = a_release_request({"candidates": ("churn-v9",), "deployments": ()}, candidates=("churn-v9",), **QUICK)
    dependencies = replace(stage.dependencies, models=Cards())
    with pytest.raises(StateConflict, match="endpoint 'churn' has no deployment 'churn-v9': deploy it first"):
        open_release(stage.context, dependencies, request)
    assert stage.world.text() == before


def test_detached_it_only_opens() -> None:
    stage = a_stage()
    assert release(stage.context, stage.dependencies, a_release_request({"detach": True}, **QUICK)) is None
    assert stage.world.endpoint().release is not None
    assert stage.drive().outcome == "promoted"


# Preflight


class Cards:
    """What model versions say of themselves."""

    def __init__(self, **cards: ModelCard | Exception) -> None:
        self._cards = cards

    def card(self, label: str) -> ModelCard:
        found = self._cards["v" + label.rpartition("/")[2]]
        if isinstance(found, Exception):
            raise found
        return found


AGE = Column(name="age", type="long")
CARD = ModelCard(inputs=(AGE,), outputs=(Column(name="score", type="double"),), example='{"inputs": [1]}')


def tried(
    stage: Stage, cards: Cards, score: Callable[..., dict[str, Any]] | None = None, **request: Any
) -> list[tuple[Any, Any]]:
    sent: list[tuple[Any, Any]] = []

    def answering(_address: Any, payload: Any, *, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        sent.append((payload, dict(headers)))
        return score() if score else {"predictions": [{"score": 1.0}]}

    dependencies = replace(stage.dependencies, models=cards, score=answering)
    open_release(stage.context, dependencies, a_release_request(request, **QUICK))
    return sent


def test_the_input_example_goes_to_the_candidate_before_it_has_traffic() -> None:
    stage = a_stage()
    assert tried(stage, Cards(v1=CARD, v2=CARD)) == [({"inputs": [1]}, {"x-mlflow-deployment": "churn-v2"})]
    assert stage.world.endpoint().release is not None


def test_a_candidate_with_another_signature_is_refused_unless_forced() -> None:
    other = replace(CARD, inputs=(Column(name="age", type="string"),))
    stage = a_stage()
    with pytest.raises(StateConflict, match="input 'age' is string instead of long"):
        tried(stage, Cards(v1=CARD, v2=other))
    assert stage.world.endpoint().release is None
    assert tried(stage, Cards(v1=CARD, v2=other), force=True)
    assert any("is string instead of long (forced)" in warning for warning in stage.world.warnings)


def fails() -> dict[str, Any]:
    raise ClusterError("it answered 500")


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (fails, "fails on its own input example.*it answered 500"),
        (lambda: {"predictions": [{"x": 1}]}, "output 'score' is missing"),
    ],
)
def test_a_candidate_that_fails_its_own_example_gets_no_traffic(score: Any, says: str) -> None:
    stage = a_stage()
    with pytest.raises(StateConflict, match=says):
        tried(stage, Cards(v1=CARD, v2=CARD), score)
    assert stage.world.endpoint().release is None


def test_what_can_not_be_checked_is_said() -> None:
    stage = a_stage()
    assert tried(stage, Cards(v1=NotFound("its files are gone"), v2=ModelCard())) == []
    said = "\n".join(stage.world.warnings)
    for words in ("the signature of 'churn-v1' could not be read", "has no signature", "has no input_example"):
        assert words in said
    with pytest.raises(RegistryError):
        tried(a_stage(), Cards(v2=RegistryError("down")))


# Strategies with a comparison of their own


def test_a_shadow_gets_copies_and_its_comparison_promotes_it() -> None:
    stage = a_stage()
    stage.open(request={"strategy": "shadow"}, strategy="shadow", steps=(50.0,), guards=ERRORS)
    mirrored: list[float] = []

    def judge(endpoint: Any, _progress: Any, _now: Any) -> tuple[Verdict | None, str | None]:
        mirrored.extend(mirror.percentage for mirror in endpoint.traffic.mirrors)
        return (Verdict(word="advance", reason="They agree.") if len(mirrored) > 8 else None), None

    ending = drive(stage.context, replace(stage.dependencies, judge=judge), "churn")
    assert (ending.outcome, ending.reason, set(mirrored)) == ("promoted", "They agree.", {50.0})
    assert stage.world.endpoint().traffic.mirrors == ()


def test_the_winner_of_an_ab_is_promoted() -> None:
    stage = a_stage()
    stage.world.deploy("churn-v3")
    stage.open(
        request={
            "strategy": "ab",
            "candidates": ("churn-v2", "churn-v3"),
            "traffic_request": TrafficRequest(header="x-arm"),
        },
        strategy="ab",
        candidates=("churn-v2", "churn-v3"),
        steps=(30.0,),
        guards=ERRORS,
    )

    def judge(*_seen: Any) -> tuple[Verdict | None, str | None]:
        return Verdict(word="advance", reason="churn-v3 is better."), "churn-v3"

    assert drive(stage.context, replace(stage.dependencies, judge=judge), "churn").outcome == "promoted"
    assert stage.world.endpoint().stable.name == "churn-v3"
