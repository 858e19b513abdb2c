"""An A/B/n release under analysis: what was counted so far, one look after the other, and what it says. Pure.

The state is plain JSON, because whoever looks next may be another process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from mlflow_istio.core.analysis.arms import ArmsResult, compare_means, compare_rates, judge_arms
from mlflow_istio.core.analysis.counters import LAST_VALUES, CounterState, Reading
from mlflow_istio.core.analysis.interval import Interval, finite
from mlflow_istio.core.analysis.means import NO_MOMENTS, NO_SUMS, Direction, MeanDifference, Sums, mean_sequence
from mlflow_istio.core.analysis.measures import ASSIGNMENTS, ERRORS, REQUESTS, kpi_counts
from mlflow_istio.core.analysis.proportion import NO_REQUESTS, Proportion
from mlflow_istio.core.analysis.rate_test import EACH_LOOK, RateTest
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.core.basics.stored import form, stored, to_json
from mlflow_istio.core.release.guards.kpi_mean import sums_of
from mlflow_istio.errors import InvalidInput

ERRORS_KPI = "errors"
"""The KPI where no other is given: failed requests, fewer are better."""


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentPlan:
    """What an A/B/n release is judged by; fixed by the first look.

    Attributes:
        release: The release's id.
        control: The control's deployment: the stable.
        challengers: The other arms.
        kpi: Name of the KPI, or ``errors``.
        better: Which direction is good.
        equivalence_margin: The largest difference that doesn't matter: an odds ratio above 1, or a difference of means.
        alpha: Error probability over all arms and looks.
        overdispersion: Overdispersion of a binary KPI (see ``RateTest``).
        phase: The longest slow phase of a server in seconds; 0: observations are independent.
        label_delay: Seconds after which events may still come.
        randomised: Whether chance decided who came to which arm.
        returning: Whether an arm's cookie or header brings requests to it, so that requests are no assignments.
    """

    release: str
    control: str
    challengers: tuple[str, ...]
    kpi: str = ERRORS_KPI
    better: Literal["higher", "lower"] = "lower"
    equivalence_margin: float | None = field(default=None, metadata=stored(name="delta"))
    alpha: float = 0.05
    overdispersion: float = field(default=1.0, metadata=stored(name="phi"))
    phase: float = field(default=0.0, metadata=stored(sparse=True))
    label_delay: float = field(default=0.0, metadata=stored(sparse=True))
    randomised: bool = True
    returning: bool = False

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms, the control first."""
        return (self.control, *self.challengers)


def _counts(events: Mapping[str, Proportion]) -> dict[str, list[int]]:
    return {arm: [counts.events, counts.total] for arm, counts in events.items()}


