"""Plans, readings and observations that the tests of the pure release engine start from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from mlflow_istio.core.release.advance import Action, Observation, advance
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan
from mlflow_istio.core.release.progress import Progress, first_progress
from tests.support.endpoint_values import TIME

INTERVAL = 10.0
ERRORS = GuardPlan(name="errors", kind="errors")


def a_plan(**changes: Any) -> ReleasePlan:
    """A canary of v2 against v1 in two steps, watched for errors."""
    values: dict[str, Any] = {
        "strategy": "canary",
        "stable": "v1",
        "candidates": ("v2",),
        "steps": (10.0, 50.0),
        "interval": INTERVAL,
        "hold": 20.0,
        "min_requests": 100,
        "deadline": 600.0,
        "guards": (ERRORS,),
    }
    return ReleasePlan(**{**values, **changes})


def at(seconds: float) -> datetime:
    return TIME + timedelta(seconds=seconds)


def counters(requests: float, errors: float = 0, **series: float) -> dict[str, dict[str, float]]:
    """One source's counters; ``le_100`` is the series ``le/100``, ``kpi_x_n`` is ``kpi/x/n``."""
    named = {name.replace("_", "/", 2).replace("/inf", "/+Inf"): value for name, value in series.items()}
    return {"pod": {"requests": requests, "errors": errors, **named}}


def seen(
    v1: Mapping[str, Any] | None = None, v2: Mapping[str, Any] | None = None, weight: float = 0, **changes: Any
) -> Observation:
    """A look: counters of both (None: no data), with v2 at that weight."""
    readings = {name: reading for name, reading in (("v1", v1), ("v2", v2)) if reading is not None}
    values: dict[str, Any] = {"readings": readings, "weights": {"v1": 100 - weight, "v2": weight}}
    return Observation(**{**values, **changes})


class Journey:
    """A release that is driven by hand: each look adds requests and errors to counters that only grow."""

    def __init__(self, plan: ReleasePlan | None = None) -> None:
        self.progress: Progress = first_progress(plan or a_plan(), TIME)
        self.second = 0.0
        self.totals = {"v1": [0, 0], "v2": [0, 0]}
        self.weight = 0.0

    def look(
        self, v1: tuple[int, int] = (0, 0), v2: tuple[int, int] = (0, 0), *, after: float = INTERVAL, **changes: Any
    ) -> Action:
        """One look after so many seconds, in which both answered (requests, errors)."""
        self.second += after
        for name, (requests, errors) in (("v1", v1), ("v2", v2)):
            self.totals[name][0] += requests
            self.totals[name][1] += errors
        readings = {"v1": counters(*self.totals["v1"]), "v2": counters(*self.totals["v2"])}
        values = {"weight": self.weight, **changes}
        look = seen(*(readings[name] for name in ("v1", "v2")), **{k: v for k, v in values.items() if k != "readings"})
        if "readings" in changes:
            look = Observation(
                **{**{f: getattr(look, f) for f in look.__dataclass_fields__}, "readings": changes["readings"]}
            )
        self.progress, action = advance(self.progress, look, at(self.second))
        if hasattr(action, "weight"):
            self.weight = action.weight
        return action
