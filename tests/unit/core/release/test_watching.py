"""A promoted version under watch, purely: when it goes back, when it ends well, and what it is judged by."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from mlflow_istio.core.analysis.rate_test import LARGEST_MARGIN
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.release.advance import Action, Observation, Promote, RollBack, Shift, Wait
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan
from mlflow_istio.core.release.progress import Progress, first_progress, progress_from_text, progress_to_text
from mlflow_istio.core.release.watching import alpha_share, begun, ends_at, watched, windows
from mlflow_istio.errors import InvalidInput
from tests.support.endpoint_values import TIME
from tests.support.release_values import ERRORS, INTERVAL, a_plan, at, counters

LATENCY = GuardPlan(name="latency", kind="latency", margin=1.25, edges=(100.0,))


class Watch:
    """A watch with 40 requests a second, of which the old version has one in twenty."""

    def __init__(self, seed: int = 3, **plan: Any) -> None:
        found = a_plan(**{"watch": 1200.0, "guards": (ERRORS,), **plan})
        self.rng = np.random.default_rng(seed)
        self.second = 0.0
        self.totals = {"v1": np.zeros(3), "v2": np.zeros(3)}  # requests, errors, slow answers
        self.progress: Progress = begun(first_progress(found, TIME), TIME)

    def look(
        self,
        v1: tuple[float, float] = (0.01, 0.1),
        v2: tuple[float, float] = (0.01, 0.1),
        *,
        after: float = INTERVAL,
        **changes: Any,
    ) -> Action:
        """One look after so many seconds, in which both had these rates of errors and of slow answers."""
        self.second += after
        for name, rates, share in (("v1", v1, 0.05), ("v2", v2, 0.95)):
            requests = int(self.rng.poisson(40 * after * share))
            self.totals[name] += [requests, *(self.rng.binomial(requests, rate) for rate in rates)]
        readings = {
            name: counters(total, errors, le_100=total - slow, le_inf=total)
            for name, (total, errors, slow) in self.totals.items()
        }
        seen = Observation(**{"readings": readings, "weights": {"v2": 95, "v1": 5}, **changes})
        self.progress, action = watched(self.progress, seen, at(self.second))
        return action

    def until(self, second: float, **rates: Any) -> Action:
        """Looks until this second, or until something is to be done."""
        action = self.look(**rates)
        while isinstance(action, Wait) and self.second < second:
            action = self.look(**rates)
        return action


def test_an_equal_version_ends_its_watch_well_when_its_time_is_over() -> None:
    watch = Watch()
    action = watch.until(2000)
    assert isinstance(action, Promote)
    assert watch.second == 1200
    assert "nothing speaks against 'v2'" in action.verdict.reason


@pytest.mark.parametrize("turned", [0, 300, 630, 900])
def test_one_that_turns_bad_is_found_however_long_it_was_good(turned: int) -> None:
    watch = Watch(watch=3600.0)
    if turned:
        assert isinstance(watch.until(turned), Wait)
    action = watch.until(3600, v2=(0.06, 0.1))
    assert isinstance(action, RollBack)
    assert watch.second <= turned + 450  # a window
    assert "'v2' is worse since its promotion: errors" in action.verdict.reason
    assert "at most 5% of watches" in action.verdict.reason


def test_a_test_that_never_began_anew_would_not_have_found_it_by_then() -> None:
    """The windows are what finds a late change: the same looks in one window end well."""
    found = {}
    for count in ("many", "one"):
        watch = Watch(seed=5, watch=3600.0, phase=60.0, interval=10.0 if count == "many" else 300.0)
        assert windows(watch.progress.plan, watch.progress.evidence.phase) == (5 if count == "many" else 1)
        assert isinstance(watch.until(2700), Wait)
        action = watch.until(3600, v2=(0.025, 0.1))
        found[count] = type(action)
    assert found == {"many": RollBack, "one": Promote}


def test_slow_answers_are_judged_against_the_watchs_own_beginning() -> None:
    """The old version has a twentieth of the traffic, and is faster for that."""
    watch = Watch(watch=4800.0, guards=(ERRORS, LATENCY))
    busy, worse = (0.01, 0.2), (0.01, 0.5)
    assert isinstance(watch.until(2400, v2=busy), Wait)
    state = watch.progress.watch
    assert state is not None
    assert 1.25 * 2.25 < state.margins["latency"] < 2 * 1.25 * 2.25
    assert isinstance(watch.until(4700, v2=busy), Wait)
    slower = Watch(watch=4800.0, guards=(ERRORS, LATENCY))
    slower.until(2400, v2=busy)
    action = slower.until(4800, v2=worse)
    assert isinstance(action, RollBack)
    assert "latency" in action.verdict.reason


def test_before_its_beginning_is_known_slow_answers_count_by_the_widest_margin() -> None:
    watch = Watch(guards=(LATENCY,))
    state = watch.progress.watch
    assert state is not None
    assert state.margins == {"latency": LARGEST_MARGIN}
    watch.look()
    tests = watch.progress.evidence.tests["latency"]
    assert tests.tests[0].margin == LARGEST_MARGIN  # type: ignore[attr-defined]


def test_gross_failure_goes_back_at_the_second_look() -> None:
    watch = Watch(guards=(ERRORS, GuardPlan(name="gross", kind="gross")))
    watch.until(100)
    first = watch.look(v2=(0.9, 0.1))
    assert isinstance(first, (Wait, RollBack))
    assert isinstance(watch.look(v2=(0.9, 0.1)), RollBack)


def test_the_tests_share_alpha() -> None:
    watch = Watch(watch=7200.0, phase=60.0)
    assert windows(watch.progress.plan, 60.0) == 8
    assert alpha_share(watch.progress) == pytest.approx(0.05 / 8)
    assert alpha_share(Watch(watch=7200.0, phase=60.0, guards=(LATENCY,)).progress) == pytest.approx(0.8 * 0.05 / 8)
    assert windows(a_plan(watch=60.0), 60.0) == 1


def test_equal_versions_are_hardly_ever_taken_back() -> None:
    """At most 5% may be: of 20 that is one, and more than 3 in 1 of 60 such sets."""
    ends = [type(Watch(seed=seed, phase=0.0).until(1200)) for seed in range(20)]
    assert ends.count(RollBack) <= 3
    assert ends.count(Promote) + ends.count(RollBack) == 20


def test_at_most_two_tests_are_kept_and_the_state_stays_small() -> None:
    watch = Watch(watch=3600.0)
    sizes = []
    for _ in range(340):
        watch.look()
        sizes.append(len(progress_to_text(watch.progress)))
    state = watch.progress.watch
    assert state is not None
    assert state.window == 7
    assert max(sizes[60:]) < 2 * max(sizes[:40])


def test_its_state_comes_back_as_it_was() -> None:
    watch = Watch(guards=(ERRORS, LATENCY))
    watch.until(500)
    assert watch.progress.watch is not None
    assert watch.progress.watch.newer is not None
    assert progress_from_text(progress_to_text(watch.progress)) == watch.progress
    before = first_progress(a_plan(), TIME)
    assert "watch" not in to_json(before)
    assert from_json(Progress, to_json(before)) == before


def test_nobody_who_looked_for_long_leaves_one_fresh_test() -> None:
    watch = Watch(watch=3600.0)
    watch.until(100)
    assert isinstance(watch.look(after=2000), Wait)
    state = watch.progress.watch
    assert state is not None
    assert (state.window, state.newer) == (4, None)
    assert not watch.progress.evidence.requests


def test_a_pause_takes_nothing_from_its_time_and_is_no_evidence() -> None:
    watch = Watch()
    watch.until(100)
    end = ends_at(watch.progress)
    for _ in range(30):
        assert isinstance(watch.look(v2=(0.5, 0.5), paused=True), Wait)
    assert isinstance(watch.look(v2=(0.5, 0.5)), Wait)  # the base of what counts again
    assert ends_at(watch.progress) == end + timedelta(seconds=300)
    assert isinstance(watch.until(1400), Wait)
    assert isinstance(watch.until(1600), Promote)


def test_weights_that_somebody_moved_are_put_back_first() -> None:
    watch = Watch()
    action = watch.look(weights={"v2": 50, "v1": 50})
    assert isinstance(action, Shift)
    assert action.weight == 95
    assert isinstance(watch.look(weights={"v2": 65, "v1": 5, "other": 30}), Wait)


def test_an_old_version_that_serves_nothing_gives_its_users_away() -> None:
    watch = Watch()
    watch.until(100)
    action = watch.look(stable_ready=False)
    assert isinstance(action, Promote)
    assert "'v1' serves nothing any more" in action.verdict.reason


def test_nobody_is_sent_back_to_a_version_that_is_not_ready() -> None:
    watch = Watch()
    watch.until(300)
    for _ in range(60):
        if isinstance(watch.look(v2=(0.3, 0.1)), RollBack):
            break
    action = watch.look(v2=(0.3, 0.1), stable_ready=False)
    assert isinstance(action, Wait)
    assert "'v1' has no ready replica to go back to" in action.verdict.reason


@pytest.mark.parametrize(("no_data", "wanted"), [("hold", Promote), ("rollback", RollBack)])
def test_missing_data_are_what_the_plan_says(no_data: str, wanted: type[Action]) -> None:
    watch = Watch(no_data=no_data)
    watch.until(100)
    held = watch.look(readings={}, unavailable="prometheus")
    assert "no data from prometheus" in held.verdict.reason
    action = held
    while isinstance(action, Wait):
        action = watch.look(readings={}, unavailable="prometheus")
    assert isinstance(action, wanted)
    assert (watch.second < 200) == (no_data == "rollback")


def test_the_same_look_taken_twice_says_the_same() -> None:
    one, other = Watch(), Watch()
    one.until(700)
    other.until(700)
    assert one.progress == other.progress


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"holdback": 0}, "holdback is from 1 to 50 percent"),
        ({"holdback": 51}, "holdback is from 1 to 50 percent"),
        ({"watch": -1.0}, "watch is from 0 to"),
        ({"watch": 2592001.0}, "watch is from 0 to"),
        ({"strategy": "ab"}, "strategy=ab has no watch"),
        ({"strategy": "shadow"}, "strategy=shadow has no watch"),
        ({"guards": ()}, "needs something to watch"),
        ({"keep_old": 1199.0}, "is longer than keep_old=1199s"),
        ({"keep_old": -1.0}, "keep_old can't be negative"),
    ],
)
def test_a_watch_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as found:
        a_plan(**{"watch": 1200.0, **changes})
    assert "\n" not in found.value.message


def test_a_plan_without_a_watch_is_stored_as_before() -> None:
    plan: ReleasePlan = a_plan()
    assert not {"watch", "holdback", "keep_old"} & to_json(plan).keys()
    assert replace(plan, watch=60.0, keep_old=60.0).watch == 60
