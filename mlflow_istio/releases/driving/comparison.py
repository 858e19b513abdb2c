"""Compare an open shadow release: the candidate's recorded answers beside the stable's, as a verdict, metrics and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.analysis.shadow_verdict import ShadowLimits, judge_shadow, shadow_metrics
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.basics.objects import ready_replicas
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.release.comparison import Comparison, compare_records, table_csv
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.errors import NotFound, RegistryError, StateConflict
from mlflow_istio.ports.records import Records
from mlflow_istio.releases.context import Context, deployment_of, emit_warnings, endpoint_of
from mlflow_istio.releases.ledger import run_for

SETTLE = 5.0
"""Seconds that the other half of a request may take to be recorded."""
TABLE_CSV = "comparison/most-different.csv"
TABLE_JSON = "comparison/most-different.json"
VERDICT_JSON = "comparison/verdict.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A comparison and its verdict.

    Attributes:
        release: The shadow release.
        stable: The stable's deployment.
        candidate: The candidate's.
        comparison: What was found.
        verdict: What it means.
        dropped: Deployment to how many of its requests were not recorded since its recorders started, by reason.
        warnings: What did not go as hoped, one line each.
    """

    release: Release
    stable: str
    candidate: str
    comparison: Comparison
    verdict: Verdict
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def figures(self, alpha: float) -> dict[str, float]:
        """What was found as flat metrics for MLflow, with what was not recorded."""
        sides = (("stable", self.stable), ("candidate", self.candidate))
        return {
            **shadow_metrics(self.comparison.tally, alpha=alpha),
            **{f"shadow/{side}_dropped": sum(self.dropped.get(name, {}).values()) for side, name in sides},
        }


def compare(
    context: Context,
    records: Records,
    name: str,
    *,
    rule: AnswerRule,
    limits: ShadowLimits,
    alpha: float = 0.05,
    settle: float = SETTLE,
    deadline_reached: bool = False,
) -> Compared:
    """Compare what both versions' servers have recorded since this share of the traffic is mirrored.

    Every look takes all records that are still kept, so nothing has to be remembered between looks. Metrics (``shadow/...``), the
    table of the most different requests and the verdict are kept in the release's MLflow run; a registry that is down is a warning.

    Args:
        context: The ports.
        records: The recorders.
        name: The endpoint.
        rule: When two answers agree.
        limits: What must be shown.
        alpha: Error probability.
        settle: Seconds of newest requests that are left out, since their other half may be on its way.
        deadline_reached: Whether "not yet" has become "inconclusive".

    Raises:
        StateConflict: No shadow release is open, or nothing is recorded.
        ClusterError: The recorders can't be reached.
    """
    endpoint = endpoint_of(context.cluster, name)
    release, percentage = _shadow(endpoint)
    candidate = release.candidates[0]
    now = context.clock.now().timestamp()
    stable_side, candidate_side = (
        records.read(name, deployment, max(1, ready_replicas(deployment_of(context.cluster, deployment))))
        for deployment in (endpoint.stable.name, candidate)
    )
    comparison = compare_records(
        stable_side.records,
        candidate_side.records,
        rule=rule,
        since=max(
            _mirrored_since(endpoint, release).timestamp() + settle,
            stable_side.complete_since,
            candidate_side.complete_since,
        ),
        until=now - settle,
        partial=percentage < 100,
    )
    dropped = {endpoint.stable.name: stable_side.dropped, candidate: candidate_side.dropped}
    verdict = judge_shadow(comparison.tally, limits, alpha=alpha, deadline_reached=deadline_reached, dropped=dropped)
    result = Compared(
        release=release,
        stable=endpoint.stable.name,
        candidate=candidate,
        comparison=comparison,
        verdict=verdict,
        dropped=dropped,
    )
    return replace(result, warnings=emit_warnings(context, _keep(context, name, result, alpha)))


def _shadow(endpoint: Endpoint) -> tuple[Release, float]:
    """The open shadow release, and the share of the traffic that it copies."""
    release = endpoint.release
    if release is None or release.strategy != "shadow":
        what_is_open = "no release is open" if release is None else f"release '{release.id}' is a {release.strategy}"
        raise StateConflict(
            f"endpoint '{endpoint.name}' has no open shadow release to compare ({what_is_open}): start one with -C strategy=shadow"
        )
    if not endpoint.owns(endpoint.stable):
        raise StateConflict(
            f"stable of endpoint '{endpoint.name}' is the foreign service '{endpoint.stable.name}', which records nothing"
        )
    copied = [m.percentage for m in endpoint.traffic.mirrors if m.destination.name == release.candidates[0]]
    return release, copied[0] if copied else 0.0


def _mirrored_since(endpoint: Endpoint, release: Release) -> datetime:
    """When the present share began to be copied: a driven release opens without a mirror, and waits for its gates first."""
    return progress_from_text(endpoint.progress).since if endpoint.progress else release.opened


def _keep(context: Context, name: str, result: Compared, alpha: float) -> tuple[str, ...]:
    release, comparison = result.release, result.comparison
    run, warnings = (release.run, ()) if release.run else run_for(context, name, release)
    if run is None:
        return warnings
    texts = {
        TABLE_CSV: table_csv(comparison.table),
        TABLE_JSON: json.dumps(list(comparison.table), indent=2),
        VERDICT_JSON: json.dumps(to_json(result.verdict), indent=2),
    }
    try:
        context.runs.keep(run, figures=result.figures(alpha), step=_next_step(context, run), texts=texts)
    except (RegistryError, NotFound) as exc:
        return (*warnings, f"the comparison is not in MLflow ({exc.message}): run it again later")
    return warnings


def _next_step(context: Context, run: str) -> int:
    try:
        return 1 + len(context.runs.figures(run).get("shadow/pairs", ()))
    except NotFound:  # nothing was ever kept there; whether it can be, keeping will tell
        return 1
