"""How many of the candidate's requests it takes until a bad version is rolled back, with and without slow phases known.

A tenth of 20 requests a second, a look every 10 s; the errors guard alone, at its share of alpha in the default plan.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions_blocks import ManyBlocks
from benchmarks.decisions_lab import LOOKS, SCENARIOS, Figure, Traffic, exact_evidence, measure, simulate
from benchmarks.decisions_plan import thresholds
from mlflow_istio.core.release.plan import PHASE_UNKNOWN

Floats = NDArray[np.float64]

LOOK_SECONDS = 10.0
LIMITS = {"1->5%": (1.5 * 113, 800.0), "1->2%": (1.5 * 1100, 2000.0), "0.1->1%": (1.5 * 296, 1300.0)}
"""Median requests that are allowed: stable without phases (1.5 times the first rule's), and nothing known."""


def block_evidence(traffic: Traffic, phase: float) -> Floats:
    """Return the log evidence of blocks at each look, shape (runs, LOOKS)."""
    runs = len(traffic.candidate_total)
    blocks = ManyBlocks(runs, phase)
    found = np.zeros((runs, LOOKS))
    for look in range(LOOKS):
        n, x, m, y = (
            counts[:, look].astype(np.float64)
            for counts in (
                traffic.candidate_total,
                traffic.candidate_events,
                traffic.stable_total,
                traffic.stable_events,
            )
        )
        rows = np.stack([x * (m - y), y * (n - x), n * m], axis=1) / (n + m)[:, None]
        blocks.update(rows, LOOK_SECONDS, np.ones(runs, dtype=np.bool_))
        found[:, look] = blocks.log_evidence(np.ones(runs))
    return found


def measured(runs: int, seed: int) -> dict[str, tuple[Figure, Figure]]:
    """Return for each change of the error rate the figures with ``phase=0`` and with nothing known."""
    limit = float(thresholds()[0])
    figures = {}
    for number, scenario in enumerate(scenario for scenario in SCENARIOS if scenario.name in LIMITS):
        traffic = simulate(scenario, runs, np.random.default_rng([seed, 5, number]))
        exact = exact_evidence(traffic)
        both = np.minimum(exact, block_evidence(traffic, PHASE_UNKNOWN))
        figures[scenario.name] = (measure(exact >= limit, traffic), measure(both >= limit, traffic))
    return figures
