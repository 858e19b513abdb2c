"""A shadow's answers beside the stable's: which records belong together, and the table of the most different requests. Pure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.analysis.shadow import JoinedRecords, ShadowRecord, ShadowTally, join_records

COLUMNS = (
    *("request_id", "difference", "note", "stable_status", "candidate_status", "stable_ms", "candidate_ms"),
    *("stable_output", "candidate_output", "input"),
)
_MOST_FAILURES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What a comparison found.

    Attributes:
        tally: The counts.
        table: The most different requests, worst first; before them failures that only one side had, and of the scorer. Keys are
            ``COLUMNS``.
        since: Unix seconds from which on requests were compared.
        until: Unix seconds up to which.
        partial: Whether only a part of the traffic is mirrored, so that a request without copy is no loss.
    """

    tally: ShadowTally
    table: Sequence[Mapping[str, Any]]
    since: float
    until: float
    partial: bool


def compare_records(
    stable: Sequence[Mapping[str, Any]],
    candidate: Sequence[Mapping[str, Any]],
    *,
    rule: AnswerRule,
    since: float,
    until: float,
    partial: bool,
) -> Comparison:
    """Compare the recorded answers of a time window.

    Args:
        stable: The stable's records.
        candidate: The candidate's records.
        rule: When two answers agree.
        since: Unix seconds; requests before were not mirrored yet, or lie where one side has lost records.
        until: Unix seconds; of requests after, the other half may still be on its way.
        partial: Whether only a part of the traffic is mirrored.

    Raises:
        InvalidInput: A record can't be read.
    """
    ours, theirs = _in_window(stable, candidate, since, until)
    if partial:
        copied = {_id(record) for record in theirs}
        ours = [record for record in ours if record.get("pinned") or _id(record) in copied]
    joined = join_records(
        [ShadowRecord.from_json(record) for record in ours], [ShadowRecord.from_json(record) for record in theirs]
    )
    tally = ShadowTally(rule=rule).update(joined)
    table = _table(tally, joined, _firsts(ours), _firsts(theirs))
    return Comparison(tally=tally, table=table, since=since, until=until, partial=partial)


def table_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as CSV; structured cells are JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({key: _cell(row.get(key)) for key in COLUMNS})
    return out.getvalue()


def _in_window(
    stable: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], since: float, until: float
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Each side's records, oldest first; a pair counts when the stable's first record of the id lies in the window.

    The two halves arrive at slightly different times, so the edge of the window must not part them.
    """
    all_ours, all_theirs = (sorted(side, key=_time) for side in (stable, candidate))
    first = _firsts(all_ours)

    def inside(record: Mapping[str, Any]) -> bool:
        return since <= _time(first.get(_id(record), record)) <= until

    return [record for record in all_ours if inside(record)], [record for record in all_theirs if inside(record)]


def _firsts(records: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The first record of each request id that its caller did not send to a version of his choice."""
    first: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if not record.get("pinned"):
            first.setdefault(_id(record), record)
    return first


def _id(record: Mapping[str, Any]) -> str:
    return str(record.get("request_id"))


def _time(record: Mapping[str, Any]) -> float:
    return float(record.get("time", 0.0))


def _table(
    tally: ShadowTally,
    joined: JoinedRecords,
    ours: Mapping[str, Mapping[str, Any]],
    theirs: Mapping[str, Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    rows: list[tuple[str, float, str]] = []
    for stable, candidate in joined.pairs:
        if stable.failed != candidate.failed and len(rows) < _MOST_FAILURES:
            side = "candidate" if candidate.failed else "stable"
            rows.append((stable.request_id, math.inf, f"only the {side} failed"))
    rows += [(item.request_id, item.difference, item.note) for item in (*tally.failures, *tally.most_different)]
    return [_row(key, size, note, ours[key], theirs[key]) for key, size, note in rows]


def _row(
    key: str, difference: float, note: str, stable: Mapping[str, Any], candidate: Mapping[str, Any]
) -> Mapping[str, Any]:
    return {
        "request_id": key,
        "difference": difference if math.isfinite(difference) else None,
        "note": note,
        "stable_status": stable["status"],
        "candidate_status": candidate["status"],
        "stable_ms": stable["ms"],
        "candidate_ms": candidate["ms"],
        "stable_output": _strict(stable.get("output")),
        "candidate_output": _strict(candidate.get("output")),
        "input": _strict(stable.get("input")),
    }


def _strict(value: Any) -> Any:
    """The value with NaN and infinities as text: the table is read by browsers and tools that know strict JSON only."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_strict(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    return value


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
