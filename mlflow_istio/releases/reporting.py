"""Gather what the registry and the endpoint's object hold of a release, and keep its report with its run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import parsed
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.release.driver import release_status_of
from mlflow_istio.errors import InvalidInput, NotFound, RegistryError
from mlflow_istio.ports.runs import Figure
from mlflow_istio.releases.context import Context, endpoint_of, virtual_service_of
from mlflow_istio.report.data import Comparison, ReportData

ARTIFACT = "report.html"
PLAN_ARTIFACT = "release.json"
COMPARISON_ARTIFACT = "comparison/most-different.json"
COMPARISON_VERDICT = "comparison/verdict.json"
"""As ``releases.comparison`` writes them."""

OUTCOMES: Mapping[str, str] = {
    "promote": "promoted",
    "watch-end": "promoted",
    "rollback": "rolled-back",
    "abort": "aborted",
    "supersede": "superseded",
    "delete": "aborted",
    "inconclusive": "inconclusive",
}
"""Action of a change that ends a release to how the release ended."""

Read = TypeVar("Read")


def gather(context: Context, name: str, release: str | None = None) -> ReportData:
    """Everything known of a release; what can't be read is named in it instead of failing.

    Args:
        context: The ports.
        name: The endpoint; it may be gone.
        release: Id of the release; None: the open one, else the last.

    Raises:
        NotFound: There is no such endpoint, or no such release of it.
        ClusterError: The cluster can't be reached.
    """
    missing: list[str] = []
    try:
        endpoint: Endpoint | None = endpoint_of(context.cluster, name)
    except NotFound:
        endpoint = None
    known = {change.id: change for change in endpoint.outbox} if endpoint else {}
    nothing: Sequence[RoutingChange] = ()
    recorded = _read(missing, "the changes", lambda: context.registry.history(context.scope, name), nothing)
    known |= {change.id: change for change in recorded}
    changes = sorted(known.values(), key=lambda change: (change.sequence, change.time))
    if endpoint is None and not changes:
        endpoint_of(context.cluster, name)  # says which endpoints there are
    chosen = _chosen(name, endpoint, changes, release)
    own = [change for change in changes if change.release == chosen]
    return _filled(context, name, chosen, endpoint, own, missing)


def keep_report(context: Context, data: ReportData) -> tuple[str, tuple[str, ...]]:
    """Render a report and keep it with its release's run; a registry that is down costs only the artifact.

    Returns:
        The page, and warnings of one line each.
    """
    from mlflow_istio.report.page import render  # templates and all: not for commands that need no report

    page = render(data)
    if data.run is None:
        return page, (f"the report of release '{data.release}' is kept nowhere yet: the release has no run",)
    try:
        context.runs.keep(data.run, texts={ARTIFACT: page})
    except (RegistryError, NotFound) as exc:
        return page, (
            f"the report of release '{data.release}' could not be kept ({exc.message}): write it later with "
            f"'mlflow-istio report {data.endpoint} --release {data.release}'",
        )
    return page, ()


def report_ended(context: Context, name: str, recorded: Sequence[RoutingChange]) -> tuple[str, ...]:
    """Keep the reports of the releases that these changes ended; never more than a warning.

    Returns:
        Warnings, one line each.
    """
    ended = [change.release for change in recorded if change.release is not None and change.action in OUTCOMES]
    return tuple(warning for release in dict.fromkeys(ended) for warning in report_release(context, name, release))


def report_release(context: Context, name: str, release: str) -> tuple[str, ...]:
    """Keep the report of one release; never more than a warning.

    Returns:
        Warnings, one line each.
    """
    try:
        return keep_report(context, gather(context, name, release))[1]
    except NotFound:
        return ()  # the endpoint and its history went away meanwhile


def _chosen(name: str, endpoint: Endpoint | None, changes: Sequence[RoutingChange], asked: str | None) -> str:
    ids = list(dict.fromkeys(change.release for change in changes if change.release is not None))
    last = [end.id for end in (endpoint.release, endpoint.last) if end] if endpoint else []
    if asked is not None:
        if asked not in (*ids, *last):
            raise NotFound(f"endpoint '{name}' has had no release '{asked}': {nearest(asked, (*ids, *last))}")
        return asked
    if not (last or ids):
        raise NotFound(f"endpoint '{name}' has had no release yet, so there is nothing to report")
    return last[0] if last else ids[-1]


def _filled(
    context: Context,
    name: str,
    release: str,
    endpoint: Endpoint | None,
    own: Sequence[RoutingChange],
    missing: list[str],
) -> ReportData:
    opened = endpoint.release if endpoint and endpoint.release and endpoint.release.id == release else None
    closed = endpoint.last if endpoint and endpoint.last and endpoint.last.id == release else None
    run = next((end.run for end in (opened, closed, *own) if end and end.run), None)
    told = _document(context, run, PLAN_ARTIFACT, missing)
    plan = _mapping(told, "plan")
    figures: Mapping[str, Sequence[Figure]] = {}
    if run is not None:
        figures = _read(missing, "the figures", lambda: context.runs.figures(run), {})
    outcome = "" if opened else closed.outcome if closed else _outcome(own)
    return ReportData(
        endpoint=name,
        scope=context.scope,
        release=release,
        strategy=next((end.strategy for end in (opened, closed) if end), "") or str(plan.get("strategy", "")),
        candidates=next((end.candidates for end in (opened, closed) if end and end.candidates), ()) or _released(own),
        outcome=outcome,
        run=run,
        opened=opened.opened if opened else own[0].time if own else None,
        made=context.clock.now(),
        changes=own,
        figures=figures,
        verdict=_verdict(own, outcome, told, endpoint if opened else None),
        plan=plan,
        comparison=_comparison(context, run, figures, missing),
        before=_object(context, own[0], "before", missing) if own else None,
        after=_after(context, name, endpoint, own, missing),
        missing=tuple(dict.fromkeys(missing)),
    )


def _outcome(own: Sequence[RoutingChange]) -> str:
    """How a release ended that the object does not remember any more."""
    ends = [OUTCOMES[change.action] for change in own if change.action in OUTCOMES]
    return ends[-1] if ends else "superseded"


def _released(own: Sequence[RoutingChange]) -> tuple[str, ...]:
    """Who was released, as far as the changes show: whoever had traffic or copies but was not stable before."""
    before = next((change.before for change in own if change.before), None)
    stable = max(before.weights, key=lambda name: before.weights[name], default="") if before else ""
    seen: dict[str, None] = {}
    controls = {change.control for change in own}
    for change in own:
        if change.after:
            seen |= dict.fromkeys(name for name, weight in change.after.weights.items() if weight)
            seen |= dict.fromkeys(mirror.destination.name for mirror in change.after.mirrors)
            seen |= dict.fromkeys(arm.deployment for arm in change.after.arms)
    return tuple(name for name in seen if name != stable and name not in controls)


def _verdict(
    own: Sequence[RoutingChange], outcome: str, told: Mapping[str, Any], endpoint: Endpoint | None
) -> Mapping[str, Any]:
    """What decided: the last change's evidence; while the release is open, its last look."""
    if outcome:
        evidence = own[-1].evidence if own else {}
        return evidence if isinstance(evidence.get("word"), str) else {}
    try:
        release_status = release_status_of(endpoint.progress) if endpoint else None
    except InvalidInput:
        release_status = None
    if release_status and release_status.verdict:
        return release_status.verdict
    return _mapping(told, "verdict")


