"""When a fresh version counts as warm, and what counts of a warm one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.release.progress import first_progress, progress_from_text, progress_to_text
from mlflow_istio.core.release.warming import WINDOW, Window, counted_by, counts_after, has_settled, last_windows
from tests.support.endpoint_values import TIME
from tests.support.release_values import Journey, a_plan, counters


def test_two_windows_that_agree_are_needed() -> None:
    assert last_windows([0.02] * (2 * WINDOW - 1)) is None
    assert has_settled([0.02] * 2 * WINDOW)
    assert not has_settled([0.02] * 2 * WINDOW, replicas=2)
    assert has_settled([0.02] * 4 * WINDOW, replicas=2)


@pytest.mark.parametrize(("later", "settled"), [(0.100, True), (0.092, True), (0.090, False), (0.111, False)])
def test_they_agree_within_a_tenth_at_the_median(later: float, settled: bool) -> None:
    assert has_settled([0.1] * WINDOW + [later] * WINDOW) == settled


def test_they_must_agree_at_the_90th_percentile_too() -> None:
    fast, slow = [0.1] * 44, [0.3] * 6
    assert Window.of(fast + slow) == Window(requests=50, median=0.1, slow=0.3)
    assert not has_settled([*fast, *slow, *fast, *([0.1] * 6)])
    assert has_settled([*fast, *slow, *fast, *slow])


def test_what_a_caller_cannot_measure_is_no_difference() -> None:
    assert has_settled([0.0015] * WINDOW + [0.0024] * WINDOW)
    assert not has_settled([0.0015] * WINDOW + [0.0026] * WINDOW)


def test_a_version_that_gets_faster_settles_when_it_stops() -> None:
    """Slow for its first 200 requests, then at most a few percent faster from window to window."""
    rng = np.random.default_rng(1)
    seconds: list[float] = []
    while not has_settled(seconds):
        asked = len(seconds)
        seconds.append(float((0.02 + 0.2 * np.exp(-asked / 60)) * rng.lognormal(0, 0.05)))
        assert asked < 1000
    assert 150 < len(seconds) < 800
    assert (last_windows(seconds) or (None,))[0] is not None
    assert np.median(seconds[-50:]) < 0.023


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [({}, 10), ({"settle": 60.0}, 30), ({"interval": 60.0}, 30), ({"warmup": 0.0}, 0), ({"interval": 2.0}, 2)],
)
def test_of_a_warm_one_only_the_look_of_its_first_users_does_not_count(
    changes: dict[str, float], seconds: float
) -> None:
    plan = a_plan(**{"warmup": 30.0, "warm_requests": 300, **changes})
    assert counts_after(plan, warmed=True) == seconds
    assert counts_after(plan, warmed=False) == plan.warmup
    assert counted_by(plan, warmed=True).warm_requests == 0
    assert counted_by(plan, warmed=False) is plan


@pytest.mark.parametrize("warmed", [False, True])
def test_what_is_counted_begins_earlier_where_it_was_warmed(warmed: bool) -> None:
    journey = Journey(a_plan(warmup=60.0, warm_requests=300))
    journey.progress = replace(journey.progress, warmed=warmed)
    journey.look(v1=(900, 9))  # it gets its first traffic
    journey.look(v1=(900, 9))  # in which weights changed
    counted = []
    for _ in range(9):
        journey.look(v1=(900, 9), v2=(100, 1))
        counted.append(journey.progress.evidence.requests.get("v2", 0))
    first = next(look for look, requests in enumerate(counted) if requests)
    assert first == (0 if warmed else 5)


def test_it_is_remembered_and_an_earlier_state_is_read() -> None:
    before = first_progress(a_plan(), TIME)
    assert "warmed" not in to_json(before)
    warm = replace(before, warmed=True)
    assert progress_from_text(progress_to_text(warm)) == warm
    assert counters(1)["pod"]["requests"] == 1
