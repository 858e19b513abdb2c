"""An experiment: a fault for a time, what callers saw of it, and the traffic as it was, whatever comes between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.policy.settings import Fault
from mlflow_istio.core.release.fault_trial import ChaosReport, caller_answers, deployment_answers
from mlflow_istio.errors import InvalidInput, MetricsError, StateConflict
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.releases.context import Context, Outcome, endpoint_of
from mlflow_istio.releases.moving import policy
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT
from mlflow_istio.releases.reading.told_errors import check_told

Callers = Callable[[str], Mapping[str, float]]
"""From a VirtualService to its listener's counts."""

_SLICE = 0.5
_GRACE = 30.0
"""Seconds between the planned end and the deadline on the object, for a process that dies meanwhile."""


def chaos(
    context: Context,
    name: str,
    fault: Fault,
    *,
    seconds: float,
    metrics: Metrics | None = None,
    callers: Callers | None = None,
    replace_own: bool = False,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
) -> tuple[Outcome, ChaosReport]:
    """Put a fault into live traffic for a time and report what was seen of it.

    The fault ends in any case: at its time, on an interrupt, and by its deadline if this process is killed.

    Args:
        context: The ports.
        name: The endpoint.
        fault: What to inject; its deadline is set here.
        seconds: How long.
        metrics: Counts of the deployments, or None.
        callers: Counts of what callers saw, or None.
        replace_own: Whether the route may have a fault of its owner's.
        reason: Why, for the ledger.
        timeout: Seconds for the proxies to confirm each change.

    Raises:
        StateConflict: A fault is on already.
        MlflowIstioError: As for ``start_fault``.
    """
    endpoint = endpoint_of(context.cluster, name)
    if endpoint.traffic.policy.fault is not None:
        raise StateConflict(f"endpoint '{name}' has a fault already: end it first (mlflow-istio fault {name} --end)")
    pins = endpoint.traffic.pins
    problems: list[str] = []
    if metrics is not None:
        try:
            check_told(metrics, endpoint)
        except InvalidInput as exc:
            problems.append(exc.message)
            metrics = None
    before = _read(metrics, name, pins, problems), _called(callers, endpoint.virtual_service, problems)
    until = context.clock.now() + timedelta(seconds=seconds + _GRACE)
    interrupted = False
    started = context.clock.monotonic()
    try:
        policy.start_fault(
            context,
            name,
            replace(fault, until=until),
            replace_own=replace_own,
            reason=reason or "chaos",
            timeout=timeout,
        )
        context.tell(f"fault on endpoint '{name}' for {seconds:g} s; an interrupt ends it at once")
        started = context.clock.monotonic()
        while (left := started + seconds - context.clock.monotonic()) > 0:
            context.clock.sleep(min(_SLICE, left))
    except KeyboardInterrupt:
        interrupted = True
        context.tell("interrupted: the fault is being taken away")
    finally:
        lasted = context.clock.monotonic() - started
        outcome = policy.end_fault(context, name, reason="chaos is over", timeout=timeout)
    after = _read(metrics, name, pins, problems), _called(callers, endpoint.virtual_service, problems)
    report = ChaosReport(
        seconds=lasted,
        interrupted=interrupted,
        deployments=deployment_answers(before[0], after[0]),
        problem="; ".join(dict.fromkeys(problems)),
    )
    if before[1] is not None and after[1] is not None:
        seen, aborted, delayed = caller_answers(before[1], after[1])
        report = replace(report, callers=seen, aborted=aborted, delayed=delayed)
    return outcome, report


def _read(metrics: Metrics | None, name: str, pins: tuple[str, ...], problems: list[str]) -> Mapping[str, Reading]:
    """The deployments' counts; an experiment goes on without them."""
    try:
        return metrics.read(name, pins) if metrics is not None else {}
    except MetricsError as exc:
        problems.append(exc.message)
        return {}


def _called(callers: Callers | None, virtual_service: str, problems: list[str]) -> Mapping[str, float] | None:
    try:
        return callers(virtual_service) if callers is not None else None
    except MetricsError as exc:
        problems.append(exc.message)
        return None
