"""The decision benchmark's vectorised port does what the package and its engine do, on the same counts."""

import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import (
    decisions,
    decisions_engine,
    decisions_peers,
    decisions_plan,
    decisions_promise,
    decisions_results,
    decisions_watch,
)
from benchmarks.decisions_blocks import ABOVE, BELOW, INSIDE, ManyBlocks
from benchmarks.decisions_families import FAMILIES, LOOK, phase_shares
from benchmarks.decisions_plan import RELEASE, LookCounts, Plan, simulate
from benchmarks.decisions_promise import Found, Share
from benchmarks.decisions_results import Results
from mlflow_istio.core.analysis.blocks import CAPACITY, Blocks
from mlflow_istio.core.analysis.latency import LatencyTest
from mlflow_istio.core.analysis.rate_test import DIFFERENCE, ODDS, RateTest
from mlflow_istio.core.release.evidence import no_evidence
from mlflow_istio.core.release.judgement import alpha_of, guards_of
from mlflow_istio.core.release.plan import PHASE_UNKNOWN

FAMILY = {family.name: family for family in FAMILIES}


def test_many_blocks_are_the_shipped_blocks_look_by_look():
    rng, items, outside = np.random.default_rng(0), 5, 0
    many, each = ManyBlocks(items, 20.0), [Blocks.of(20.0, columns=3) for _ in range(items)]
    for look in range(700):
        rows = rng.gamma(1.0, 1.0, (items, 3)) * [1.0 + 0.3 * (look > 300), 1.0, 1.0]
        rows[:, 2] *= rng.random(items) > 0.1  # no traffic on one side
        counts = rng.random(items) > 0.1
        many.update(rows, LOOK, counts)
        each = [
            blocks.update(tuple(row), LOOK) if takes else blocks
            for blocks, row, takes in zip(each, rows.tolist(), counts, strict=True)
        ]
        if look > 60 and look % 23:
            continue
        for theta in (1.0, 1.25):
            expected = [blocks.log_evidence(theta, **ODDS) for blocks in each]
            assert many.log_evidence(np.full(items, theta)) == pytest.approx(expected, abs=1e-7)
        for theta, of in ((1.0, ODDS), (1.2, ODDS), (0.1, DIFFERENCE)):
            ends = [blocks.bounds(0.2, **of) for blocks in each]
            expected = [ABOVE if lower > theta else BELOW if upper < theta else INSIDE for lower, upper in ends]
            assert many.side(theta, 0.2, **of).tolist() == expected
            outside += sum(side != INSIDE for side in expected)
    assert outside > 50
    assert min(many.span) >= 8
    assert max(len(blocks.closed) for blocks in each) < 3 * CAPACITY


def test_a_floor_only_leaves_out_what_is_below_it():
    rng = np.random.default_rng(1)
    many = ManyBlocks(40, 20.0)
    for _ in range(30):
        many.update(rng.gamma(1.0, 1.0, (40, 3)) * [2.0, 1.0, 1.0], LOOK, np.ones(40, dtype=np.bool_))
    whole = many.log_evidence(np.ones(40))
    floor = float(np.median(whole))
    assert ((many.log_evidence(np.ones(40), floor) >= floor) == (whole >= floor)).all()


def test_the_port_shares_alpha_out_as_the_engine_does():
    nothing = no_evidence(RELEASE)
    guards = guards_of(RELEASE, nothing)
    assert tuple(guard.name for guard in guards[:3]) == decisions_plan.GUARDS
    share = {guard.name: guard.weight / sum(each.weight for each in guards) for guard in guards}
    limits = -np.log([share["errors"] * RELEASE.alpha] + [share["latency"] * RELEASE.alpha / 3] * 3)
    assert decisions_plan.thresholds() == pytest.approx(limits)
    for guard in RELEASE.guards[:2]:
        assert alpha_of(RELEASE, guard) == pytest.approx(RELEASE.alpha / 2 / 2)
    assert (RELEASE.interval, nothing.phase) == (LOOK, PHASE_UNKNOWN)


@pytest.mark.parametrize(
    ("family", "odds", "looks"),
    [
        ("60 s every 15 min, 4 against 1", None, 61),
        ("20 s every 5 min", decisions_promise.BAD["errors"], 61),
        ("independent", decisions_promise.BAD["slow answers"], 61),
        ("independent", None, 131),
    ],
)
def test_a_release_of_the_port_ends_as_the_engine_ends_it(family, odds, looks):
    pairs = decisions_engine.beside(FAMILY[family], 2, looks, 3, odds)
    assert all(pair.agrees for pair in pairs)
    assert [(pair.engine.outcome, pair.engine.look) for pair in pairs] == [(pair.outcome, pair.look) for pair in pairs]


