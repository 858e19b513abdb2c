"""What the report says in sentences and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Traffic
from mlflow_istio.report.data import ReportData

_STRATEGIES = {"canary": "canary", "ab": "A/B", "blue-green": "blue-green", "shadow": "shadow"}

_SIGNS = {
    "promoted": ("good", "✓", "Promoted"),
    "rolled-back": ("bad", "↩", "Rolled back"),
    "aborted": ("off", "■", "Aborted"),
    "superseded": ("off", "»", "Superseded"),
    "inconclusive": ("unsure", "?", "Inconclusive"),
    "": ("open", "…", "In progress"),
}

GUARDS = {
    "errors": "Errors",
    "latency": "Latency",
    "ttft": "Time to first token",
    "tpot": "Time per token",
    "tokens": "Tokens",
    "unfinished": "Unfinished streams",
}


def sign(data: ReportData) -> tuple[str, str, str]:
    """Style, symbol and word of the outcome."""
    return _SIGNS.get(data.outcome, ("off", "•", data.outcome))


def headline(data: ReportData) -> str:
    """How the release stands, in one sentence that needs no knowledge of statistics."""
    who = listed(data.candidates) or "The candidate"
    stable = stable_of(data)
    most = highest_share(data)
    reached = f" It had reached {percent(most / 100)} of the traffic." if most else _never(data)
    if data.outcome == "promoted":
        winner = winner_of(data) or who
        replaced = f" instead of {stable}" if stable and stable != winner else ""
        return f"{winner} was promoted and answers users{replaced}."
    if data.outcome == "rolled-back":
        back = f"users are back on {stable}" if stable else "users are back on the version they had before"
        if _promoted_before(data):
            return f"{who} was rolled back after its promotion: {back}."
        return f"{who} was rolled back: {back}.{reached}"
    if data.outcome == "inconclusive":
        return f"Time ran out before {who} was proved good or bad, so it was not promoted.{reached}"
    if data.outcome in ("aborted", "superseded"):
        why = "was aborted by a person" if data.outcome == "aborted" else "was superseded by another release"
        return f"The release of {who} {why}.{reached}"
    if data.outcome:
        return f"The release of {who} ended: {data.outcome}.{reached}"
    if _watched(data):
        left = f" beside {stable}" if stable else ""
        return f"{who} was promoted and is watched{left}: it goes back if it turns worse."
    return f"The release of {who} is open{_present(data)}."


def _watched(data: ReportData) -> bool:
    """Whether the candidate is stable while its release is still open."""
    return any(change.action == "promote" for change in data.changes)


def because(data: ReportData) -> str:
    """Why: the deciding verdict's reason, or the person's."""
    reason = str(data.verdict.get("reason") or "")
    return reason or (data.changes[-1].reason if data.changes and data.outcome else "")


def by_whom(data: ReportData) -> str:
    """Who ended it."""
    if not (data.outcome and data.changes):
        return ""
    who = data.changes[-1].who
    if data.verdict.get("word"):
        return f"decided by the analysis, driven by {who}" if who else "decided by the analysis"
    return f"decided by {who}" if who else ""


def strategy_of(data: ReportData) -> str:
    """The strategy's name for people."""
    return _STRATEGIES.get(data.strategy, data.strategy)


def stable_of(data: ReportData) -> str:
    """The deployment with the most traffic before the release, other than its candidates."""
    before = next((change.before for change in data.changes if change.before), None)
    others = {name: weight for name, weight in shares(before).items() if name not in data.candidates}
    return max(others, key=lambda name: others[name], default="")


def winner_of(data: ReportData) -> str:
    """The candidate with the most traffic at the end."""
    at_end = shares(data.changes[-1].after) if data.changes else {}
    return max(at_end, key=lambda name: at_end[name], default="")


def highest_share(data: ReportData) -> float:
    """The largest percentage that the candidates together ever had."""
    ever = [sum(shares(change.after).get(name, 0) for name in data.candidates) for change in data.changes]
    return max(ever, default=0)


def shares(traffic: Traffic | None) -> dict[str, int]:
    """Deployment to percent; empty where the endpoint is gone."""
    return dict(traffic.weights) if traffic else {}


def traffic_words(traffic: Traffic | None) -> str:
    """``churn-v1 90%, churn-v2 10%``, with mirrors."""
    if traffic is None:
        return "(no endpoint)"
    parts = [f"{name} {weight}%" for name, weight in traffic.weights.items() if weight]
    parts += [f"{mirror.destination.name} mirrored {mirror.percentage:g}%" for mirror in traffic.mirrors]
    return ", ".join(parts)


def change_words(change: RoutingChange) -> str:
    """What a change did besides moving weights; empty when nothing."""
    before, after = (set(end.pins) if end else set() for end in (change.before, change.after))
    parts = [f"{name} added" for name in sorted(after - before)]
    parts += [f"{name} removed" for name in sorted(before - after)]
    return ", ".join(parts)


def percent(share: float) -> str:
    """A share as percent, with as many digits as it deserves."""
    value = round(100 * share, 9)
    if value == 0 or value >= 10:
        return f"{value:.0f}%" if value == round(value) else f"{value:.1f}%"
    digits = 2 if value >= 0.1 else max(2, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}".rstrip("0").rstrip(".") + "%"


def number(value: float) -> str:
    """A number with three significant digits, and thousands separated."""
    if value != 0 and (abs(value) < 0.001 or abs(value) >= 1e7):
        return f"{value:.2g}"
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def times(value: float) -> str:
    """A ratio."""
    return f"{number(value)}x"


def e_value(log_e: float) -> str:
    """An e-value from its natural logarithm."""
    if log_e > 16:
        return f"10^{log_e / math.log(10):.0f}"
    if log_e < -9:
        return "~0"
    return f"{math.exp(log_e):.2g}" if log_e < 4.6 else number(math.exp(log_e))


def moment(time: datetime) -> str:
    """A time for people, in UTC."""
    return time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def span(start: datetime, end: datetime) -> str:
    """How long from one time to another."""
    total = max(0, round((end - start) / timedelta(seconds=1)))
    parts = [(total // 86400, "d"), (total // 3600 % 24, "h"), (total // 60 % 60, "min"), (total % 60, "s")]
    words = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(words[:2]) or "under 1 s"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), *names[-1:]])


def guard_name(guard: str) -> str:
    """What people call a guard."""
    return GUARDS.get(guard, guard)


def _never(data: ReportData) -> str:
    mirrored = any(change.after and change.after.mirrors for change in data.changes)
    return " It only ever got copies of requests." if mirrored else " It never had any traffic."


def _present(data: ReportData) -> str:
    """What the candidates get now."""
    now = data.changes[-1].after if data.changes else None
    if now is None:
        return ""
    if now.mirrors:
        copies = ", ".join(f"{m.destination.name} gets a copy of {m.percentage:g}%" for m in now.mirrors)
        return f": {copies} of the requests"
    weights = ", ".join(f"{name} gets {now.weights.get(name, 0)}%" for name in data.candidates)
    return f": {weights} of the traffic" if weights else ""


def _promoted_before(data: ReportData) -> bool:
    return any(change.action == "promote" for change in data.changes[:-1])
