"""The table of the kinds of guards: a new kind is a module beside this one and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms
from mlflow_istio.core.release.guards.failed_requests import Errors
from mlflow_istio.core.release.guards.gross_failure import Gross
from mlflow_istio.core.release.guards.installed import installed_kind
from mlflow_istio.core.release.guards.kpi_mean import KpiMean
from mlflow_istio.core.release.guards.kpi_rate import KpiRate
from mlflow_istio.core.release.guards.objective import Objective
from mlflow_istio.core.release.guards.slow_answers import Latency
from mlflow_istio.core.release.guards.streamed_answers import EachToken, FirstToken, Tokens, Unfinished
from mlflow_istio.errors import InvalidInput

GUARD_KINDS: Mapping[str, GuardKind[Any]] = {
    kind.name: kind
    for kind in (
        *(Errors(), Latency(), Gross(), Objective(), KpiRate(), KpiMean()),
        *(FirstToken(), EachToken(), Tokens(), Unfinished()),
    )
}
"""errors and latency: against the stable. gross: failure beyond any doubt. objective: the candidate's own rate. rate, mean: a KPI,
yes/no or a number. ttft, tpot, tokens, unfinished: streamed answers, against the stable's."""


def kind_of(terms: GuardTerms) -> GuardKind[Any]:
    """The kind of a guard: of this table, or brought by an installed package.

    Raises:
        InvalidInput: There is none of that name (says the nearest), or the package's can't be used.
    """
    name = str(terms.kind)
    if name in GUARD_KINDS:
        return GUARD_KINDS[name]
    try:
        return installed_kind(name, tuple(GUARD_KINDS))
    except InvalidInput as exc:
        raise InvalidInput(f"guard '{terms.name}': {exc}") from exc
