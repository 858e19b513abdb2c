"""A release whose guard names a latency edge that the source of figures does not have is refused before anything is applied."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlflow_istio.core.release.plan import GuardPlan
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.driving.opening import open_release
from mlflow_istio.testing import InMemoryMetrics
from tests.support.in_memory import OfOtherCalls
from tests.support.simulated_users import Stage, a_release_request, a_stage

LATENCY = (GuardPlan(name="latency", kind="latency", edges=(240.0,)),)
REFUSED = (
    "guard 'latency': the in-memory metrics has no latency edge at 240 ms, so it would never be judged: say 100 or 250"
)


class Mesh(InMemoryMetrics):
    """A source that knows its edges before anybody has answered, as the local mesh's does."""

    @property
    def latency_edges(self) -> Sequence[float]:
        return self.edges


def test_what_the_stable_has_answered_tells_the_edges_of_any_source() -> None:
    stage = a_stage()
    with pytest.raises(InvalidInput, match=REFUSED):
        stage.open(guards=LATENCY)
    assert stage.world.cluster.get("Deployment", "churn-v2") is None
    assert stage.world.endpoint().release is None


def test_a_source_that_knows_its_edges_is_not_asked_for_answers() -> None:
    stage = a_stage()
    stage.users.metrics = Mesh()
    with pytest.raises(InvalidInput, match=REFUSED):
        open_release(stage.context, stage.dependencies, a_release_request({}, guards=LATENCY))
    assert stage.users.metrics.reads == 0


def unknown_at_opening(stage: Stage, *, down: bool) -> list[str]:
    """What is said of a release that opens before anybody knows the edges, and is then driven to its deadline."""
    stage.users.metrics.down = down
    open_release(stage.context, stage.dependencies, a_release_request({}, guards=LATENCY, deadline=60.0))
    stage.users.metrics.down = False
    assert stage.drive().outcome == "inconclusive"
    return [line for line in stage.world.warnings if "latency edge" in line]


def test_where_nobody_knows_them_yet_it_is_said_once_when_there_are_answers() -> None:
    assert unknown_at_opening(a_stage(), down=False) == [REFUSED]
    said = unknown_at_opening(a_stage(), down=True)
    assert "could not be looked up: the in-memory metrics can't be reached" in said[0]
    assert said[1:] == [REFUSED]


def test_calls_are_not_judged_by_a_source_that_does_not_tell_how_they_end() -> None:
    stage = a_stage()
    stage.users.metrics = OfOtherCalls()
    with pytest.raises(InvalidInput, match="doesn't tell how calls of endpoint 'churn' end, which speaks http"):
        open_release(stage.context, stage.dependencies, a_release_request({}))
    assert stage.world.endpoint().release is None
