"""Comparing a shadow on in-memory ports: whose records are asked for, what is kept, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.analysis.shadow_verdict import ShadowLimits
from mlflow_istio.core.mesh.virtual_service import write_endpoint
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.plan import Approval
from mlflow_istio.core.release.progress import progress_from_text, progress_to_text
from mlflow_istio.errors import StateConflict
from mlflow_istio.ports.records import Recorded
from mlflow_istio.releases.driving.comparison import TABLE_JSON, VERDICT_JSON, Compared, compare
from tests.support.in_memory import World, a_world
from tests.support.simulated_users import Stage

STABLE, CANDIDATE = "churn-v1", "churn-v2"


class Recorders:
    """What each deployment's servers have recorded."""

    def __init__(
        self,
        world: World,
        answers: Mapping[str, list[float]],
        complete_since: float = 0.0,
        dropped: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        self._dropped = dropped or {}
        self._opened = world.context.clock.now().timestamp()
        self._answers = answers
        self._complete_since = complete_since and self._opened + complete_since
        self.asked: list[tuple[str, str, int]] = []

    def read(self, endpoint: str, deployment: str, replicas: int) -> Recorded:
        self.asked.append((endpoint, deployment, replicas))
        records = [
            {"request_id": str(n), "deployment": deployment, "time": self._opened + 1 + n, "status": 200, "ms": 3.0}
            | {"output": {"predictions": [answer]}}
            for n, answer in enumerate(self._answers[deployment])
        ]
        return Recorded(records=records, complete_since=self._complete_since, dropped=self._dropped.get(deployment, {}))


def compared(world: World, recorders: Recorders) -> Compared:
    context = world.context
    context.clock.sleep(timedelta(hours=1).total_seconds())
    return compare(
        context, recorders, "churn", rule=AnswerRule(kind="numbers"), limits=ShadowLimits(agreement=0.9), settle=0.0
    )


def a_shadow(mirror: float = 100) -> World:
    return a_world(STABLE, CANDIDATE, strategy="shadow", traffic_request=TrafficRequest(mirror=mirror))


def test_both_sides_recorders_are_read_and_the_result_is_kept_in_the_releases_run() -> None:
    world = a_shadow()
    recorders = Recorders(world, {STABLE: [1.0] * 200, CANDIDATE: [1.0] * 199 + [5.0]})
    found = compared(world, recorders)
    assert recorders.asked == [("churn", STABLE, 1), ("churn", CANDIDATE, 1)]
    assert found.verdict.word == "advance"
    run = str(found.release.run)
    assert [figure.value for figure in world.runs.figures(run)["shadow/pairs"]] == [200]
    (row,) = json.loads(world.runs.text(run, TABLE_JSON) or "")
    assert (row["request_id"], row["difference"]) == ("199", 4.0)
    assert json.loads(world.runs.text(run, VERDICT_JSON) or "")["word"] == "advance"


def test_what_was_not_recorded_is_kept_beside_what_was_compared() -> None:
    world = a_shadow()
    dropped = {CANDIDATE: {"backlog": 2, "encoded": 3}}
    found = compared(world, Recorders(world, {STABLE: [1.0] * 9, CANDIDATE: [1.0] * 9}, dropped=dropped))
    assert found.dropped == {STABLE: {}, CANDIDATE: {"backlog": 2, "encoded": 3}}
    figures = world.runs.figures(str(found.release.run))
    assert [figures[f"shadow/{side}_dropped"][-1].value for side in ("stable", "candidate")] == [0, 5]


def test_a_verdict_that_lacks_records_says_which_were_dropped() -> None:
    world = a_shadow()
    dropped = {CANDIDATE: {"backlog": 1200, "encoded": 3}}
    found = compared(world, Recorders(world, {STABLE: [1.0] * 200, CANDIDATE: [1.0] * 100}, dropped=dropped))
    assert found.verdict.word == "hold"
    words = "not recorded by 'churn-v2' since its recorders started: 1,200 backlog, 3 encoded"
    assert found.verdict.reason.endswith(f"recorded on one side only (at most 5.0% allowed) ({words}).")
    none = compared(world, Recorders(world, {STABLE: [], CANDIDATE: []}, dropped=dropped))
    assert f"or nothing was recorded ({words})" in none.verdict.reason


def test_where_one_side_has_lost_records_both_begin_later() -> None:
    world = a_shadow()
    found = compared(world, Recorders(world, {STABLE: [1.0] * 100, CANDIDATE: [1.0] * 100}, complete_since=51))
    assert found.comparison.tally.pairs == 50


def test_what_came_before_a_driven_release_mirrored_anything_is_not_missed() -> None:
    stage = Stage()
    stage.open(request={"strategy": "shadow"}, strategy="shadow", steps=(100.0,), approval=Approval(before=("100",)))
    recorders = Recorders(stage.world, {STABLE: [1.0] * 3000, CANDIDATE: []})
    stage.context.clock.sleep(1200)  # a person took that long to agree to the first step
    endpoint = stage.world.endpoint()
    progress = replace(progress_from_text(endpoint.progress or ""), step=0, since=stage.context.clock.now())
    stage.world.cluster.edit(
        "VirtualService",
        "churn",
        lambda obj: write_endpoint(obj or {}, replace(endpoint, progress=progress_to_text(progress))),
    )
    assert compared(stage.world, recorders).comparison.since == progress.since.timestamp()


def test_a_partial_mirror_is_told() -> None:
    world = a_shadow(mirror=50)
    assert compared(world, Recorders(world, {STABLE: [1.0] * 100, CANDIDATE: [1.0] * 50})).comparison.partial


def test_a_canary_is_no_shadow() -> None:
    world = a_world(STABLE, CANDIDATE, strategy="canary", traffic_request=TrafficRequest(weight=10))
    with pytest.raises(StateConflict, match="no open shadow release to compare .*is a canary"):
        compared(world, Recorders(world, {}))
