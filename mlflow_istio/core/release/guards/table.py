"""The table of the kinds of guards: a new kind is a module beside this one and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mlflow_istio.core.basics.plugins import one_line
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

Said = TypeVar("Said")

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


def said_by(terms: GuardTerms, ask: Callable[[], Said], failed: Callable[[str], Said]) -> Said:
    """What a guard's kind, or its test, says; the one way to ask where a release goes on.

    Another package's code may raise whatever it likes, and the other guards have to go on watching. An error of ours is not hidden.

    Args:
        terms: The guard.
        ask: Asks it.
        failed: What stands for its answer where it raised, given why as a clause.
    """
    try:
        return ask()
    except Exception as exc:
        if terms.kind in GUARD_KINDS:
            raise
        return failed(f"its kind '{terms.kind}' failed ({one_line(exc)})")


def refused(terms: GuardTerms) -> Callable[[str], Any]:
    """What `said_by` makes of a failure before anything has begun.

    Raises:
        InvalidInput: Names the guard, and what its kind raised.
    """

    def refuse(why: str) -> Any:
        raise InvalidInput(f"guard '{terms.name}': {why}")

    return refuse
