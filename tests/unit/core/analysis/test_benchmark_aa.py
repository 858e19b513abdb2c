"""The A/A benchmark: what is recorded is read back whole, and releases are made of it as they would have been seen."""

import json

import numpy as np
import pytest

from benchmarks import aa
from benchmarks.aa_recording import (
    BLOCK_SECONDS,
    LOOK_SECONDS,
    Tally,
    appended,
    excludes_equal,
    read_seconds,
    recording_of,
    release_of,
    resampled,
)
from mlflow_istio.testing import Replay

SECOND = {
    "a": {"requests": 4, "assignments": 4, "errors": 1, "le/10": 1, "le/20": 1, "le/50": 4, "le/100": 4, "le/+Inf": 4},
    "b": {"requests": 3, "errors": 0, "le/10": 0, "le/20": 2, "le/50": 2, "le/100": 3, "le/+Inf": 3},
}


def recorded(tmp_path, seconds):
    path = tmp_path / "recording.jsonl"
    for second in seconds:
        appended(path, second)
    return path


def busy(seconds=1200, rate=20, slow=0.2, names="abc"):
    """Seconds of equal deployments that are often slow together with nobody else."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(seconds):
        second = {}
        for name in names:
            answers = int(rng.poisson(rate))
            late = int(rng.binomial(answers, slow))
            later = int(rng.binomial(late, 0.1))
            second[name] = {"requests": answers, "le/10": answers - late, "le/20": answers - later, "le/+Inf": answers}
        found.append(second)
    return found


def test_a_recording_is_read_back_as_arrays(tmp_path):
    path = recorded(tmp_path, [SECOND] * 30)
    assert json.loads(path.read_text().splitlines()[0])["a"] == {
        "requests": 4,
        "errors": 1,
        "le/10": 1,
        "le/50": 4,
    }
    recording = recording_of(read_seconds(path))
    assert recording.seconds == 30
    assert recording.edges == (10.0, 20.0, 50.0)
    assert recording.answers[0].tolist() == [[1, 0, 3, 0], [0, 2, 0, 1]]
    assert recording.errors[0].tolist() == [1, 0]
    assert recording.quantiles(0.5) == [50.0, 20.0]


def test_a_line_that_was_cut_off_is_recorded_anew(tmp_path):
    path = recorded(tmp_path, [SECOND] * 3)
    with path.open("a") as file:
        file.write('{"a":{"le/')
    assert len(read_seconds(path)) == 3
    appended(path, SECOND)
    assert read_seconds(path) == [read_seconds(path)[0]] * 4


def test_nothing_is_recorded_yet(tmp_path):
    assert read_seconds(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [([SECOND] * 19, "of 19 s and 2 deployments"), ([{"a": {}, "b": {}}] * 30, "without answers: was there any load")],
)
def test_too_little_is_named(seconds, words):
    with pytest.raises(ValueError, match=words):
        recording_of(seconds)


def test_blocks_are_whole_looks_and_long_enough_where_the_recording_is():
    assert recording_of([SECOND] * 7200).block == BLOCK_SECONDS
    assert recording_of([SECOND] * 180).block == 30
    assert recording_of([SECOND] * 20).block == LOOK_SECONDS


def test_a_release_gets_its_weights_and_the_recorded_times():
    recording = recording_of(busy())
    traffic = release_of(recording, np.random.default_rng(2))
    history = traffic(1, {"stable": 100.0, "candidate": 0.0})
    assert set(history) == {"stable"}
    assert 100 < history["stable"].requests < 300
    looks = [traffic(look, {"stable": 75.0, "candidate": 25.0}) for look in range(2, 200)]
    mine, others = (sum(look[name].requests for look in looks) for name in ("candidate", "stable"))
    assert mine / (mine + others) == pytest.approx(0.25, abs=0.01)
    for name in ("candidate", "stable"):
        requests = sum(look[name].requests for look in looks)
        for edge, share in ((10.0, 0.2), (20.0, 0.02)):
            assert sum(look[name].slower_than[edge] for look in looks) / requests == pytest.approx(share, rel=0.2)


def test_both_sides_are_taken_from_the_same_seconds():
    quiet, loud = busy(600, slow=0.0, names="ab"), busy(600, slow=0.9, names="ab")
    traffic = release_of(recording_of(quiet + loud), np.random.default_rng(3))
    kinds = set()
    for look in range(2, 60):
        counts = traffic(look, {"stable": 50.0, "candidate": 50.0})
        slow = [each.slower_than[10.0] / each.requests > 0.02 for each in counts.values()]
        kinds.add(tuple(slow))
    assert kinds == {(True, True), (False, False)}


def test_deployments_change_places_from_block_to_block_so_that_both_sides_are_equal():
    seconds, slower = busy(1800, slow=0.1, names="a"), busy(1800, slow=0.6, names="b")
    recording = recording_of([{**one, **other} for one, other in zip(seconds, slower, strict=True)])
    assert recording.odds(0.65) == pytest.approx([(1 / 9) / (0.35 / 0.65), 1.5 / (0.35 / 0.65)], rel=0.05)
    traffic = release_of(recording, np.random.default_rng(4))
    looks = [traffic(look, {"stable": 50.0, "candidate": 50.0}) for look in range(1, 361)]
    shares = {
        name: [look[name].slower_than[10.0] / look[name].requests for look in looks] for name in ("candidate", "stable")
    }
    assert np.mean(shares["candidate"]) == pytest.approx(np.mean(shares["stable"]), abs=0.15)
    mine = np.array(shares["candidate"]) > np.array(shares["stable"])
    changes = np.flatnonzero(np.diff(mine)) + 1
    assert len(changes) > 3
    assert set((changes % (BLOCK_SECONDS // LOOK_SECONDS)).tolist()) == {0}


def test_an_equal_version_is_promoted_and_its_intervals_hold_1():
    recording = recording_of(busy())
    release = resampled(recording, 0, looks=240, seed=1, config={"steps": "20,50"})
    assert release.outcome == "promoted"
    assert not excludes_equal(release.proven)


def test_the_tally_says_what_is_kept_and_what_is_not():
    tally = Tally()
    for number in range(40):
        outcome = "rolled-back" if number < 10 else "promoted"
        proven = {"errors": (0.0, 0.9 if number < 2 else 1.4)}
        tally.add(Replay(outcome=outcome, look=60 + number, step=2, reason="The candidate is worse.", proven=proven))
    good, lines = aa.reported(tally, 180, 3.0)
    printed = "\n".join(lines)
    assert not good
    assert "rolled back:                     25.0 ±" in printed
    assert "exclude 1: 5.0 ±" in printed
    assert "30 of 40, in the median after 14 min" in printed
    fine = Tally()
    fine.add(Replay(outcome="promoted", look=60, step=2, reason="", proven={}))
    assert aa.reported(fine, 180, 3.0)[0]


def test_the_slower_version_is_30_percent_slower_as_a_whole():
    # Of 20 ms the model computes for 8: 6 ms more are wanted, all of them its own.
    assert aa.slower_rounds(800, 20.0) == 800 + 600


def test_a_recording_that_is_long_enough_is_not_made_again(tmp_path, capsys):
    path = recorded(tmp_path, busy(120))
    before = path.read_text()
    options = ["--minutes", "2", "--releases", "0", "--resamples", "3", "--hours", "0.1", "--processes", "1"]
    assert aa.main([*options, "--config", '{"steps": "50"}', "--file", str(path)]) == 0
    assert path.read_text() == before
    printed = capsys.readouterr().out
    assert "120 s of 3 equal deployments" in printed
    assert "3 releases of an equal version made of it, in blocks of 20 s" in printed
