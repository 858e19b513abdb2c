"""Guards of streamed answers: what they take in, what they wait for, and what ``auto`` means where answers may be streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.release.evidence import Evidence, Look, no_evidence, taken_in
from mlflow_istio.core.release.guards.table import kind_of
from mlflow_istio.core.release.judgement import guards_of, log_evidence
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan, auto_guards, gross_guard, stream_guards
from tests.support.release_values import a_plan, at, counters


def histogram(measure: str, total: float, over: float) -> dict[str, float]:
    return {f"{measure}_50": 0, f"{measure}_100": total - over, f"{measure}_inf": total}


def fed(plan: ReleasePlan, *looks: tuple[Mapping[str, Any], Mapping[str, Any]]) -> tuple[Evidence, tuple[str, ...]]:
    found, missing = no_evidence(plan), ()
    for number, (v1, v2) in enumerate(looks):
        look = Look(
            readings={"v1": v1, "v2": v2},
            weights={"v1": 50, "v2": 50},
            time=at(10.0 * number),
            counts_from=at(0),
            settled_from=at(0),
        )
        found, missing = taken_in(plan, found, look)
    return found, missing


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ttft", "slower than 100 ms"),
        ("tpot", "slower than 100 ms"),
        ("tokens", "more than 100 tokens"),
    ],
)
def test_a_measure_that_is_over_the_edge_more_often_is_evidence(kind: str, words: str) -> None:
    plan = a_plan(guards=(GuardPlan(name=kind, kind=kind, margin=1.25),))
    looks = [
        (
            counters(1000 * n, **histogram(kind, 1000.0 * n, 100.0 * n)),
            counters(1000 * n, **histogram(kind, 1000.0 * n, 500.0 * n)),
        )
        for n in range(1, 6)
    ]
    found, missing = fed(plan, *looks)
    assert missing == ()
    assert log_evidence(plan, found) > 10
    assert words in guards_of(plan, found)[0].summary
    test = found.tests[kind]
    assert from_json(type(test), to_json(test)) == test


def test_cut_streams_are_evidence_though_no_error_was_counted() -> None:
    plan = a_plan(guards=stream_guards())
    looks = [
        (
            counters(1000 * n, streams_n=1000 * n, streams_unfinished=n),
            counters(1000 * n, streams_n=1000 * n, streams_unfinished=200 * n),
        )
        for n in range(1, 6)
    ]
    found, missing = fed(plan, *looks)
    assert missing == ()
    evidence = {guard.name: guard.log_e for guard in guards_of(plan, found)}
    assert evidence["unfinished"] > 10 > evidence["errors"]


def test_where_nobody_streams_the_usual_guards_lack_nothing() -> None:
    plan = a_plan(guards=stream_guards())
    silent = [(counters(100 * n), counters(100 * n)) for n in range(1, 4)]
    assert fed(plan, *silent)[1] == ()
    empty = histogram("ttft", 0, 0)
    unasked = [(counters(100 * n, streams_n=0, **empty), counters(100 * n, streams_n=0, **empty)) for n in range(1, 4)]
    found, missing = fed(plan, *unasked)
    assert (missing, "ttft" in found.tests) == ((), False)


def test_a_guard_that_somebody_asked_for_waits_for_its_streams() -> None:
    plan = a_plan(guards=(GuardPlan(name="ttft", kind="ttft"), GuardPlan(name="unfinished", kind="unfinished")))
    assert fed(plan, *[(counters(100 * n), counters(100 * n)) for n in range(1, 4)])[1] == ("ttft", "unfinished")


def test_of_streams_no_whole_answer_is_too_slow() -> None:
    kinds = [guard.kind for guard in stream_guards()]
    assert kinds == ["errors", "ttft", "unfinished", "gross"]
    assert [guard.weight for guard in stream_guards()[:2]] == [guard.weight for guard in auto_guards()[:2]]
    slow = counters(1000, le_50=0, le_100=500, le_inf=1000)["pod"]
    for guard, learns in ((gross_guard(), True), (gross_guard(streams=True), False)):
        kind = kind_of(guard)
        test = kind.learn(guard, kind.test(), {"pod": slow})
        assert (test.edge is not None) is learns
    assert "slower" not in gross_guard(streams=True).describe()