def _comparison(
    context: Context, run: str | None, figures: Mapping[str, Sequence[Figure]], missing: list[str]
) -> Comparison | None:
    """A shadow's figures, how they came about, and the requests that differ most."""
    shadow = {name: points[-1].value for name, points in figures.items() if name.startswith("shadow/") and points}
    table = _json(context, run, COMPARISON_ARTIFACT, missing)
    different = []
    for row in table if isinstance(table, list) else ():
        if isinstance(row, dict) and "request_id" in row:
            size = row.get("difference")
            known = isinstance(size, (int, float)) and math.isfinite(size)
            different.append((str(row["request_id"]), size if known else None, str(row.get("note", ""))))
    if not (shadow or different):
        return None
    evidence = _mapping(_document(context, run, COMPARISON_VERDICT, missing), "evidence")
    return Comparison(figures=shadow, most_different=different, terms=str(evidence.get("terms", "")))


def _after(
    context: Context, name: str, endpoint: Endpoint | None, own: Sequence[RoutingChange], missing: list[str]
) -> Object | None:
    """The object as the last change left it: as it stands where nothing has happened since, else from the run."""
    if not own:
        return None
    if endpoint and endpoint.change == own[-1].id:
        return virtual_service_of(context.cluster, name)
    return _object(context, own[-1], "after", missing)


def _object(context: Context, change: RoutingChange, side: str, missing: list[str]) -> Object | None:
    if change.run is None:
        return None
    file = f"changes/{change.sequence:06d}-{change.id}/{side}.json"
    document = _document(context, change.run, file, missing)
    return document if isinstance(document.get("metadata"), dict) else None


def _document(context: Context, run: str | None, path: str, missing: list[str]) -> dict[str, Any]:
    """A JSON object from an artifact; empty when there is none."""
    document = _json(context, run, path, missing)
    return document if isinstance(document, dict) else {}


def _json(context: Context, run: str | None, path: str, missing: list[str]) -> Any:
    """A JSON artifact; None when there is none."""
    if run is None:
        return None
    text = _read(missing, path, lambda: context.runs.text(run, path), None)
    if text is None:
        return None
    try:
        return parsed(text, f"artifact '{path}' of run {run}")
    except InvalidInput as exc:
        missing.append(exc.message)
        return None


def _mapping(told: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = told.get(key)
    return value if isinstance(value, dict) else {}


def _read(missing: list[str], what: str, read: Callable[[], Read], otherwise: Read) -> Read:
    try:
        return read()
    except (RegistryError, NotFound) as exc:
        missing.append(f"{what}: {exc.message}")
        return otherwise
