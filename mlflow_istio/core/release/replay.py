"""A release on counts that are given: no clock and no cluster, and the same ``advance`` decides that decides live.

Look k is at k times the plan's interval, and is given the counts of the interval that ends then. Before look 1 the stable
has all the traffic: what it answers there is its history (latency edges are chosen from it), as live what it answered
before the release; nothing is compared yet. The candidate's counters begin at 0, so its first requests count as they do where a
source shows a version before its first request.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS, latency_series, totals_source
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.release.advance import (
    Action,
    Call,
    GiveUp,
    Observation,
    Promote,
    RollBack,
    Stop,
    advance,
    step_shares,
)
from mlflow_istio.core.release.edges import missing_in
from mlflow_istio.core.release.evidence import Evidence, serves_nothing
from mlflow_istio.core.release.guards.table import GUARD_KINDS
from mlflow_istio.core.release.judgement import proven
from mlflow_istio.core.release.kpi import counts_from, numbers_from
from mlflow_istio.core.release.kpi_kinds import KPI_KINDS, misread_kpi
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.progress import Progress, first_progress
from mlflow_istio.core.release.watching import begun, watched
from mlflow_istio.errors import InvalidInput

ReplayOutcome = Literal["promoted", "rolled-back", "inconclusive", "open"]

START = datetime(2000, 1, 1, tzinfo=timezone.utc)
"""When a replayed release starts: any time does, since only differences matter."""

_UNKNOWN = (0.0, math.inf)

_NOT_OF_A_KPI = frozenset(GUARD_KINDS) - KPI_KINDS
"""Kinds of ours that read no KPI; what a package's kind reads isn't known here."""

_MOST = 2**53
"""Up to here a double holds every whole number, and counters are doubles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What one version answered in one interval (not since the start: the counts of an interval may be below the last one's).

    Attributes:
        requests: Answers given.
        errors: Of these, the failed ones.
        slower_than: Edge in milliseconds to the answers that took longer; the same edges at every look and for every version.
            A version without requests may leave them out. A plan that guards latency, as the default does, promotes nothing
            without edges: it waits for data, as it does live.
        kpi: KPI's name to (n, events) or (n, sum, sum of squares). Events may come after the look of their observations.
    """

    requests: int
    errors: int = 0
    slower_than: Mapping[float, int] = field(default_factory=dict)
    kpi: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


Traffic: TypeAlias = Callable[[int, Mapping[str, float]], Mapping[str, Counts]]
"""Number of the look and the percents of the interval that ends there -> the counts of each version in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """How a replayed release went.

    Attributes:
        outcome: promoted, rolled-back, inconclusive, or open: it (or its watch) went on after the last look, or stopped before
            promotion.
        look: At which look it ended, from 1; of an open one the last.
        step: Index of its step then, from 0; -1 before the first.
        reason: The last verdict's reason.
        proven: Guard's name to the interval of the odds ratio (of a mean: of the difference) that its verdicts rest on then;
            from 0 to infinity where nothing is known. A rule that has none, such as gross failure, is left out.
    """

    outcome: ReplayOutcome
    look: int
    step: int
    reason: str
    proven: Mapping[str, tuple[float, float]]


def replayed(plan: ReleasePlan, traffic: Traffic, *, looks: int, control: str = "") -> Replay:
    """Run a release on given counts until it ends, or for so many looks.

    A promotion that is watched goes on until its watch ends: well (promoted), or back (rolled-back).

    Approvals and webhooks count as given at once, and replicas as up at once: who gives them is not in the counts.

    Args:
        plan: A plan whose guards decide: canary or blue-green.
        traffic: Called once for each look, 1, 2, ... in this order.
        looks: The last look.
        control: Name of the control that the candidate is compared with; empty: with the stable. How many replicas anybody has
            isn't in the counts, so without one loads count as comparable.

    Raises:
        InvalidInput: The plan is decided by a comparison, there is no look, or the counts can't be; names the look.
    """
    if not plan.compares:
        raise InvalidInput(
            f"strategy={plan.strategy} can't be replayed: it is decided by comparing answers or arms, not by counts; use canary or "
            "blue-green"
        )
    if isinstance(looks, bool) or not isinstance(looks, Integral) or looks < 1:
        raise InvalidInput(f"looks is how often to look, at least 1; got {looks!r}")
    if not callable(traffic):
        raise InvalidInput(f"traffic is {_short(traffic)}: give a function of a look's number and the percents")
    plan = replace(plan, approval=None, capacity="fixed", surge=None)
    progress = first_progress(plan, START, control=control)
    counters = _Counters(plan, control)
    interval = timedelta(seconds=plan.interval)
    outcome: ReplayOutcome | None = None
    for look in range(1, looks + 1):
        weights = _weights(progress, control)
        excused = {plan.stable, control} if serves_nothing(progress.evidence, stable_ready=True) else set()
        counted = counters.advanced(look, traffic(look, dict(weights)), weights, excused)
        readings = counted if plan.guards else {}  # as live: nobody reads what nobody watches
        if problem := missing_in(plan, readings, "traffic") or misread_kpi(plan, readings):
            raise InvalidInput(f"look {look}: {problem}")
        now = START + look * interval
        progress, action = _looked(progress, Observation(readings=readings, weights=weights), now, last=look == looks)
        if isinstance(action, Promote) and plan.watch and progress.watch is None:
            progress = begun(progress, now)
            continue
        outcome = _outcome(action)
        if outcome is not None:
            break
    return Replay(
        outcome=outcome or "open",
        look=look,
        step=progress.step,
        reason=action.verdict.reason,
        proven=_proven(plan, progress.evidence),
    )


def _looked(progress: Progress, seen: Observation, now: datetime, *, last: bool) -> tuple[Progress, Action]:
    if progress.watch is not None:
        return watched(progress, seen, now)
    after, action = advance(progress, seen, now, figures=last)
    if isinstance(action, Call):
        answers = {hook.url: "" for hook in action.hooks}
        return advance(after, replace(seen, webhooks=answers), now, figures=last)
    return after, action


def _outcome(action: Action) -> ReplayOutcome | None:
    """What the action ends the release as, as the driver calls it; None when it goes on."""
    if isinstance(action, Promote):
        return "promoted"
    if isinstance(action, RollBack):
        return "rolled-back"
    if isinstance(action, GiveUp):
        return "inconclusive"
    if isinstance(action, Stop):
        return "inconclusive" if action.verdict.word == "inconclusive" else "open"
    return None


def _weights(progress: Progress, control: str) -> dict[str, float]:
    plan = progress.plan
    if progress.watch is not None:
        held_back = {plan.candidate: 100.0 - plan.holdback, plan.stable: float(plan.holdback)}
        return held_back | ({control: 0.0} if control else {})
    return step_shares(progress.plan, progress.evidence.control, progress.weight)


def _proven(plan: ReleasePlan, evidence: Evidence) -> dict[str, tuple[float, float]]:
    waiting = {guard.name: _UNKNOWN for guard in plan.guards if guard.name not in evidence.tests}
    return waiting | {name: (interval.lower, interval.upper) for name, interval in proven(plan, evidence).items()}


class _Counters:
    """Raw counters that grow by the counts of each interval, as a source of metrics would show them."""

    def __init__(self, plan: ReleasePlan, control: str = "") -> None:
        self._names = (*plan.deployments, *((control,) if control else ()))
        self._control = control
        self._kpis = frozenset(guard.name for guard in plan.guards if guard.kind not in _NOT_OF_A_KPI)
        self._edges: tuple[float, ...] | None = None
        self._series: tuple[str, ...] = ()
        self._totals: dict[str, dict[str, float]] = {name: {REQUESTS: 0, ERRORS: 0} for name in self._names}
        self._kpi_totals: dict[str, dict[str, dict[str, float]]] = {name: {} for name in self._names}

    def advanced(
        self, look: int, given: object, weights: Mapping[str, float], excused: Collection[str] = ()
    ) -> dict[str, Reading]:
        """The counters at a look; a version that was not given has no data then.

        One that has had no traffic yet is there, at 0: the base line of its first counts. An interval in which one with traffic has
        no data counts for nobody, since what it has answered is not known: else it would seem to have had no share of the
        traffic. ``excused`` are those for whom nobody waits.

        Raises:
            InvalidInput: Names look and version.
        """
        if not isinstance(given, Mapping):
            raise InvalidInput(f"look {look}: traffic gave {_short(given)}: give a Counts for each name")
        for name in given:
            if name not in self._totals:
                raise InvalidInput(f"look {look}: traffic gave counts of {name!r}: {nearest(str(name), self._names)}")
        if self._control and weights[self._control] and given and self._control not in given:
            raise InvalidInput(
                f"look {look}: traffic gave no counts of '{self._control}', the control, which has "
                f"{weights[self._control]:g}% of the traffic: give its Counts"
            )
        silent = {name for name in self._names if weights[name] and name not in given} - {*excused}
        before = copy.deepcopy((self._totals, self._kpi_totals)) if silent else None
        for name, counts in given.items():
            self._add(f"look {look}, '{name}'", name, counts)
        if before is not None:
            self._totals, self._kpi_totals = before
        seen = [name for name in self._names if name in given or not (weights[name] or self._totals[name][REQUESTS])]
        return {
            name: {"replay": dict(self._totals[name])}
            | {totals_source(kpi): dict(counts) for kpi, counts in self._kpi_totals[name].items()}
            for name in seen
        }

    def _add(self, where: str, version: str, counts: object) -> None:
        if not isinstance(counts, Counts):
            raise InvalidInput(f"{where}: {_short(counts)} is no Counts: give Counts(requests=..., errors=...)")
        requests = _whole(where, "requests", counts.requests)
        errors = _whole(where, "errors", counts.errors)
        if errors > requests:
            raise InvalidInput(f"{where}: {errors} errors of {requests} requests: errors are some of the requests")
        totals = self._totals[version]
        totals[REQUESTS] += requests
        totals[ERRORS] += errors
        self._add_latencies(where, totals, requests, counts.slower_than)
        if not isinstance(counts.kpi, Mapping):
            raise InvalidInput(f"{where}: kpi must be KPIs' names with their counts, not {counts.kpi!r}")
        for name, numbers in counts.kpi.items():
            self._add_kpi(where, self._kpi_totals[version], name, numbers)

    def _add_latencies(self, where: str, totals: dict[str, float], requests: int, slower_than: object) -> None:
        if not isinstance(slower_than, Mapping):
            raise InvalidInput(f"{where}: slower_than is {_short(slower_than)}: give edge in ms -> slower answers")
        if not requests and not slower_than:
            return
        if self._edges is None:
            self._edges = _checked_edges(where, slower_than)
            self._series = tuple(latency_series(edge) for edge in (*self._edges, math.inf))
        if len(slower_than) != len(self._edges) or any(edge not in slower_than for edge in self._edges):
            raise InvalidInput(f"{where}: {_edges_differ(slower_than, self._edges)}")
        if not self._edges:
            return
        before, nearer = requests, "requests"
        for edge, series in zip(self._edges, self._series, strict=False):
            slower = _whole(where, f"slower_than {edge:g} ms", slower_than[edge])
            if slower > before:
                words = f"{slower} answers slower than {edge:g} ms, but only {before} {nearer}"
                raise InvalidInput(f"{where}: {words}: counts can't rise with the edge")
            totals[series] = totals.get(series, 0) + requests - slower
            before, nearer = slower, f"slower than {edge:g} ms"
        totals[self._series[-1]] = totals.get(self._series[-1], 0) + requests

    def _add_kpi(self, where: str, totals: dict[str, dict[str, float]], name: str, numbers: Any) -> None:
        if name not in self._kpis:
            raise InvalidInput(f"{where}: unknown KPI '{name}': {nearest(name, self._kpis)}")
        try:
            given = numbers_from(name, numbers)
            if given is None:
                raise InvalidInput(f"KPI '{name}' is None: leave it out where nothing was observed")
            parts = ("n", "events") if len(given) == 2 else ("n", "sum", "sum_squares")
            keys = [f"kpi/{name}/{part}" for part in parts]
            so_far = totals.get(name, {})
            grown = [so_far.get(key, 0) + number for key, number in zip(keys, given, strict=True)]
            counts_from(name, tuple(grown))
        except InvalidInput as exc:
            raise InvalidInput(f"{where}: {exc.message}") from exc
        totals[name] = dict(zip(keys, grown, strict=True))


def _checked_edges(where: str, slower_than: Mapping[Any, Any]) -> tuple[float, ...]:
    for edge in slower_than:
        number = isinstance(edge, Real) and not isinstance(edge, bool)
        if not (number and 0 < edge <= _MOST):
            raise InvalidInput(f"{where}: slower_than has the edge {_short(edge)}: edges are milliseconds above 0")
    edges = tuple(sorted(slower_than))
    for nearer, farther in pairwise(edges):
        if round(nearer, 6) == round(farther, 6):  # as series are named
            raise InvalidInput(
                f"{where}: slower_than has the edges {nearer!r} and {farther!r}, which are one: leave one out"
            )
    return edges


def _edges_differ(slower_than: Mapping[Any, Any], edges: tuple[float, ...]) -> str:
    lost = [edge for edge in edges if edge not in slower_than]
    new = [edge for edge in slower_than if edge not in edges]
    what = f"lacks the edge {lost[0]:g} ms" if lost else f"has the new edge {new[0]!r} ms"
    known = ", ".join(f"{edge:g}" for edge in edges) or "none"
    return f"slower_than {what}: the first counts fixed the edges ({known}), give these at every look"


def _whole(where: str, what: str, value: Any) -> int:
    """A count as a plain integer; numpy's are taken, and so is 3.0."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    else:
        if number == value and number >= 0 and not isinstance(value, (str, bool)):
            if number > _MOST:
                raise InvalidInput(f"{where}: {what} is {_short(value)}: more than {_MOST:,} can't be counted exactly")
            return number
    raise InvalidInput(f"{where}: {what} is {_short(value)}: counts are whole numbers from 0 up")


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
