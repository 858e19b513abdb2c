"""Report data as a release would leave them, with the real statistics on simulated counts."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from mlflow_istio.core.analysis.proportion import Proportion
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Destination, Mirror, Traffic, WeightedDestination
from mlflow_istio.ports.runs import Figure
from mlflow_istio.report import Comparison, ReportData

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)
VERSIONS = {"churn-v1": "churn/1", "churn-v2": "churn/2"}
HOSTILE = "</script></title><img src=x onerror=alert(1)>\"'&{{7*7}}"


def traffic(weights: dict[str, int], mirror: str = "") -> Traffic:
    """Traffic of endpoint ``churn``."""
    return Traffic(
        split=tuple(
            WeightedDestination(destination=Destination(host="churn", subset=name), weight=weight)
            for name, weight in weights.items()
        ),
        mirrors=(Mirror(destination=Destination(host="churn", subset=mirror), percentage=100.0),) if mirror else (),
        pins=tuple(sorted(weights)),
    )


def a_change(
    sequence: int, minutes: float, action: str, from_weight: int, to_weight: int, **more: Any
) -> RoutingChange:
    """A change of churn-v2's percentage."""
    values: dict[str, Any] = {
        "id": f"c{sequence}",
        "sequence": sequence,
        "time": START + timedelta(minutes=minutes),
        "endpoint": "churn",
        "action": action,
        "who": "ada",
        "release": "r1",
        "run": "run1",
        "before": traffic({"churn-v1": 100 - from_weight, "churn-v2": from_weight}),
        "after": traffic({"churn-v1": 100 - to_weight, "churn-v2": to_weight}),
        "versions": VERSIONS,
    }
    return RoutingChange(**{**values, **more})


def looks(count: int, errors: float, slow: float, *, stop_at: float = math.inf) -> dict[str, list[Figure]]:
    """The figures of so many looks, one each 10 s, of a candidate with these rates; stable has 1% errors and 20% slow."""
    random = np.random.default_rng(7)
    tests = {"errors": RateTest(), "latency": RateTest(margin=1.25)}
    rates = {"errors": (errors, 0.01), "latency": (slow, 0.2)}
    figures: dict[str, list[Figure]] = {}
    totals = [0, 0]
    for look in range(1, count + 1):
        ours, theirs = 20 + look, 380 - look
        totals = [totals[0] + ours, totals[1] + theirs]
        said: dict[str, float] = {"look/requests/candidate": totals[0], "look/requests/stable": totals[1]}
        log_es = []
        for guard, test in tests.items():
            events = random.binomial((ours, theirs), rates[guard])
            test = tests[guard] = test.update(int(events[0]), ours, int(events[1]), theirs)
            interval = test.confidence_sequence(0.05)
            log_es.append(test.log_e_value)
            said |= {
                f"look/{guard}/candidate": test.candidate_events / test.candidate_total,
                f"look/{guard}/stable": test.stable_events / test.stable_total,
                f"look/{guard}/ratio": interval.estimate if interval.estimate is not None else math.nan,
                f"look/{guard}/ratio_lower": interval.lower,
                f"look/{guard}/ratio_upper": interval.upper,
                f"look/{guard}/log_e": test.log_e_value,
            }
        said["look/evidence"] = float(np.logaddexp(*log_es) - math.log(2))
        for name, value in said.items():
            if math.isfinite(value):
                time = START + timedelta(seconds=10 * look)
                figures.setdefault(name, []).append(Figure(time=time, step=look, value=value))
        if said["look/evidence"] >= stop_at:
            break
    return figures


def a_virtual_service(weight: int) -> Object:
    """The object that splits 100 - weight to weight."""
    split = [
        {"destination": {"host": "churn", "subset": name}, "weight": share}
        for name, share in (("churn-v1", 100 - weight), ("churn-v2", weight))
        if share
    ]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {
            "name": "churn",
            "resourceVersion": str(weight),
            "annotations": {"mlflow-istio.org/state.churn": f'{{"sequence":{weight}}}', "owner": "team-a"},
        },
        "spec": {
            "hosts": ["churn"],
            "http": [
                {
                    "name": "mlflow-istio.churn.probe",
                    "directResponse": {"status": 200, "body": {"string": f"c{weight}"}},
                },
                {"name": "mlflow-istio.churn.split", "route": split},
            ],
        },
    }


