"""Watches of an equal version by the engine itself: how often one is taken back, on traffic whose replicas have slow phases."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np

from benchmarks.decisions_engine import EDGES_MS
from benchmarks.decisions_families import (
    FAMILIES,
    LOOK,
    Family,
    Floats,
    incident_looks,
    load_factors,
    requests_per_look,
    shares_in_phases,
    with_odds,
)
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS, latency_series
from mlflow_istio.core.release.advance import Observation, RollBack
from mlflow_istio.core.release.progress import first_progress
from mlflow_istio.core.release.watching import begun, watched
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.release import ReleaseOptions
from mlflow_istio.options.release_plan import plan_against

HOURS = 2.0
"""How long: what docs/releases.md shows, `watch=2h` and everything else as it is by default."""

WATCHED = tuple(
    family
    for family in FAMILIES
    if family.name
    in (
        "independent",
        "5 s every minute",
        "20 s every 5 min",
        "60 s every 15 min",
        "60 s every 15 min, 3 replicas",
        "errors 0.2%, bursts of 3 s every 10 min",
        "incidents on both, 2 min every hour",
        "load, 1 against 1",
    )
)
START = datetime(2000, 1, 1, tzinfo=timezone.utc)
_SERIES = (REQUESTS, ERRORS, *(latency_series(edge) for edge in EDGES_MS), latency_series(np.inf))


def taken_back(
    family: Family, rng: np.random.Generator, hours: float = HOURS, odds: Floats | None = None
) -> int | None:
    """Run one watch.

    Args:
        family: The traffic.
        rng: Where chance comes from.
        hours: How long it is watched.
        odds: How many times the odds of errors and of each edge become halfway; None: it stays equal.

    Returns:
        The look, from the promotion, at which the version is taken back; None when the watch ends well.
    """
    options = parse_options(ReleaseOptions, {"watch": f"{60 * hours:g}m"}, cluster="istio", environment=False)
    plan = plan_against(options, "stable", ("candidate",))
    looks = round(hours * 3600 / LOOK)
    sides = ("candidate", "stable")
    share = 1 - plan.holdback / 100
    inside = [shares_in_phases(rng, 1, looks + 1, family, replicas)[:, 0] for replicas in family.replicas]
    shared = incident_looks(looks + 1) if family.incidents else np.ones(looks + 1)
    loads = load_factors(family, np.array([share]))
    # What the stable has answered before: its quantiles lie at the edges, as in `decisions_engine.HISTORY`.
    totals = {name: np.array([3000.0, 30.0, 1500.0, 2700.0, 2970.0, 3000.0]) for name in sides}
    progress = begun(replace(first_progress(plan, START), step=len(plan.steps) - 1), START)
    for look in range(looks + 1):
        requests = rng.poisson(requests_per_look(family, look))
        mine = int(rng.binomial(requests, share))
        for side, (name, count) in enumerate(zip(sides, (mine, requests - mine), strict=True)):
            rates = family.calm + (family.phase - family.calm) * float(inside[side][look])
            rates = with_odds(rates, float(shared[look]))
            rates[1:] = with_odds(rates[1:], float(loads[side][0]))
            if odds is not None and name == "candidate" and look > looks / 2:
                rates = with_odds(rates, odds)
            totals[name] = totals[name] + _counts(rng, count, rates)
        readings = {name: {"pod": dict(zip(_SERIES, counts.tolist(), strict=True))} for name, counts in totals.items()}
        weights = {"candidate": 100.0 - plan.holdback, "stable": float(plan.holdback)}
        seen = Observation(readings=readings, weights=weights, replicas=dict(zip(sides, family.replicas, strict=True)))
        progress, action = watched(progress, seen, START + timedelta(seconds=LOOK * (look + 1)))
        if isinstance(action, RollBack):
            return look
    return None


def _counts(rng: np.random.Generator, requests: int, rates: Floats) -> Floats:
    """How much each series grows: those slower than a farther edge are some of those over a nearer one."""
    slower = [requests]
    for edge, rate in enumerate(rates[1:]):
        before = 1.0 if edge == 0 else float(rates[edge])
        slower.append(int(rng.binomial(slower[-1], min(1.0, float(rate) / before))))
    return np.array(
        [requests, rng.binomial(requests, rates[0]), *(requests - each for each in slower[1:]), requests], dtype=float
    )
