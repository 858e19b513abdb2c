"""What a report is made of: plain values, whole or partial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.ports.runs import Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A shadow comparison.

    Attributes:
        figures: Names as ``core.analysis.shadow_verdict.shadow_metrics`` writes them, such as ``shadow/agreement``, to value.
        most_different: Request id, how much the answers differ (None: can't be compared), and what differs.
        terms: How answers were compared, in a sentence; empty where nobody knows.
    """

    figures: Mapping[str, float]
    most_different: Sequence[tuple[str, float | None, str]] = ()
    terms: str = ""


def _is_bound(name: str, kpis: Set[str]) -> bool:
    return any(name == f"{kpi}{end}" for kpi in kpis for end in ("_lower", "_upper"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Everything a report says.

    Attributes:
        endpoint: The endpoint.
        scope: Where it is: the namespace, or ``local-MESH``.
        release: Id of the release.
        strategy: canary, ab, blue-green or shadow; empty where nobody knows any more.
        candidates: Deployments being released.
        outcome: promoted, rolled-back, aborted, superseded, inconclusive; empty while the release is open.
        run: Id of its MLflow run, or None.
        opened: When it began, in UTC, if known.
        made: When the report was made, in UTC.
        changes: Its routing changes, by sequence.
        figures: Every metric of its run, by step (``look/...``, ``arms/...`` and ``shadow/...``).
        verdict: ``word``, ``reason`` and ``evidence`` of the look that decided; empty where a person decided.
        plan: The plan it followed; empty where it was moved by hand.
        comparison: Of a shadow release.
        before: The VirtualService before its first change, or None.
        after: The VirtualService after its last change, or None.
        missing: What could not be read, one line each.
    """

    endpoint: str
    scope: str
    release: str
    strategy: str = ""
    candidates: tuple[str, ...] = ()
    outcome: str = ""
    run: str | None = None
    opened: datetime | None = None
    made: datetime
    changes: Sequence[RoutingChange] = ()
    figures: Mapping[str, Sequence[Figure]] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None
    before: Object | None = None
    after: Object | None = None
    missing: tuple[str, ...] = ()

    def series(self, name: str) -> tuple[Figure, ...]:
        """A metric by step; a step that a resumed release wrote again counts as written last, and what isn't finite not at all."""
        latest: dict[int, Figure] = {}
        for point in sorted(self.figures.get(name, ()), key=lambda point: point.time):
            if abs(point.value) < float("inf"):
                latest[point.step] = point
        return tuple(latest[step] for step in sorted(latest))

    def last(self, name: str) -> float | None:
        """The last value of a metric, or None."""
        points = self.series(name)
        return points[-1].value if points else None

    @property
    def guards(self) -> tuple[str, ...]:
        """Names of the guards that have figures: errors and latency first, then KPIs."""
        names = {
            name.split("/", 1)[1].rsplit("/", 1)[0]
            for name in self.figures
            if name.startswith("look/") and name.count("/") >= 2 and not name.startswith("look/requests/")
        }
        return tuple(sorted(names, key=lambda name: (("errors", "latency", "ttft", name).index(name), name)))

    @property
    def arms_kpis(self) -> tuple[str, ...]:
        """What the arms of an A/B/n test were compared by."""
        parts = [name.split("/") for name in self.figures if name.startswith("arms/") and name.count("/") >= 2]
        kpis = {"/".join(part[1:-1]) for part in parts} - {"requests"}
        return tuple(sorted(kpi for kpi in kpis if not _is_bound(kpi, kpis)))

    def arms(self, kpi: str) -> tuple[str, ...]:
        """The arms that have figures, the control first."""
        start = f"arms/{kpi}/"
        names = (name.removeprefix(start) for name in self.figures if name.startswith(start))
        return tuple(sorted(names, key=lambda name: (name in self.candidates, name)))

    @property
    def controls(self) -> tuple[str, ...]:
        """Deployments of the stable's version that the candidate was compared with; mostly none or one."""
        return tuple(dict.fromkeys(change.control for change in self.changes if change.control))

    @property
    def ended(self) -> datetime | None:
        """When it ended, in UTC; None while it is open."""
        return self.changes[-1].time if self.outcome and self.changes else None
