"""Options of the verbs that analyse an open release: ``analyse``, ``declare`` and ``compare``.

What they are for needs scipy, which is imported by what is made of them: a command's help can be read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from mlflow_istio.core.analysis.answer_fields import check_field
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import ChangeOptions, ReadOptions
from mlflow_istio.options.scorer import check_scorer, scorer_of
from mlflow_istio.options.shared import Confirmed, Judged, Tested
from mlflow_istio.options.values import IN_SECONDS, Names, Probability, Share, checked, read_by

if TYPE_CHECKING:
    from mlflow_istio.core.analysis.answers import AnswerRule
    from mlflow_istio.core.analysis.shadow_verdict import ShadowLimits
    from mlflow_istio.core.release.kpi import Kpi
    from mlflow_istio.releases.driving.arms import ArmsOptions

Fields = Annotated[Names, checked(lambda paths: tuple(map(check_field, paths)))]
Scored = Annotated[Any, read_by(check_scorer)]


class AnalyseOptions(ReadOptions, Judged, Tested):
    """Options of ``analyse``."""

    alpha: Probability = Field(default=0.05, description="error probability over all arms and looks")

    def kpis(self) -> tuple[Kpi, ...]:
        """The KPI, if one is given.

        Raises:
            InvalidInput: There are several.
        """
        from mlflow_istio.options.kpi import read_kpis

        kpis = read_kpis(self.kpi)
        if len(kpis) > 1:
            raise InvalidInput(f"arms are compared by one KPI, not {len(kpis)}: choose one before the first look")
        return kpis

    def arms(self) -> ArmsOptions:
        """The part that the first look fixes."""
        from mlflow_istio.releases.driving.arms import ArmsOptions

        kpis = self.kpis()
        return ArmsOptions(
            kpi=kpis[0] if kpis else None,
            equivalence_margin=self.delta,
            alpha=self.alpha,
            overdispersion=self.phi,
            phase=self.phase,
            label_delay=self.label_delay,
            randomised=self.randomised,
        )


class DeclareOptions(AnalyseOptions, ChangeOptions, Confirmed):
    """Options of ``declare``."""

    winner: str | None = Field(default=None, description="deployment that is to win (default: whom the analysis names)")
    force: bool = Field(default=False, description="let the named one win whatever the analysis says")


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
    field: Fields = Field(
        default=(),
        description="what of an answer is compared, such as choices[0].message.content; several with commas (default: texts and "
        "tensors of known protocols, else the whole answer)",
    )
    scorer: Scored = Field(
        default=None,
        description="text: how alike two are: edit (default), tokens, json, length, or package.module:function, imported where the "
        "command runs; in Python a callable, too. A function gets (stable's text, candidate's) and gives 0 to 1",
    )
    similarity: Share = Field(default=0.8, description="text: least score with which two texts agree")
    agreement: Probability = Field(default=0.99, description="least share of requests whose answers must agree")
    slowdown: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="most that the candidate's time may be of stable's, such as 1.2 (default: not judged)"
    )
    unmatched: Share = Field(default=0.05, description="largest share of requests that only one side recorded")
    alpha: Probability = Field(default=0.05, description="error probability over all looks")
    settle: Annotated[float, IN_SECONDS, Field(ge=0, le=3600)] = Field(
        default=5.0, description="seconds that the other half of a request may take to be recorded"
    )
    final: bool = Field(default=False, description="true: this is the last look, so 'not yet' becomes inconclusive")

    def rule(self) -> AnswerRule:
        """When two predictions agree.

        Raises:
            InvalidInput: The scorer can't be imported here.
        """
        from mlflow_istio.core.analysis.answers import AnswerRule

        return AnswerRule(
            kind=self.answers,
            absolute=self.absolute,
            relative=self.relative,
            similarity=self.similarity,
            fields=self.field,
            scorer=scorer_of(self.scorer) if self.answers == "text" else None,
        )

    def limits(self) -> ShadowLimits:
        """What must be shown."""
        from mlflow_istio.core.analysis.shadow_verdict import ShadowLimits

        return ShadowLimits(agreement=self.agreement, slowdown=self.slowdown, unmatched=self.unmatched)
