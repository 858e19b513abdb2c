"""A driven release on its endpoint: each step names the state it expects, and whoever ends the release ends its progress."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.on_endpoint import (
    StaleRevision,
    ended,
    noted,
    opened,
    promoted,
    shifted,
    step_weights,
    step_wish,
)
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.progress import first_progress, progress_from_text, progress_to_text
from tests.support.endpoint_values import TIME, a_release, a_stamp, a_virtual_service, an_endpoint, carrying
from tests.support.release_values import a_plan


def an_open(strategy: str = "canary", plan: ReleasePlan | None = None, **traffic_request: Any) -> Endpoint:
    progress = first_progress(plan or a_plan(strategy=strategy, steps=(20.0,)), TIME)
    asked = TrafficRequest(**traffic_request) if traffic_request or strategy == "shadow" else TrafficRequest(weight=0)
    return opened(an_endpoint(), a_release(strategy, *progress.plan.candidates, traffic_request=asked), asked, progress)


def test_a_release_opens_with_its_progress_and_no_traffic() -> None:
    found = an_open()
    assert found.traffic.weights == {"v1": 100, "v2": 0}
    assert found.progress is not None
    assert opened(found, a_release(), TrafficRequest(weight=0), first_progress(a_plan(), TIME)) is found


def test_a_shadow_opens_without_copies() -> None:
    found = an_open("shadow")
    assert found.traffic.mirrors == ()
    progress = replace(progress_from_text(found.progress or ""), step=0, revision=1)
    after = shifted(found, "r1", 0, progress)
    assert step_weights(after, progress.plan) == {"v1": 100, "v2": 20.0}


def test_a_step_writes_traffic_and_progress_at_once() -> None:
    found = an_open()
    progress = replace(progress_from_text(found.progress or ""), step=0, revision=1)
    after = shifted(found, "r1", 0, progress)
    assert after.traffic.weights == {"v1": 80, "v2": 20}
    assert after.progress == progress_to_text(progress)
    assert step_weights(after, progress.plan) == {"v1": 80, "v2": 20}


def test_a_step_of_several_arms_names_every_weight() -> None:
    plan = a_plan(strategy="ab", candidates=("v2", "v3"), steps=(30.0,))
    assert step_wish(plan, 30.0) == TrafficRequest(weights={"v1": 40, "v2": 30, "v3": 30})


@pytest.mark.parametrize("step", [noted, shifted])
@pytest.mark.parametrize(("release", "revision"), [("r1", 7), ("r9", 0)])
def test_a_step_that_expects_another_state_is_refused(step: Any, release: str, revision: int) -> None:
    found = an_open()
    with pytest.raises(StaleRevision):
        step(found, release, revision, progress_from_text(found.progress or ""))


def test_promotion_and_return_end_the_progress_too() -> None:
    found = an_open()
    done = promoted(found, "r1", 0, "v2", TIME)
    assert (done.stable.name, done.progress, done.release) == ("v2", None, None)
    back = ended(found, "r1", 0, "inconclusive")
    assert back.last is not None
    assert (back.last.outcome, back.progress, back.traffic.weights["v1"]) == ("inconclusive", None, 100)
    assert transitions.abort(replace(back, sequence=0), "aborted").last == back.last  # done already
    for end in (transitions.promote, transitions.abort, transitions.rollback):
        assert end(found).progress is None
    assert transitions.mark_deleting(found, force=True).progress is None
    with pytest.raises(StaleRevision):
        ended(done, "r1", 0, "rolled-back")


def test_progress_alone_makes_no_entry_in_the_ledger() -> None:
    found = an_open()
    stored = carrying(found)
    progress = replace(progress_from_text(found.progress or ""), looks=3, revision=1)
    after = changed(stored, noted(found, "r1", 0, progress), a_stamp("c9"))
    read = read_endpoint(after, "churn")
    assert (read.progress, read.outbox, read.sequence) == (
        progress_to_text(progress),
        found.outbox,
        found.sequence,
    )
    assert read_endpoint(a_virtual_service(), "churn").progress is None
