"""Rehearse a release on an endpoint's own past, and say what came of it in plain values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow_istio.core.analysis.history import History
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.release.edges import named_edges
from mlflow_istio.core.release.least_time import short_deadline
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.rehearsal import Case, Rehearsal, Told, rehearse
from mlflow_istio.errors import NotFound
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.releases.context import Context, endpoint_of
from mlflow_istio.releases.reading.history import looks_history, read_history
from mlflow_istio.releases.reading.views import View

PAST_RELEASES = "the looks of past releases"


def rehearsed(
    context: Context,
    metrics: Metrics | None,
    name: str,
    plan_for: Callable[[Endpoint], ReleasePlan],
    *,
    seconds: float,
    horizon: float,
    runs: int,
    seed: int,
    told: Told,
) -> View:
    """Rehearse a plan on what the endpoint's stable has answered.

    Args:
        context: The ports.
        metrics: A source that may remember; where it doesn't, the looks of past releases in MLflow may.
        name: The endpoint.
        plan_for: Makes the plan.
        seconds: How much of the past.
        horizon: Seconds that each release may last.
        runs: Releases of each kind of version.
        seed: For the draw.
        told: Told how far it is.

    Raises:
        NotFound: There is no such endpoint, or nobody remembers what it has answered.
        InvalidInput: There is too little history, or a plan that can't be replayed.
        MetricsError: The source can't be reached, refuses, or gave what can't be read.
        RegistryError: Nor can the tracking server.
    """
    endpoint = endpoint_of(context.cluster, name)
    plan = plan_for(endpoint)
    if short := short_deadline(plan):
        context.warn(short)
    source = metrics.name if metrics else "nobody"
    edges = named_edges(plan)
    history = read_history(metrics, name, plan.stable, seconds, plan.interval, edges)
    if history is None:
        history, source = looks_history(context, name, plan.interval, edges), PAST_RELEASES
    if history is None:
        nothing = f"{metrics.name} remembers nothing" if metrics else "metrics=none remembers nothing"
        raise NotFound(
            f"{nothing} that '{plan.stable}' of endpoint '{name}' has answered, nor does a past release with looks every "
            f"{plan.interval:g} s: give prometheus_url, or wait until it has had traffic"
        )
    context.tell(f"rehearsing on what {source} remember{'' if source == PAST_RELEASES else 's'} of '{name}'")
    rehearsal = rehearse(plan, history, runs=runs, horizon=horizon, seed=seed, told=told)
    return {**rehearsal_view(name, plan, history, rehearsal), "source": source}


def rehearsal_view(endpoint: str, plan: ReleasePlan, history: History, rehearsal: Rehearsal) -> View:
    """A rehearsal as plain values; times in seconds, shares with their standard errors."""
    return {
        "endpoint": endpoint,
        "stable": plan.stable,
        "plan": to_json(plan),
        "history": {
            "seconds": history.seconds,
            "step": history.step,
            "gaps": list(history.gaps),
            "requests": int(history.requests.sum()),
            "errors": int(history.errors.sum()),
            "slower_than": {f"{edge:g}": int(slow.sum()) for edge, slow in history.slower_than.items()},
        },
        "phase": rehearsal.phase,
        "block": rehearsal.block,
        "horizon": rehearsal.horizon,
        "cases": [_case(case) for case in rehearsal.cases],
    }


def _case(case: Case) -> dict[str, Any]:
    def share(count: int) -> dict[str, float]:
        value, error = case.share(count)
        return {"share": value, "error": error}

    return {
        "odds": case.odds,
        "runs": case.runs,
        "promoted": share(case.promoted),
        "rolled_back": share(case.rolled_back),
        "inconclusive": share(case.inconclusive),
        "median": case.within(0.5),
        "in_nine_of_ten": case.within(0.9),
        "seconds": list(case.seconds),
    }
