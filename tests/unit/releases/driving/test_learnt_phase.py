"""Before a release opens, its stable's own history says how long slow phases are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.release.plan import PHASE_UNKNOWN
from mlflow_istio.core.release.progress import Progress, progress_from_text
from mlflow_istio.releases.driving.opening import open_release
from tests.support.simulated_users import ERRORS, Stage, a_release_request
from tests.support.slow_phases import Phases, history

STEADY = Phases()
MINUTES = Phases(seconds=120, every=1800, replicas=3)


def remembered(hours: float, *kinds: Phases, step: int = 10) -> list[Reading]:
    """Readings a step apart of a server with such phases."""
    counts = history(np.random.default_rng(4), int(3600 * hours), step, *kinds)
    totals = np.vstack([[0, 0], np.cumsum(counts, axis=0)])
    return [
        {"pod": {"requests": requests, "errors": 0.0, "le/100": requests - slow, "le/+Inf": requests}}
        for slow, requests in totals
    ]


def opened(stage: Stage, told: list[str] | None = None, **plan: Any) -> Progress:
    context = replace(stage.context, tell=(told if told is not None else []).append)
    open_release(context, stage.dependencies, a_release_request({}, **{"phase": None, **plan}))
    text = stage.world.endpoint().progress
    assert text is not None
    return progress_from_text(text)


@pytest.mark.parametrize(("phases", "shortest", "longest"), [(STEADY, 0, 0), (MINUTES, 96, 240)])
def test_what_the_stable_shows_is_what_the_release_reckons_with(
    phases: Phases, shortest: float, longest: float
) -> None:
    stage = Stage()
    stage.users.metrics.past["churn-v1"] = remembered(20, phases)
    told: list[str] = []
    assert shortest <= opened(stage, told).evidence.phase <= longest
    assert any("20.0 h of 'churn-v1' show" in line for line in told)


def test_a_day_is_read_and_no_finer_than_sources_keep() -> None:
    stage = Stage()
    asked = []

    def remember(*arguments: Any) -> list[Reading]:
        asked.append(arguments)
        return []

    stage.users.metrics.history = remember  # type: ignore[method-assign]
    opened(stage, interval=2.0)
    assert asked == [("churn", "churn-v1", 86_400.0, 10.0)]


@pytest.mark.parametrize("readings", [[], remembered(0.2, STEADY)], ids=["nothing", "a few minutes"])
def test_where_too_little_is_remembered_nobody_knows(readings: list[Reading]) -> None:
    stage = Stage()
    stage.users.metrics.past["churn-v1"] = readings
    assert opened(stage).evidence.phase == PHASE_UNKNOWN


def test_a_source_that_can_not_be_reached_costs_the_knowledge_and_not_the_release() -> None:
    stage = Stage()
    stage.users.metrics.down = True
    assert opened(stage).evidence.phase == PHASE_UNKNOWN
    assert any("how long slow phases of 'churn-v1' are could not be learnt" in line for line in stage.world.warnings)


@pytest.mark.parametrize("plan", [{"phase": 7.0}, {"guards": ()}])
def test_what_is_said_or_not_needed_is_not_asked_for(plan: dict[str, Any]) -> None:
    stage = Stage()
    stage.users.metrics.down = True
    opened(stage, **{"guards": ERRORS, **plan})
    assert not any("slow phases" in line for line in stage.world.warnings)