def test_the_engine_is_given_the_share_that_the_port_had():
    outcome = simulate(FAMILY["independent"], 1, 5, np.random.default_rng(1), record=5)
    other = [replace(look, share=look.share * 2) for look in outcome.recorded]
    with pytest.raises(RuntimeError, match="look 2: 5% by the engine, 10% by the port"):
        decisions_engine.replayed(other, 0, 5)


def test_evidence_of_the_guards_is_that_of_the_shipped_tests():
    plan = Plan(warm_requests=0)
    outcome = simulate(FAMILY["5 s every minute"], 2, 200, np.random.default_rng(5), plan=plan, record=200)
    releases = decisions_plan._Releases(plan, 2, np.ones(4))
    errors = [RateTest.of(PHASE_UNKNOWN)] * 2
    latency = [LatencyTest.at((1.0, 2.0, 3.0), phase=PHASE_UNKNOWN)] * 2
    for number, look in enumerate(outcome.recorded, start=2):
        releases.look(number, look)
        if (number - 2) * LOOK < RELEASE.warmup:
            continue
        for run in range(2):
            mine, others = int(look.mine[run]), int(look.others[run])
            pairs = list(zip(look.events[run].tolist(), look.other_events[run].tolist(), strict=True))
            errors[run] = errors[run].update(pairs[0][0], mine, pairs[0][1], others, seconds=LOOK)
            tests = tuple(
                test.update(own, mine, theirs, others, seconds=LOOK)
                for test, (own, theirs) in zip(latency[run].tests, pairs[1:], strict=True)
            )
            latency[run] = replace(latency[run], tests=tests)
    margins = np.tile(decisions_plan.MARGINS, 2)
    found = releases.blocks.log_evidence(margins).reshape(2, 4)
    for run in range(2):
        tests = (errors[run], *latency[run].tests)
        expected = [test.blocks.log_evidence(test.margin, **ODDS) for test in tests]
        assert found[run] == pytest.approx(expected, abs=1e-7)
        # What the port leaves out can only make the engine wait longer.
        assert all(test.log_e_value <= block + 1e-9 for test, block in zip(tests, expected, strict=True))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("what", decisions_promise.BAD)
def test_every_kind_of_bad_version_can_be_drawn_in_every_family(family, what):
    outcome = simulate(family, 8, 40, np.random.default_rng(9), odds=decisions_promise.BAD[what], record=40)
    last = outcome.recorded[-1]
    for events, requests in ((last.events, last.mine), (last.other_events, last.others)):
        assert (np.diff(np.column_stack([requests, events[:, 1:]]), axis=1) <= 0).all()
        assert (events[:, 0] <= requests).all()


@pytest.mark.parametrize(("seconds", "every", "replicas"), [(1.0, 20.0, 1), (60.0, 900.0, 3)])
def test_phases_take_their_share_of_the_time_from_the_start(seconds, every, replicas):
    shares = phase_shares(np.random.default_rng(2), 400, 360, seconds, every, replicas)
    assert shares.min() >= 0
    assert shares.max() <= 1
    for part in (shares[:90], shares[270:]):
        assert part.mean() == pytest.approx(seconds / every, rel=0.15)
    if seconds > 2 * LOOK:  # one that has begun goes on
        assert (shares == np.float32(1 / replicas)).any()


def test_rules_of_peers_see_a_candidate_that_is_bad_and_say_nothing_of_one_without_events():
    rng = np.random.default_rng(3)

    def traffic(rate):
        looks = []
        for _ in range(120):
            mine, others = np.full(3, 60), np.full(3, 240)
            own = np.repeat(rng.binomial(mine, rate)[:, None], 4, axis=1)
            theirs = np.repeat(rng.binomial(others, rate and 0.01)[:, None], 4, axis=1)
            looks.append(LookCounts(share=np.full(3, 0.2), mine=mine, events=own, others=others, other_events=theirs))
        return decisions_peers.Recorded(looks, 3)

    rules = {**decisions_peers.PEERS, "first rule": decisions_peers.first_rule}
    assert {name: rule(traffic(0.0)).any() for name, rule in rules.items()} == dict.fromkeys(rules, False)
    assert {name: rule(traffic(0.2)).all() for name, rule in rules.items()} == dict.fromkeys(rules, True)


