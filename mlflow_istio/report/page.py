"""Report data -> one self-contained HTML page: inline style, inline SVG, nothing from elsewhere, every text escaped."""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.inspection.difference import difference
from mlflow_istio.errors import visible
from mlflow_istio.report import words
from mlflow_istio.report.data import ReportData
from mlflow_istio.report.drawings import alpha_of, charts_of

_MOST_LINES = 400
"""Lines of a difference that are shown."""

_MOST_CHANGES = 200
"""Changes that are listed; a release that somebody moves by a script may have thousands."""

_LONGEST = 160
"""Characters of a line of a difference; annotations hold long JSON."""

_BOOKKEEPING = ("unrecorded.", "progress.", "state.", "release.", "deadlines.", "untold.", "deployed.")


def render(data: ReportData) -> str:
    """The page.

    Args:
        data: What is known of the release; any part but its name may be missing.

    Returns:
        HTML, for every width, light and dark, well under 500 KB.
    """
    facts = _facts(data)
    return _template().render(
        data=data,
        style=_file("page.css"),
        sign=dict(zip(("style", "symbol", "word"), words.sign(data), strict=True)),
        headline=words.headline(data),
        because=words.because(data),
        by_whom=words.by_whom(data),
        facts=facts,
        guards=_guards(data),
        limit=words.number(1 / alpha_of(data)),
        charts=charts_of(data),
        changes=_changes(data),
        left_out=max(0, len(data.changes) - _MOST_CHANGES),
        comparison=_comparison(data),
        terms=data.comparison.terms if data.comparison else "",
        different=[
            {"id": key, "by": "not comparable" if size is None else words.number(size), "note": note}
            for key, size, note in (data.comparison.most_different if data.comparison else ())
        ],
        diff=_diff(data),
        plan=_json(data.plan),
        evidence=_json(data.verdict.get("evidence") or {}),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _DiffLine:
    kind: str
    sign: str
    text: str


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters["moment"] = words.moment
    return environment.from_string(_file("page.html.j2"))


def _shown(value: Any) -> Any:
    """A text with signs of direction and control characters written out; markup of ours as it is."""
    return visible(value, lines=True) if type(value) is str else value


@functools.cache
def _file(name: str) -> str:
    return (importlib.resources.files("mlflow_istio.report") / name).read_text(encoding="utf-8")


def _facts(data: ReportData) -> list[tuple[str, str]]:
    """The few things to know first: name and value."""
    start = data.opened or (data.changes[0].time if data.changes else None)
    end = data.ended or data.made
    facts = [
        ("Strategy", words.strategy_of(data)),
        ("Candidate" if len(data.candidates) < 2 else "Candidates", _with_versions(data, data.candidates)),
        ("Stable before", _with_versions(data, (words.stable_of(data),) if words.stable_of(data) else ())),
        ("Compared with, a control", _with_versions(data, data.controls)),
        ("Began (UTC)", words.moment(start) if start else ""),
        ("Took" if data.ended else "So far", words.span(start, end) if start else ""),
        ("Opened by", data.changes[0].who if data.changes else ""),
        ("Looks", str(len(data.series("look/evidence")) or "")),
    ]
    for side in ("candidate", "stable", "control"):
        requests = data.last(f"look/requests/{side}")
        facts.append((f"Requests seen, {side}", "" if requests is None else words.number(requests)))
    return [(name, value) for name, value in facts if value]


def _with_versions(data: ReportData, names: tuple[str, ...]) -> str:
    versions: dict[str, str] = {}
    for change in data.changes:
        versions |= change.versions
    return ", ".join(f"{name} ({versions[name]})" if versions.get(name) else name for name in names)


def _guards(data: ReportData) -> list[dict[str, str]]:
    """Each guard's last figures."""
    rows = []
    for guard in data.guards:
        values = {part: data.last(f"look/{guard}/{part}") for part in _GUARD_PARTS}
        sides = [value for value in (values["candidate"], values["stable"]) if value is not None]
        shown = words.percent if all(0 <= value <= 1 for value in sides) else words.number
        log_e = values["log_e"]
        ratio = values["ratio"]
        lower, upper = values["ratio_lower"], values["ratio_upper"]
        rows.append(
            {
                "name": words.guard_name(guard),
                "candidate": "-" if values["candidate"] is None else shown(values["candidate"]),
                "stable": "-" if values["stable"] is None else shown(values["stable"]),
                "ratio": "-" if ratio is None else words.times(ratio),
                "range": (
                    "-"
                    if lower is None and upper is None
                    else f"{'0x' if lower is None else words.times(lower)} to "
                    f"{'unlimited' if upper is None else words.times(upper)}"
                ),
                "evidence": "-" if log_e is None else words.e_value(log_e),
            }
        )
    return rows


_GUARD_PARTS = ("candidate", "stable", "ratio", "ratio_lower", "ratio_upper", "log_e")


def _changes(data: ReportData) -> list[dict[str, Any]]:
    changes = list(data.changes)
    if len(changes) > _MOST_CHANGES:
        changes = [*changes[: _MOST_CHANGES // 2], *changes[-_MOST_CHANGES // 2 :]]
    return [
        {
            "sequence": change.sequence,
            "time": words.moment(change.time),
            "action": change.action,
            "before": words.traffic_words(change.before),
            "after": words.traffic_words(change.after),
            "more": words.change_words(change),
            "who": change.who or "-",
            "reason": change.reason or "-",
            "verdict": str(change.evidence.get("word") or "") if isinstance(change.evidence, Mapping) else "",
        }
        for change in changes
    ]


def _comparison(data: ReportData) -> list[dict[str, str]]:
    """The comparison's figures, those with an interval in one row."""
    figures = {
        name.removeprefix("shadow/"): value
        for name, value in (data.comparison.figures if data.comparison else {}).items()
        if math.isfinite(value)
    }
    rows = []
    for name, value in figures.items():
        if name.endswith(("_lower", "_upper")) and name.rpartition("_")[0] in figures:
            continue
        lower, upper = figures.get(f"{name}_lower"), figures.get(f"{name}_upper")
        share = name in ("agreement", "prediction_agreement", "unmatched_share")
        shown = words.percent if share else words.number
        between = f"{shown(lower)} to {shown(upper)}" if lower is not None and upper is not None else "-"
        rows.append({"name": name.replace("_", " "), "value": shown(value), "range": between})
    return rows


def _diff(data: ReportData) -> list[_DiffLine]:
    """The VirtualService before and after, line by line."""
    if data.before is None and data.after is None:
        return []
    text = difference("VirtualService", data.endpoint, _without_books(data.before), _without_books(data.after))
    lines = text.splitlines()[2:]  # the names of both sides say nothing here
    kinds = {"+": ("add", "+"), "-": ("del", "-"), "@": ("hunk", "")}
    shown = []
    for line in lines[:_MOST_LINES]:
        kind, sign = kinds.get(line[:1], ("same", " "))
        body = line if kind == "hunk" else line[1:]
        body = body if len(body) <= _LONGEST else f"{body[:_LONGEST]} ..."
        shown.append(_DiffLine(kind=kind, sign=sign, text=body))
    if len(lines) > _MOST_LINES:
        shown.append(_DiffLine(kind="hunk", sign="", text=f"({len(lines) - _MOST_LINES} more lines)"))
    return shown


def _without_books(obj: Object | None) -> Object | None:
    """The object without what only this package's bookkeeping writes, which changes with every step."""
    if obj is None or not isinstance(obj.get("metadata"), dict):
        return None
    metadata = dict(obj["metadata"])
    own = "mlflow-istio.org/"
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if not (key.startswith(own) and key.removeprefix(own).startswith(_BOOKKEEPING))
    }
    return {**obj, "metadata": {**metadata, "annotations": annotations}}


def _json(value: Mapping[str, Any]) -> str:
    """Small JSON for people; empty when there is nothing."""
    text = json.dumps(value, indent=2, sort_keys=True, default=str, ensure_ascii=False) if value else ""
    return text if len(text) <= 20_000 else f"{text[:20_000]}\n..."
