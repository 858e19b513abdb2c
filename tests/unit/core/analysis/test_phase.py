"""How long a server's slow phases are, from what it has answered; simulated servers know the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlflow_istio.core.analysis.phase import learn_phase
from mlflow_istio.errors import InvalidInput
from tests.support.slow_phases import Phases, history

HOUR = 3600


def learnt(seed: int, hours: int, interval: int, *kinds: Phases) -> float | None:
    return learn_phase({"slower": history(np.random.default_rng(seed), hours * HOUR, interval, *kinds)}, interval)


@pytest.mark.parametrize("replicas", [1, 3, 5])
@pytest.mark.parametrize(
    ("seconds", "every", "hours", "interval"),
    [(1, 20, 1, 1), (5, 60, 2, 2), (20, 300, 6, 5), (60, 900, 8, 10), (120, 1800, 12, 15)],
)
def test_what_is_learnt_is_no_shorter_and_not_much_longer_than_the_truth(
    seconds: float, every: float, hours: int, interval: int, replicas: int
) -> None:
    phases = Phases(seconds=seconds, every=every, replicas=replicas)
    found = [learnt(seed, hours, interval, phases) for seed in range(4)]
    assert all(0.8 * seconds <= (length or 0) <= 3 * seconds for length in found), found


@pytest.mark.parametrize("rate", [1.0, 30.0])
@pytest.mark.parametrize("usual", [0.002, 0.05, 0.5])
def test_independent_requests_have_no_phases(rate: float, usual: float) -> None:
    found = [learnt(seed, 8, 10, Phases(rate=rate, usual=usual)) for seed in range(10)]
    assert set(found) <= {0.0, None}
    assert 0.0 in found or rate * usual * 8 * HOUR < 200


@pytest.mark.parametrize("seed", range(4))
def test_of_two_kinds_of_phases_the_longer_one_counts(seed: int) -> None:
    length = learnt(seed, 6, 5, Phases(seconds=5, every=60), Phases(seconds=60, every=900))
    assert 48 <= (length or 0) <= 180


@pytest.mark.parametrize("seed", range(4))
def test_rare_bursts_of_errors_are_phases_too(seed: int) -> None:
    errors = Phases(seconds=3, every=600, replicas=3, usual=0.002, slow=0.3)
    assert 2.4 <= (learnt(seed, 2, 1, errors) or 0) <= 9


def test_a_phase_that_is_shorter_than_an_interval_counts_as_one() -> None:
    assert learnt(1, 6, 10, Phases(seconds=3, every=60)) == 10.0


@pytest.mark.parametrize("seed", range(4))
def test_load_that_comes_and_goes_and_a_rate_that_drifts_are_no_phases(seed: int) -> None:
    rng = np.random.default_rng(seed)
    second = np.arange(6 * HOUR)
    drifting = 0.05 * (1 + 0.5 * np.sin(2 * np.pi * second / (6 * HOUR)))
    assert learn_phase({"slower": history(rng, len(second), 5, Phases(), probability=drifting)}, 5) == 0.0
    requests = rng.poisson(30 * (1 + 0.8 * np.sin(2 * np.pi * second / (2 * HOUR))))
    counts = np.column_stack([rng.binomial(requests, 0.05), requests]).reshape(-1, 5, 2).sum(axis=1)
    assert learn_phase({"slower": counts}, 5) == 0.0


def test_what_one_place_alone_shows_is_no_more_than_not_to_know() -> None:
    """An outage of seven minutes, once in ten hours: it may have been anything."""
    rng = np.random.default_rng(3)
    outage = np.where(abs(np.arange(10 * HOUR) - 20000) < 210, 0.3, 0.05)
    length = learn_phase({"slower": history(rng, 10 * HOUR, 10, Phases(), probability=outage)}, 10)
    assert length is not None
    assert length <= 60


@pytest.mark.parametrize("seed", range(4))
def test_gaps_are_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = history(rng, 8 * HOUR, 5, Phases(seconds=20, every=300))
    for start in rng.integers(0, len(counts), 40):
        counts[start : start + 20] = 0
    assert 16 <= (learn_phase({"slower": counts}, 5) or 0) <= 60


def test_the_longest_of_all_series_counts_and_one_without_events_says_nothing() -> None:
    rng = np.random.default_rng(5)
    series = {
        "errors": history(rng, 6 * HOUR, 5, Phases(usual=0.0001)),
        "slower than 100 ms": history(rng, 6 * HOUR, 5, Phases(seconds=60, every=900)),
        "slower than 250 ms": history(rng, 6 * HOUR, 5, Phases(seconds=5, every=60, usual=0.01)),
    }
    assert 48 <= (learn_phase(series, 5) or 0) <= 90
    assert learn_phase({"errors": series["errors"][:800]}, 5) is None


def test_a_short_claim_needs_an_hour_and_a_long_one_less() -> None:
    rng = np.random.default_rng(2)
    quiet = history(rng, HOUR, 5, Phases())
    assert learn_phase({"slower": quiet}, 5) == 0.0
    assert learn_phase({"slower": quiet[:700]}, 5) is None
    idle = np.vstack([quiet[:700], np.zeros((20, 2))])  # an hour, but nobody asked for a part of it
    assert learn_phase({"slower": idle}, 5) is None
    often = history(rng, 3000, 5, Phases(seconds=90, every=240))
    assert 72 <= (learn_phase({"slower": often}, 5) or 0) <= 270


@pytest.mark.parametrize(
    "history_", [{}, {"errors": np.zeros((0, 2))}, {"errors": np.zeros((5000, 2))}, {"errors": [[1, 2]]}]
)
def test_too_little_says_nothing(history_: Any) -> None:
    assert learn_phase(history_, 5) is None


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([1, 2, 3], "must be (events, requests) of each interval, got shape (3,)"),
        ([[1, 2, 3]], "got shape (1, 3)"),
        ([[1, 2], [3]], "must be (events, requests) of each interval, two numbers for every one"),
        ([["a", "b"]], "must be (events, requests) of each interval, two numbers for every one"),
        ([[3, 2]], "events must be from 0 to the requests"),
        ([[-1, 2]], "events must be from 0 to the requests"),
        ([[float("nan"), 2]], "events must be from 0 to the requests"),
    ],
)
def test_pairs_that_cannot_be_are_named(pairs: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        learn_phase({"errors": pairs}, 5)
    assert words in refused.value.message
    assert "'errors'" in refused.value.message


def test_an_interval_lasts() -> None:
    with pytest.raises(InvalidInput, match="seconds of an interval"):
        learn_phase({}, 0)
