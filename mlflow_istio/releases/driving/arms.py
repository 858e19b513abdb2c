"""Analyse an open A/B/n release, and declare its winner.

The first look is the base line; each look counts what happened since the one before. What was counted stands in the release's
MLflow run (``arms.json``), so that any process can look next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mlflow_istio.core.analysis.arms import ArmsResult
from mlflow_istio.core.analysis.counters import Reading, check_totals
from mlflow_istio.core.basics.stored import compact, from_json, parsed, to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.release.experiment import ERRORS_KPI, Experiment, ExperimentPlan
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.core.release.plan import PHASE_UNKNOWN
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.releases.context import Context, Outcome, endpoint_of
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reading.told_errors import check_told

STATE = "arms.json"
"""Artifact that holds what was counted so far."""
_CALLED_IN_PLANS = {"delta": "equivalence_margin", "phi": "overdispersion"}
"""What a plan calls options whose names are symbols."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmsOptions:
    """What the first look fixes; None: as the release says.

    Attributes:
        kpi: The KPI to judge by; None: errors.
        equivalence_margin: The largest difference that doesn't matter; None: the KPI's own.
        alpha: Error probability over all arms and looks.
        overdispersion: Overdispersion.
        phase: The longest slow phase of a server in seconds; None: `PHASE_UNKNOWN` where failed requests decide, and 0 where
            people's choices do.
        label_delay: Seconds after which a KPI's events may still come.
        randomised: Whether chance decided who came to which arm; None: yes for weights and a cookie, no where a caller's header or
            request decides.
    """

    kpi: Kpi | None = None
    equivalence_margin: float | None = None
    alpha: float = 0.05
    overdispersion: float = 1.0
    phase: float | None = None
    label_delay: float = 0.0
    randomised: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysed:
    """One look at an A/B/n release.

    Attributes:
        release: The release.
        experiment: What was counted so far.
        result: What it says.
    """

    release: Release
    experiment: Experiment
    result: ArmsResult


def analyse(context: Context, metrics: Metrics, name: str, options: ArmsOptions) -> Analysed:
    """Look at an open A/B/n release once.

    Args:
        context: The ports.
        metrics: Where counts come from.
        name: The endpoint.
        options: What it is judged by.

    Raises:
        StateConflict: No A/B release is open.
        InvalidInput: An option differs from what the first look fixed, or the source doesn't tell the errors to compare.
        MetricsError: The source of metrics can't be read, or a KPI's counts have fallen.
        RegistryError: The tracking server, which holds what was counted, can't be reached.
    """
    endpoint = endpoint_of(context.cluster, name)
    release = _release(endpoint)
    if options.kpi is None:
        check_told(metrics, endpoint)
    run = release.run or context.registry.open_run(context.scope, name, release)
    now = context.clock.now()
    experiment = _stored(context, run, _plan(endpoint, release, options), told_phase=options.phase is not None)
    readings = metrics.read(name, experiment.plan.arms)
    check_totals(experiment.counters, readings)
    if options.kpi is not None and options.kpi.counts and not experiment.counters:
        # What a table counts has begun with the release: its base line is nothing, whenever somebody looks first.
        experiment = experiment.look(
            _from_nothing(readings, options.kpi.name), endpoint.traffic.weights, release.opened
        )
    experiment = experiment.look(readings, endpoint.traffic.weights, now)
    state = {STATE: compact(to_json(experiment))}
    context.runs.keep(run, figures=experiment.figures(), step=experiment.looks, texts=state)
    return Analysed(release=release, experiment=experiment, result=experiment.result())


def _from_nothing(readings: Mapping[str, Reading], kpi: str) -> dict[str, Reading]:
    """The readings with nothing counted of a KPI yet."""
    return {
        arm: {
            source: {series: 0.0 if series.startswith(f"kpi/{kpi}/") else value for series, value in counters.items()}
            for source, counters in reading.items()
        }
        for arm, reading in readings.items()
    }


