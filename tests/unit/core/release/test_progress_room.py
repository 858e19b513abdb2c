"""The state of a release stays on its object, however long it goes on."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_istio.core.release.plan import GuardPlan, auto_guards
from mlflow_istio.core.release.progress import MAX_BYTES, check_room, first_progress, progress_to_text
from mlflow_istio.errors import InvalidInput
from tests.support.endpoint_values import TIME
from tests.support.release_values import Journey, a_plan

LATENCY = GuardPlan(name="latency", kind="latency", edges=(10.0, 100.0, 500.0))


def kpis(count: int) -> tuple[GuardPlan, ...]:
    return tuple(GuardPlan(name=f"kpi-{number}", kind="rate") for number in range(count))


def test_a_day_of_looks_takes_no_more_than_was_foreseen() -> None:
    plan = a_plan(guards=(GuardPlan(name="errors", kind="errors"),), rules=2, phase=60.0, hold=1e6, deadline=1e7)
    journey = Journey(plan)
    start = len(progress_to_text(journey.progress))
    room = sum(test.room for test in journey.progress.evidence.tests.values())
    rng = np.random.default_rng(1)
    sizes = []
    for number in range(900):
        journey.look((270, int(rng.binomial(270, 0.02))), (30, int(rng.binomial(30, 0.02))))
        if number % 20 == 0:
            sizes.append(len(progress_to_text(journey.progress)))
    assert max(sizes) < start + room + 1500
    assert max(sizes) > start + room / 2


def test_what_would_outgrow_its_object_is_refused_at_the_start() -> None:
    check_room(first_progress(a_plan(guards=(*auto_guards(), *kpis(10)), rules=2, phase=None), TIME))
    with pytest.raises(InvalidInput, match=rf"more than the {MAX_BYTES:,} that fit .* watch fewer than the 33 guards"):
        check_room(first_progress(a_plan(guards=(*auto_guards(), *kpis(30)), rules=2, phase=None), TIME))
    check_room(first_progress(a_plan(guards=(*auto_guards(), *kpis(30)), rules=2, phase=0.0), TIME))