def _proportions(data: Mapping[str, Sequence[int]], context: Mapping[str, Any]) -> dict[str, Proportion]:
    """Counts are read knowing the ``plan``, which says how overdispersed they are."""
    return {
        arm: Proportion(events=n[0], total=n[1], overdispersion=context["plan"].overdispersion)
        for arm, n in data.items()
    }


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """An A/B/n release as far as it has been looked at; starts with ``Experiment(plan=...)``.

    Attributes:
        plan: What it is judged by.
        looks: How often it was looked at; the first look is the base line and counts nothing.
        counters: The last values of each arm's counters.
        rates: For a binary KPI, each challenger's test against the control.
        means: For a numeric KPI, each challenger's difference from the control.
        events: For a binary KPI, each arm's counts.
        moments: For a numeric KPI, each arm's moments.
        requests: Requests of each arm.
        weights: Weight of each arm since the last look.
        ratio: The test of the shares; None until the source has told assignments.
        missing: Arms without data at the last look.
        read: When the counters were read, in UTC; None: never, or by an earlier version.
        since: Since when the arms have had their weights, in UTC; None: as ``read``.
        ahead: Events of each arm beyond its observations: what they are of is still to be counted.
    """

    plan: ExperimentPlan = field(metadata=stored(context=True))
    looks: int = 0
    counters: Mapping[str, CounterState] = field(default_factory=dict, metadata=LAST_VALUES)
    rates: Mapping[str, RateTest] = field(default_factory=dict)
    means: Mapping[str, MeanDifference] = field(default_factory=dict)
    events: Mapping[str, Proportion] = field(default_factory=dict, metadata=stored(write=_counts, read=_proportions))
    moments: Mapping[str, Sums] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    ratio: SampleRatioTest | None = None
    missing: tuple[str, ...] = ()
    read: datetime | None = field(default=None, metadata=stored(sparse=True))
    since: datetime | None = field(default=None, metadata=stored(sparse=True))
    ahead: Mapping[str, int] = field(default_factory=dict, metadata=stored(sparse=True))

    def look(
        self, readings: Mapping[str, Reading], weights: Mapping[str, int], now: datetime | None = None
    ) -> Experiment:
        """Take in one look.

        All arms are counted over the same intervals: while one has no data, the others wait.

        Args:
            readings: What the source of metrics gave; the arms without data are absent.
            weights: Each arm's weight now.
            now: The time in UTC; None: it doesn't matter, since observations are independent.
        """
        plan = self.plan
        missing = tuple(arm for arm in plan.arms if not _has(readings.get(arm, {}), plan.kpi))
        if missing:
            return replace(self, looks=self.looks + 1, missing=missing)
        states, grown = {}, {}
        for arm in plan.arms:
            states[arm], grown[arm] = self.counters.get(arm, CounterState()).advanced(_needed(readings[arm], plan.kpi))
        seen = replace(self, looks=self.looks + 1, counters=states, weights=dict(weights), missing=(), read=now)
        if not self.counters or seen.weights != self.weights:
            seen = replace(seen, since=now)
        if not self.counters:
            return seen
        requests = {arm: self.requests.get(arm, 0) + round(grown[arm].get(REQUESTS, 0)) for arm in plan.arms}
        return replace(seen, requests=requests)._with_ratio(self, grown)._with_kpi(grown, _seconds(self.read, now))

    def result(self) -> ArmsResult:
        """What can be said now."""
        plan = self.plan
        if self.missing:
            return self._inconclusive(f"No data from {', '.join(self.missing)}.")
        if not self.rates and not self.means:
            return self._inconclusive(
                "This look is the base line: counting begins with it."
                if not self.requests
                else f"The source of metrics has no counts of '{plan.kpi}'."
            )
        if self.means:
            comparisons = compare_means(self.means, alpha=plan.alpha)
        else:
            comparisons = compare_rates(self.rates, alpha=plan.alpha, higher_is_better=plan.better == "higher")
        # Without a delta nobody can say that there is no difference: one that nothing fits inside.
        least = math.ulp(0.0) if self.means else 1 + 1e-12
        margin = plan.equivalence_margin if plan.equivalence_margin is not None else least
        result = judge_arms(
            comparisons,
            control=plan.control,
            equivalence_margin=margin,
            sample_ratio=self.ratio,
            randomised=plan.randomised,
        )
        unchecked = self.ratio is None and plan.randomised
        note = " The arms' shares could not be checked: the source can't tell who is new." if unchecked else ""
        evidence = {**result.evidence, **self._evidence(), "delta": plan.equivalence_margin}
        return replace(result, reason=result.reason + note, evidence=evidence)

    def intervals(self) -> Mapping[str, Interval]:
        """Each arm's rate or mean with its confidence sequence, each at alpha."""
        if self.moments:
            return {
                arm: mean_sequence(self.moments[arm].moments or NO_MOMENTS, self.plan.alpha) for arm in self.plan.arms
            }
        return {
            arm: self.events.get(arm, NO_REQUESTS).confidence_sequence(self.plan.alpha)
            for arm in self.plan.arms
            if self.events
        }

    def figures(self) -> dict[str, float]:
        """The figures of this look as flat metrics for MLflow; what isn't known yet is left out."""
        values: dict[str, float | None] = {f"arms/requests/{arm}": n for arm, n in self.requests.items()}
        for arm, interval in self.intervals().items():
            for part, value in (("", interval.estimate), ("_lower", interval.lower), ("_upper", interval.upper)):
                values[f"arms/{self.plan.kpi}{part}/{arm}"] = finite(value)
        if self.ratio is not None:
            values["arms/sample_ratio_p"] = self.ratio.p_value
        return {name: float(value) for name, value in values.items() if value is not None}

    def _with_ratio(self, before: Experiment, grown: Mapping[str, Mapping[str, float]]) -> Experiment:
        """Count assignments; requests stand for them where no arm brings anybody back."""
        series = ASSIGNMENTS if any(ASSIGNMENTS in growth for growth in grown.values()) else REQUESTS
        if series == REQUESTS and self.plan.returning:
            return self
        weights = {arm: self.weights.get(arm, 0) for arm in self.plan.arms}
        if not any(weights.values()):
            return self
        ratio = self.ratio or SampleRatioTest.of(weights)
        if weights != {arm: before.weights.get(arm, 0) for arm in self.plan.arms}:
            # Nobody knows how much of this interval came before the change.
            return replace(self, ratio=ratio.reweighted(weights))
        counts = {arm: round(grown[arm].get(series, 0)) for arm in ratio.shares}
        return replace(self, ratio=ratio.update(counts))

    def _with_kpi(self, grown: Mapping[str, Mapping[str, float]], seconds: float) -> Experiment:
        plan = self.plan
        if plan.kpi == ERRORS_KPI:
            counts = {
                arm: (round(growth.get(ERRORS, 0)), round(growth.get(REQUESTS, 0))) for arm, growth in grown.items()
            }
            return self._with_rates(counts, seconds)
        kpis = {arm: kpi_counts(growth, plan.kpi) for arm, growth in grown.items()}
        with_kpi = {arm: kpi for arm, kpi in kpis.items() if kpi is not None}
        if len(with_kpi) < len(kpis):
            return replace(self, missing=tuple(arm for arm, kpi in kpis.items() if kpi is None))
        if all(kpi.events is not None for kpi in with_kpi.values()):
            return self._with_rates(
                {arm: (round(kpi.events or 0), round(kpi.n)) for arm, kpi in with_kpi.items()}, seconds
            )
        try:
            sums = {arm: sums_of(kpi) for arm, kpi in with_kpi.items()}
        except InvalidInput:  # a source that says infinity
            return self
        return self._with_means(sums, seconds)

    def _with_rates(self, counts: Mapping[str, tuple[int, int]], seconds: float) -> Experiment:
        plan = self.plan
        control = counts[plan.control]
        empty = RateTest.of(plan.phase, overdispersion=plan.overdispersion, stratum=max(plan.label_delay, EACH_LOOK))
        mixed = self._mixed(seconds)
        rates = {}
        for arm in plan.challengers:
            test = self.rates.get(arm, empty)
            # One that an earlier version began takes no events of observations before.
            sides = (counts[arm], control) if test.stratum else (_clipped(counts[arm]), _clipped(control))
            both = (*sides[0], *sides[1])
            rates[arm] = test.set_aside(*both) if mixed else test.update(*both, seconds=seconds)
        events, ahead = {}, {}
        for arm in plan.arms:
            before = self.events.get(arm, Proportion(overdispersion=plan.overdispersion))
            booked, total = before.events + self.ahead.get(arm, 0) + counts[arm][0], before.total + counts[arm][1]
            events[arm] = replace(before, events=min(booked, total), total=total)
            ahead[arm] = booked - events[arm].events
        return replace(self, rates=rates, events=events, ahead={arm: n for arm, n in ahead.items() if n})

    def _mixed(self, seconds: float) -> bool:
        """Whether events of the interval may be of observations that had other shares, or came before the base line."""
        if not self.plan.label_delay or self.since is None or self.read is None:
            return False
        return self.read - timedelta(seconds=seconds) < self.since + timedelta(seconds=self.plan.label_delay)

    def _with_means(self, sums: Mapping[str, Sums], seconds: float) -> Experiment:
        plan = self.plan
        worse: Direction = "lower" if plan.better == "higher" else "higher"
        empty = MeanDifference.of(plan.phase, worse=worse, stratum=plan.label_delay)
        means = {}
        for arm in plan.challengers:
            test = self.means.get(arm, empty)
            aside = bool(test.stratum) and self._mixed(seconds)
            means[arm] = test.set_aside() if aside else test.update(sums[arm], sums[plan.control], seconds=seconds)
        moments = {arm: self.moments.get(arm, NO_SUMS).plus(sums[arm]) for arm in plan.arms}
        return replace(self, means=means, moments=moments)

    def _inconclusive(self, reason: str) -> ArmsResult:
        return ArmsResult(outcome="inconclusive", winner=None, reason=reason, evidence=self._evidence())

    def _evidence(self) -> dict[str, Any]:
        ratio: dict[str, Any] = {"checked": self.ratio is not None}
        if self.ratio is not None:
            ratio |= {
                "mismatch": self.ratio.mismatched(),
                "p_value": self.ratio.p_value,
                "shares": dict(self.ratio.shares),
                "counts": dict(self.ratio.counts),
            }
        return {
            "kpi": self.plan.kpi,
            "better": self.plan.better,
            "alpha": self.plan.alpha,
            "looks": self.looks,
            "requests": dict(self.requests),
            "arms": {arm: to_json(interval) for arm, interval in self.intervals().items()},
            "sample_ratio": ratio,
        }


def _clipped(counts: tuple[int, int]) -> tuple[int, int]:
    return min(counts), counts[1]


def _seconds(before: datetime | None, now: datetime | None) -> float:
    """How long an interval was; a second where nobody knows."""
    if before is None or now is None:
        return 1.0
    return max((now - before) / timedelta(seconds=1), 1e-3)


def _has(reading: Reading, kpi: str) -> bool:
    """Whether a reading holds the KPI's number of observations."""
    wanted = REQUESTS if kpi == ERRORS_KPI else f"kpi/{kpi}/n"
    return any(wanted in counters for counters in reading.values())


def _needed(reading: Reading, kpi: str) -> dict[str, dict[str, float]]:
    """The series that are looked at; the rest would only make the state larger."""
    wanted = {REQUESTS, ERRORS, ASSIGNMENTS, *(f"kpi/{kpi}/{part}" for part in ("n", "events", "sum", "sum_squares"))}
    return {
        source: kept
        for source, counters in reading.items()
        if (kept := {series: value for series, value in counters.items() if series in wanted})
    }
