"""Options of the verbs that analyse an open release: ``analyse``, ``declare`` and ``compare``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.analysis.shadow_verdict import ShadowLimits
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import ChangeOptions, ReadOptions, Seconds
from mlflow_istio.options.kpi import read_kpis
from mlflow_istio.releases.driving.arms import ArmsOptions

Share = Annotated[float, Field(gt=0, lt=1)]


class AnalyseOptions(ReadOptions):
    """Options of ``analyse``."""

    metrics: Literal["auto", "prometheus", "envoy", "none"] = Field(
        default="auto", description="where counts come from: auto, prometheus, envoy, or none (only a KPI of your own)"
    )
    prometheus_url: str | None = Field(default=None, description="Prometheus that knows the mesh's series")
    kpi: Any = Field(
        default=None,
        description='JSON, a name and its KPI: {"bought": {"queries": {"n": "...", "events": "..."}, "better": "higher"}}; '
        "errors unless given",
    )
    errors: Literal["5xx", "4xx+5xx"] = Field(default="5xx", description="which answers are errors: 5xx, or 4xx+5xx")
    delta: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="largest difference that doesn't matter: an odds ratio above 1, or a difference of means",
    )
    alpha: Share = Field(default=0.05, description="error probability over all arms and looks")
    phi: Annotated[float, Field(ge=1)] = Field(
        default=1.0, description="overdispersion: above 1 where events come in bursts"
    )
    randomised: bool | None = Field(
        default=None,
        description="whether chance assigned the arms: yes by cookie; by header only if its values come from client.assign",
    )

    def kpis(self) -> tuple[Kpi, ...]:
        """The KPI, if one is given.

        Raises:
            InvalidInput: There are several.
        """
        found = read_kpis(self.kpi)
        if len(found) > 1:
            raise InvalidInput(f"arms are compared by one KPI, not {len(found)}: choose one before the first look")
        return found

    def arms(self) -> ArmsOptions:
        """The part that the first look fixes."""
        found = self.kpis()
        return ArmsOptions(
            kpi=found[0] if found else None,
            delta=self.delta,
            alpha=self.alpha,
            phi=self.phi,
            randomised=self.randomised,
        )


class DeclareOptions(AnalyseOptions, ChangeOptions):
    """Options of ``declare``."""

    winner: str | None = Field(default=None, description="deployment that is to win (default: whom the analysis names)")
    force: bool = Field(default=False, description="let the named one win whatever the analysis says")
    confirm_timeout: Seconds = Field(default=30.0, description="seconds for the proxies to confirm a change")


class CompareOptions(ReadOptions):
    """Options of ``compare``."""

    answers: Literal["classes", "numbers", "text"] = Field(
        default="classes",
        description="how predictions are compared: classes (equal), numbers (within a tolerance), text",
    )
    absolute: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="numbers: allowed difference in the prediction's unit"
    )
    relative: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="numbers: allowed difference as a share of stable's prediction"
    )
    similarity: Annotated[float, Field(ge=0, le=1)] = Field(default=1.0, description="text: least score that agrees")
    scorer: Any = Field(
        default=None, description="text: Python callable (stable's text, candidate's) -> 0 to 1 (Python only)"
    )
    agreement: Share = Field(default=0.99, description="least share of requests whose answers must agree")
    slowdown: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="most that the candidate's time may be of stable's, such as 1.2 (default: not judged)"
    )
    unmatched: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.05, description="largest share of requests that only one side recorded"
    )
    alpha: Share = Field(default=0.05, description="error probability over all looks")
    settle: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=5.0, description="seconds that the other half of a request may take to be recorded"
    )
    final: bool = Field(default=False, description="true: this is the last look, so 'not yet' becomes inconclusive")

    def rule(self) -> AnswerRule:
        """When two predictions agree.

        Raises:
            InvalidInput: The scorer is no callable.
        """
        if self.scorer is not None and not callable(self.scorer):
            raise InvalidInput("option 'scorer' must be a Python callable: give it through the Python client")
        return AnswerRule(
            kind=self.answers,
            absolute=self.absolute,
            relative=self.relative,
            similarity=self.similarity,
            scorer=self.scorer,
        )

    def limits(self) -> ShadowLimits:
        """What must be shown."""
        return ShadowLimits(agreement=self.agreement, slowdown=self.slowdown, unmatched=self.unmatched)