def declare(
    context: Context,
    name: str,
    analysed: Analysed | None,
    *,
    winner: str | None = None,
    force: bool = False,
    reason: str = "",
    timeout: float = shifting.DEFAULT_TIMEOUT,
) -> Outcome:
    """Give the winner all the traffic: a challenger is promoted; when the control wins, the release is closed in its favour.

    Args:
        context: The ports.
        name: The endpoint.
        analysed: The newest look; None when none could be made (then only by force).
        winner: Who is to win; None: whom the analysis names.
        force: Whether the named one wins whatever the analysis says.
        reason: Why, for the ledger.
        timeout: Seconds to wait for the proxies.

    Raises:
        StateConflict: The analysis names no winner, or another.
        InvalidInput: The named one is no arm, or force has no name.
    """
    endpoint = endpoint_of(context.cluster, name)
    release = _release(endpoint)
    arms = (endpoint.stable.name, *release.candidates)
    if winner is not None and winner not in arms:
        raise InvalidInput(f"'{winner}' is no arm of release '{release.id}': there are {', '.join(arms)}")
    if force and winner is None:
        raise InvalidInput("declaring by force needs the name of the winner")
    result = analysed.result if analysed else None
    if not force:
        _check(result, winner, name)
    chosen = winner or (result.winner if result else None)
    assert chosen is not None
    finding = result.reason if result else "No analysis was made."
    forced = f"declared by force: {finding}" if force and (result is None or result.winner != chosen) else finding
    evidence = {
        "outcome": result.outcome if result else None,
        "winner": chosen,
        "forced": force,
        "reason": finding,
        **(result.evidence if result else {}),
    }
    why = f"{reason} ({forced})" if reason else forced
    if chosen == endpoint.stable.name:
        return shifting.abort(
            context, name, reason=why[:1000], evidence=evidence, force=force, release_id=release.id, timeout=timeout
        )
    return shifting.promote(
        context,
        name,
        candidate=chosen,
        reason=why[:1000],
        evidence=evidence,
        force=force,
        release_id=release.id,
        timeout=timeout,
    )


def _check(result: ArmsResult | None, winner: str | None, name: str) -> None:
    if result is None or result.outcome != "winner":
        reason = result.reason if result else "No analysis was made."
        raise StateConflict(
            f"endpoint '{name}' has no winner to declare: {reason} Wait for more, or name one with --winner and --force"
        )
    if winner is not None and winner != result.winner:
        raise StateConflict(
            f"the winner of endpoint '{name}' is '{result.winner}', not '{winner}': {result.reason} Use --force to overrule it"
        )


def _release(endpoint: Endpoint) -> Release:
    release = endpoint.release
    if release is None or release.strategy != "ab":
        what_is_open = "no release is open" if release is None else f"release '{release.id}' is a {release.strategy}"
        raise StateConflict(
            f"endpoint '{endpoint.name}' has no open A/B release to analyse ({what_is_open}): start one with -C strategy=ab"
        )
    return release


def _plan(endpoint: Endpoint, release: Release, options: ArmsOptions) -> ExperimentPlan:
    kpi = options.kpi
    better: Literal["higher", "lower"] = kpi.better if kpi else "lower"
    own = release.assignment is not None and release.assignment.kind == "cookie"
    return ExperimentPlan(
        release=release.id,
        control=endpoint.stable.name,
        challengers=release.candidates,
        kpi=kpi.name if kpi else ERRORS_KPI,
        better=better,
        equivalence_margin=kpi.equivalence_margin
        if kpi and options.equivalence_margin is None
        else options.equivalence_margin,
        alpha=options.alpha,
        overdispersion=options.overdispersion,
        phase=(0.0 if kpi else PHASE_UNKNOWN) if options.phase is None else options.phase,
        label_delay=options.label_delay,
        randomised=own if options.randomised is None else options.randomised,
        returning=bool(endpoint.traffic.arms),
    )


def _stored(context: Context, run: str, plan: ExperimentPlan, *, told_phase: bool) -> Experiment:
    """The experiment as the last look left it, or a fresh one; what nobody said again is as it was."""
    text = context.runs.text(run, STATE)
    if text is None:
        return Experiment(plan=plan)
    stored = from_json(Experiment, parsed(text, f"artifact '{STATE}' of run {run}"))
    if stored.plan.release != plan.release:
        return Experiment(plan=plan)
    if not told_phase:
        plan = replace(plan, phase=stored.plan.phase)
    if stored.plan == replace(plan, returning=stored.plan.returning):
        return stored
    for option in ("kpi", "better", "delta", "alpha", "phi", "phase", "label_delay", "randomised"):
        attribute = _CALLED_IN_PLANS.get(option, option)
        was, now = getattr(stored.plan, attribute), getattr(plan, attribute)
        if was != now:
            raise InvalidInput(
                f"option '{option}' of release '{plan.release}' was {was!r} at the first look, not {now!r}: keep it, for choosing "
                "after looking voids the result"
            )
    raise StateConflict(f"the arms of release '{plan.release}' are not those of the first look: start another release")