def rolled_back(count: int = 400) -> ReportData:
    """A candidate with 5% errors is rolled back by the analysis."""
    figures = looks(count, 0.05, 0.2, stop_at=math.log(20))
    end = (figures["look/evidence"][-1].time - START) / timedelta(minutes=1)
    verdict = {
        "word": "rollback",
        "reason": "The candidate's error rate is higher than stable's: 4.7% against 1.0%.",
        "evidence": {"errors": {"log_e_value": figures["look/evidence"][-1].value}, "alpha": 0.05},
    }
    changes = [
        a_change(4, 0, "start", 0, 5, reason="the model with the new features"),
        a_change(5, end / 2, "shift", 5, 25, reason="step 2: no evidence against the candidate"),
        a_change(6, end + 0.02, "rollback", 25, 0, reason=verdict["reason"], evidence=verdict),
    ]
    return ReportData(
        endpoint="churn",
        scope="models",
        release="r1",
        strategy="canary",
        candidates=("churn-v2",),
        outcome="rolled-back",
        run="8c1f3d7b0a9e4d3c8e6f5a4b3c2d1e0f",
        opened=START,
        made=START + timedelta(minutes=end + 1),
        changes=changes,
        figures=figures,
        verdict=verdict,
        plan={"alpha": 0.05, "steps": [5, 25, 50, 100], "strategy": "canary"},
        before=a_virtual_service(0),
        after=a_virtual_service(25),
    )


def promoted(count: int = 240) -> ReportData:
    """A good candidate goes through all steps."""
    figures = looks(count, 0.009, 0.19)
    minutes = count * 10 / 60
    steps = [(0.0, 0, 5), (minutes / 4, 5, 25), (minutes / 2, 25, 50)]
    changes = [
        a_change(4 + index, at, "shift" if index else "start", before, after, reason=f"step {index + 1}")
        for index, (at, before, after) in enumerate(steps)
    ]
    verdict = {
        "word": "advance",
        "reason": "The candidate is at most 1.3 times as likely to fail as stable.",
        "evidence": {},
    }
    changes.append(a_change(7, minutes + 0.02, "promote", 50, 100, reason=verdict["reason"], evidence=verdict))
    return replace(
        rolled_back(1),
        outcome="promoted",
        figures=figures,
        changes=changes,
        verdict=verdict,
        made=START + timedelta(minutes=minutes + 1),
        after=a_virtual_service(100),
    )


def shadow() -> ReportData:
    """A shadow release with its comparison, still open."""
    mirrored = traffic({"churn-v1": 100, "churn-v2": 0}, mirror="churn-v2")
    return ReportData(
        endpoint="churn",
        scope="local-default",
        release="s1",
        strategy="shadow",
        candidates=("churn-v2",),
        made=START + timedelta(minutes=10),
        changes=[a_change(2, 0, "start", 0, 0, after=mirrored, reason="compare before release")],
        comparison=Comparison(
            figures={
                "shadow/agreement": 0.943,
                "shadow/agreement_lower": 0.921,
                "shadow/agreement_upper": 0.96,
                "shadow/slowdown": 1.08,
                "shadow/slowdown_lower": 1.01,
                "shadow/slowdown_upper": 1.16,
                "shadow/unmatched_share": 0.004,
            },
            most_different=[("6f0c-11", 0.83, "0.12 against 0.95"), ("6f0c-29", None, "a list against a number")],
        ),
    )


def arms(count: int = 40) -> ReportData:
    """Three arms by cookie with 5%, 20% and 25% errors: the first challenger wins. Intervals are those of the real sequences."""
    random = np.random.default_rng(7)
    rates = {"churn-v1": 0.2, "churn-v2": 0.05, "churn-v3": 0.25}
    counted = dict.fromkeys(rates, Proportion())
    figures: dict[str, list[Figure]] = {}
    for look in range(1, count + 1):
        for arm, rate in rates.items():
            counted[arm] = counted[arm].update(int(random.binomial(30, rate)), 30)
            interval = counted[arm].confidence_sequence(0.05)
            said = {"": interval.estimate, "_lower": interval.lower, "_upper": interval.upper}
            for part, value in said.items():
                if value is not None:
                    at = Figure(time=START + timedelta(seconds=10 * look), step=look, value=value)
                    figures.setdefault(f"arms/errors{part}/{arm}", []).append(at)
    end = count / 6
    reason = "churn-v2 is better than churn-v1 and churn-v3."
    changes = [
        a_change(4, 0, "start", 0, 33),
        a_change(5, end, "promote", 33, 100, reason=reason, evidence={"outcome": "winner", "winner": "churn-v2"}),
    ]
    return ReportData(
        endpoint="churn",
        scope="models",
        release="r2",
        strategy="ab",
        candidates=("churn-v2", "churn-v3"),
        outcome="promoted",
        opened=START,
        made=START + timedelta(minutes=end + 1),
        changes=changes,
        figures=figures,
        verdict={"word": "advance", "reason": reason},
    )