def test_the_first_rule_is_the_average_of_its_tests():
    outcome = simulate(FAMILY["60 s every 15 min"], 4, 120, np.random.default_rng(6), record=120)
    traffic = decisions_peers.Recorded(outcome.recorded, 4)
    alarms = decisions_peers.first_rule(traffic)
    for run in range(4):
        errors, latency, alarmed = RateTest(), LatencyTest.at((1.0, 2.0, 3.0)), False
        for look in range(traffic.mine.shape[1]):
            mine, others = int(traffic.mine[run, look]), int(traffic.others[run, look])
            own, theirs = traffic.events[run, look].tolist(), traffic.other_events[run, look].tolist()
            errors = errors.update(own[0], mine, theirs[0], others)
            tests = tuple(
                test.update(own[at], mine, theirs[at], others) for at, test in enumerate(latency.tests, start=1)
            )
            latency = replace(latency, tests=tests)
            mean = (np.exp(errors.log_e_value) + np.exp(latency.log_e_value) + 1) / 3
            alarmed = alarmed or mean >= 20
        assert alarms[run] == alarmed
    assert set(alarms.tolist()) == {True, False}


@pytest.mark.parametrize(
    ("hits", "limit", "at_least", "words"),
    [
        (5, 0.05, False, "met"),
        (6, 0.05, False, "within noise"),
        (20, 0.05, False, "NOT MET"),
        (94, 0.95, True, "within noise"),
        (50, 0.95, True, "NOT MET"),
    ],
)
def test_a_limit_is_met_within_noise_or_not(hits, limit, at_least, words):
    assert decisions.verdict([Share(hits=hits, runs=100)], limit, at_least=at_least)[0] == words


def test_what_workers_find_adds_up():
    found, other = Found(), Found()
    found.add("x", np.array([True, False]))
    other.add("x", np.array([True]))
    found.merge(other)
    assert (found.share("x").hits, found.share("x").runs) == (2, 3)


def test_the_command_prints_rows_with_errors_and_says_by_its_code_whether_they_are_met(capsys, tmp_path):
    arguments = ["--runs", "20", "--hours", "0.3", "--only", "20 s every 5 min", "--processes", "1"]
    code = decisions.main([*arguments, "--file", str(tmp_path / "found.jsonl")])
    printed = capsys.readouterr().out
    for title in ("1. An equal version", "2. What is proven", "3. A version", "Beside it"):
        assert title in printed
    for name in ("20 s every 5 min", "20 s every 5 min, 3 replicas"):
        rows = [line for line in printed.splitlines() if line.startswith(f"| {name} ")]
        assert len(rows) == 4
        assert all(re.search(r"±\d", row) for row in rows)
    assert code == ("NOT MET" in printed)


def test_what_was_simulated_is_kept_for_the_same_seed_and_code(tmp_path, monkeypatch):
    path, tasks = tmp_path / "found.jsonl", decisions_promise.equal_tasks(10, 0.1, [FAMILY["20 s every 5 min"]])
    first = decisions.simulated(tasks, 7, 1, Results(path, 7))
    with path.open("a") as file:
        file.write('{"task": "[')  # the line at which a run died
    monkeypatch.setattr(decisions_promise, "run", lambda task, seed: pytest.fail(f"{task} is simulated again"))
    assert decisions.simulated(tasks, 7, 1, Results(path, 7)) == first
    assert tasks[0] not in Results(path, 8)
    monkeypatch.setattr(decisions_results, "sources_of", lambda kind: "other code")
    assert tasks[0] not in Results(path, 7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runs", "1"], "at least 10"),
        (["--hours", "99"], "from 0.1 to 24"),
        (["--only", "x"], "there are: independent;"),
    ],
)
def test_what_cannot_be_is_refused(capsys, arguments, words):
    with pytest.raises(SystemExit):
        decisions.main(arguments)
    assert words in capsys.readouterr().err


def test_a_watch_takes_back_what_turns_bad_halfway_and_leaves_an_equal_version():
    family = FAMILY["20 s every 5 min"]
    back = decisions_watch.taken_back(family, np.random.default_rng(3), 1.0, decisions_promise.WORSE)
    assert back is not None
    assert 180 < back <= 360
    assert decisions_watch.taken_back(family, np.random.default_rng(3), 1.0) is None
    tasks = decisions_promise.watch_tasks(12, [family])
    assert [(task.what, task.runs) for task in tasks] == [("", 10), ("", 2), (decisions_promise.TURNS_BAD, 5)]
    counted = {"stays equal": 12, decisions_promise.TURNS_BAD: 5}
    found = Found(hits={"stays equal": 0, decisions_promise.TURNS_BAD: 5}, runs=counted)
    line, together = decisions.watch_lines({"x": found})
    assert (line.cells[2], line.met) == ("", None)
    assert (together.cells[0], together.cells[2], together.met) == ("all of them", "met", True)
