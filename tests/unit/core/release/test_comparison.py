"""Recorded answers of both sides: which belong together, which are left out, and the table."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.release.comparison import COLUMNS, Comparison, compare_records, table_csv

RULE = AnswerRule(kind="numbers", absolute=0.1)


def record(key: str, output: Any, *, time: float = 100.0, status: int = 200, ms: float = 5.0) -> dict[str, Any]:
    return {"request_id": key, "deployment": "d", "time": time, "status": status, "ms": ms, "output": output}


def compared(stable: list[dict[str, Any]], candidate: list[dict[str, Any]], **changes: Any) -> Comparison:
    return compare_records(
        stable, candidate, **{"rule": RULE, "since": 50.0, "until": 150.0, "partial": False, **changes}
    )


def test_answers_are_joined_by_request_and_compared_within_the_tolerance() -> None:
    found = compared(
        [record("a", [1.0]), record("b", [1.0]), record("c", [1.0])],
        [record("a", [1.05]), record("b", [3.0]), record("c", {"error_code": "X"}, status=500)],
    ).tally
    assert (found.pairs, found.compared, found.agreeing, found.candidate_failed) == (3, 2, 1, 1)
    assert found.unmatched_share == 0


def test_requests_outside_the_window_are_left_out_on_both_sides() -> None:
    old, new = record("old", [1.0], time=10), record("new", [1.0], time=200)
    found = compared([old, record("a", [1.0]), new], [{**old, "output": [9.0]}, record("a", [1.0])]).tally
    assert (found.pairs, found.agreeing, found.stable_only, found.candidate_only) == (1, 1, 0, 0)


def test_the_edge_of_the_window_does_not_part_a_pair() -> None:
    found = compared(
        [record("a", [1.0], time=150.0), record("b", [1.0], time=49.99)],
        [record("a", [1.0], time=150.01), record("b", [1.0], time=50.0)],
    ).tally
    assert (found.pairs, found.stable_only, found.candidate_only) == (1, 0, 0)


def test_requests_that_only_one_side_has_are_unmatched() -> None:
    found = compared([record("a", [1.0]), record("b", [1.0])], [record("b", [1.0]), record("c", [1.0])]).tally
    assert (found.stable_only, found.candidate_only) == (1, 1)
    assert found.unmatched_share == 2 / 3


def test_where_only_a_part_is_mirrored_an_uncopied_request_is_no_loss() -> None:
    found = compared([record("a", [1.0]), record("b", [1.0])], [record("b", [1.0])], partial=True).tally
    assert (found.stable_only, found.unmatched_share) == (0, 0.0)


def test_the_table_has_failures_of_one_side_first_then_the_largest_difference() -> None:
    found = compared(
        [record("a", [1.0]), record("b", [1.0]), record("c", [1.0])],
        [record("a", [2.0]), record("b", [7.0], ms=50.0), record("c", None, status=500)],
    )
    assert [(row["request_id"], row["difference"]) for row in found.table] == [("c", None), ("b", 6.0), ("a", 1.0)]
    assert found.table[0]["note"] == "only the candidate failed"
    rows = list(csv.DictReader(io.StringIO(table_csv(found.table))))
    assert tuple(rows[0]) == COLUMNS
    assert json.loads(rows[1]["candidate_output"]) == [7.0]
    assert rows[1]["candidate_ms"] == "50.0"


def test_the_table_shows_both_sides_whole_and_in_strict_json() -> None:
    long = "x" * 5000
    found = compared([record("a", [long, math.nan, 1.0])], [record("a", [long, -math.inf, 1.0])])
    assert found.table[0]["stable_output"] == [long, "NaN", 1.0]
    assert found.table[0]["candidate_output"] == [long, "-Infinity", 1.0]
    json.dumps(found.table, allow_nan=False)
