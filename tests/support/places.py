"""The verbs on in-memory ports, as the wiring would hand them out: for steps of pipelines, which know only a target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.adapters.figures.kpis import KpiMetrics
from mlflow_istio.core.basics.target import parse_target
from mlflow_istio.releases.context import Context
from mlflow_istio.verbs import Verbs
from tests.support.simulated_users import Stage

TARGET = "istio-local:/never-made"


@dataclass
class Place:
    """A stage as the verbs get a place from the wiring."""

    stage: Stage
    models: Any = None

    @property
    def target(self) -> Any:
        return parse_target(TARGET)

    @property
    def cluster(self) -> Any:
        return self.stage.world.cluster

    @property
    def registry(self) -> Any:
        return self.stage.world.registry

    @property
    def runs(self) -> Any:
        return self.stage.world.runs

    @property
    def scope(self) -> str:
        return "prod"

    def names_ledger(self) -> bool:
        return True

    def context(self, tell: Any, warn: Any, templates: str | None = None) -> Context:
        return replace(self.stage.context, tell=tell, warn=warn)

    def metrics(self, *_arguments: Any, kpis: Any = (), **_options: Any) -> Any:
        return KpiMetrics(self.stage.users.metrics, kpis) if kpis else self.stage.users.metrics

    def records(self) -> Any:
        raise AssertionError("no shadow is released here")

    def server_environment(self, *_secret: Any) -> dict[str, str]:
        return {}

    def gateways(self) -> tuple[str, ...]:
        return ()


def verbs_on(stage: Stage) -> Verbs:
    """The verbs on a stage."""
    verbs = Verbs(TARGET)
    verbs._place = lambda _options: Place(stage)  # type: ignore[assignment, method-assign, return-value]
    return verbs
