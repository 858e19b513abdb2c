"""The table of the kinds of guards: a new kind is a module beside this one and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms
from mlflow_istio.core.release.guards.errors import Errors
from mlflow_istio.core.release.guards.kpi_mean import KpiMean
from mlflow_istio.core.release.guards.kpi_rate import KpiRate
from mlflow_istio.core.release.guards.latency import Latency
from mlflow_istio.core.release.guards.objective import Objective
from mlflow_istio.errors import InvalidInput

GUARD_KINDS: Mapping[str, GuardKind[Any]] = {
    kind.name: kind for kind in (Errors(), Latency(), Objective(), KpiRate(), KpiMean())
}
"""errors and latency: against the stable. objective: the candidate's own rate. rate, mean: a KPI, yes/no or a number."""


def kind_of(terms: GuardTerms) -> GuardKind[Any]:
    """The kind of a guard.

    Raises:
        InvalidInput: There is none of that name; names the nearest.
    """
    name = str(terms.kind)
    kind = GUARD_KINDS.get(name)
    if kind is None:
        raise InvalidInput(f"guard '{terms.name}': unknown kind: {nearest(name, GUARD_KINDS)}")
    return kind
