"""What is wrong with an endpoint, as far as objects and ledger tell. Pure: each finding names the command that mends it.

Commands hold ``{target}`` where the target stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from mlflow_istio.core.basics.objects import (
    CONTROL_ANNOTATION,
    Object,
    annotations_of,
    name_of,
    ready_replicas,
    wanted_replicas,
)
from mlflow_istio.core.endpoint.deadlines import due
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.numbering import set_back_to
from mlflow_istio.core.endpoint.registry_state import RegistryState
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Traffic
from mlflow_istio.core.mesh.attached import (
    Attachment,
    attachment_in,
    changed_since,
    not_ready,
    other_predictors,
    readable_attachment,
)
from mlflow_istio.core.mesh.destination_rule import subset_labels, subsets_of
from mlflow_istio.core.mesh.manifests import VERSION_ANNOTATION
from mlflow_istio.core.mesh.virtual_service import (
    header_meetings,
    headers_said_twice,
    with_every_route,
    write_endpoint,
)
from mlflow_istio.errors import InvalidInput, MlflowIstioError

ERROR, WARNING, INFO = "error", "warning", "info"
FIX = "mlflow-istio doctor {name} -t {target} --fix"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        endpoint: The endpoint.
        code: What kind of thing, for programs.
        severity: ``error`` (users may feel it), ``warning``, or ``info`` (nothing is wrong yet).
        text: One line.
        command: The command that mends it.
        safe: Whether ``doctor --fix`` mends it by itself: nothing that users get changes by it.
        what: The deployment, run or other thing it is about, if it is about one.
    """

    endpoint: str
    code: str
    severity: str
    text: str
    command: str
    safe: bool = False
    what: str = ""


def route_findings(
    virtual_service: Object, endpoint: Endpoint, last: RoutingChange | None, now: datetime
) -> Iterator[Finding]:
    """Routes that are not what the last change left, marks of a deletion, deadlines that nobody enforced."""
    name = endpoint.name
    if endpoint.deleting:
        yield Finding(
            endpoint=name,
            code="half-deleted",
            severity=WARNING,
            text="a deletion was begun and not finished",
            command=f"mlflow deployments delete-endpoint -t {{target}} --endpoint {name}",
        )
        return
    if last is not None and last.after is not None and (difference := traffic_difference(last.after, endpoint.traffic)):
        yield Finding(
            endpoint=name,
            code="edited-traffic",
            severity=ERROR,
            text=f"somebody edited the routes after change {last.sequence}: {difference}",
            command=f"mlflow-istio rollback {name} -t {{target}} --to {last.sequence}",
        )
    try:
        rendered = write_endpoint(virtual_service, with_every_route(endpoint))
    except MlflowIstioError as exc:
        yield Finding(
            endpoint=name,
            code="conflicting-edit",
            severity=ERROR,
            text=f"somebody's edit can't stand beside our routes: {exc.message}",
            command=f"kubectl edit virtualservice {name_of(virtual_service)}",
        )
    else:
        edited = _edited(virtual_service, rendered)
        if edited:
            yield Finding(
                endpoint=name,
                code="edited-routes",
                severity=ERROR,
                text=f"somebody edited our routes: {', '.join(edited)}",
                command=FIX.replace("{name}", name),
                safe=True,
            )
    twice = headers_said_twice(virtual_service, name)
    for text in (*twice, *map(str, header_meetings(virtual_service, name))):
        yield Finding(
            endpoint=name,
            code="header-conflict",
            severity=WARNING,
            text=text,
            command=f"kubectl edit virtualservice {name_of(virtual_service)}",
        )
    for deadline in due(endpoint.deadlines, now):
        what = f" of '{deadline.what}'" if deadline.what else ""
        yield Finding(
            endpoint=name,
            code="overdue",
            severity=WARNING,
            text=f"the {deadline.kind}{what} should have ended at {deadline.at.isoformat(timespec='seconds')}",
            command="mlflow-istio sweep -t {target}",
            safe=True,
            what=deadline.what,
        )


def rule_findings(rule: Mapping[str, Any] | None, endpoint: Endpoint, deployed: Sequence[str]) -> Iterator[Finding]:
    """Subsets that are missing, that mean something else, or that nothing stands behind."""
    name = endpoint.name
    fix = FIX.replace("{name}", name)
    if rule is None:
        yield Finding(
            endpoint=name,
            code="no-destination-rule",
            severity=ERROR,
            text="its DestinationRule is gone, so no deployment can be reached",
            command=fix,
            safe=True,
        )
        return
    meant = {str(subset["name"]): subset.get("labels") for subset in rule.get("spec", {}).get("subsets") or []}
    for pin in endpoint.traffic.pins:
        if pin not in deployed:
            continue
        if pin not in meant:
            text = f"deployment '{pin}' has no subset in the DestinationRule, so it can't be reached"
        elif meant[pin] != subset_labels(pin):
            text = f"subset '{pin}' of the DestinationRule selects {meant[pin]}, not deployment '{pin}'"
        else:
            continue
        severity = ERROR if endpoint.traffic.reaches(pin) else WARNING
        yield Finding(
            endpoint=name, code="wrong-subset", severity=severity, text=text, command=fix, safe=True, what=pin
        )
    for subset in subsets_of(rule):
        ours = meant[subset] == subset_labels(subset)
        if ours and subset not in deployed and subset not in endpoint.traffic.pins:
            yield Finding(
                endpoint=name,
                code="empty-subset",
                severity=WARNING,
                text=f"subset '{subset}' of the DestinationRule has no deployment",
                command=fix,
                safe=True,
                what=subset,
            )


def deployment_findings(endpoint: Endpoint, deployments: Sequence[Object]) -> Iterator[Finding]:
    """Routes to deployments that are gone or not ready, and deployments that no route leads to."""
    name, traffic = endpoint.name, endpoint.traffic
    by_name = {name_of(obj): obj for obj in deployments}
    for pin in traffic.pins:
        if pin not in by_name:
            yield _gone(endpoint, pin)
    for deployment, obj in by_name.items():
        replicas, ready = wanted_replicas(obj), ready_replicas(obj)
        where = f"deployment '{deployment}'"
        used = traffic_of(endpoint, deployment)
        if CONTROL_ANNOTATION in annotations_of(obj) and endpoint.role_of(deployment) != "control":
            yield Finding(
                endpoint=name,
                code="left-over-control",
                severity=WARNING,
                text=f"{where} is the control of a release that is over, and nothing says when it goes",
                command=FIX.replace("{name}", name),
                safe=True,
                what=deployment,
            )
        elif deployment not in traffic.pins and endpoint.role_of(deployment) != "control":
            yield Finding(
                endpoint=name,
                code="unrouted-deployment",
                severity=WARNING,
                text=f"{where} runs, but no route leads to it: its creation or removal was not finished",
                command=f"mlflow deployments delete -t {{target}} --name {deployment}",
                what=deployment,
            )
        elif ready < max(1, replicas) and (used or replicas):
            some = f"{ready} of {replicas} replicas ready"
            up = f"mlflow deployments update -t {{target}} --name {deployment} -C replicas=1"
            attachment = readable_attachment(obj)
            if attachment is not None:
                some, replicas = not_ready(obj) or some, 0
                up = f"kubectl describe {attachment.kind.lower()} {attachment.name}"
            yield Finding(
                endpoint=name,
                code="not-ready",
                severity=ERROR if used and not ready else WARNING,
                text=f"{where} has {some}" + (" and gets traffic" if used else ""),
                command=up if not replicas else _elsewhere(endpoint, deployment),
                what=deployment,
            )
        elif _is_left_over(endpoint, deployment):
            yield Finding(
                endpoint=name,
                code="idle",
                severity=INFO,
                text=f"{where} has had its release and gets no traffic any more",
                command=f"mlflow deployments delete -t {{target}} --name {deployment}",
                what=deployment,
            )


def attached_findings(
    endpoint: Endpoint,
    deployment: Object,
    workloads: Sequence[Object],
    service: Object | None,
    rule: Object | None,
    beside: Sequence[Object] = (),
) -> Iterator[Finding]:
    """What is attached and not as it was then, or not led to any more.

    Args:
        endpoint: The endpoint.
        deployment: The Deployment that stands for it.
        workloads: The Deployments whose pods it has now.
        service: The Service that leads to it.
        rule: The DestinationRule that does.
        beside: Deployments that stand beside it.
    """
    name = name_of(deployment)
    try:
        attachment = attachment_in(deployment)
    except InvalidInput as exc:
        delete = f"mlflow deployments delete -t {{target}} --name {name}"
        yield Finding(
            endpoint=endpoint.name,
            code="damaged-attachment",
            severity=ERROR,
            text=exc.message,
            command=delete,
            what=name,
        )
        return
    if attachment is None or name not in endpoint.traffic.pins:
        return
    changed = changed_since(attachment, workloads)
    if changed:
        version = annotations_of(deployment).get(VERSION_ANNOTATION, "")
        yield Finding(
            endpoint=endpoint.name,
            code="attached-changed",
            severity=WARNING,
            text=f"{attachment}, which '{name}' stands for, was changed since it was attached ({changed}): whether it still serves "
            f"{version} is its owner's word",
            command=f"mlflow deployments create -t {{target}} --endpoint {endpoint.name} --name NEW -m models:/MODEL/VERSION "
            f"-C attach={attachment.reference}, after deleting '{name}'",
            what=name,
        )
    inference, others = other_predictors(workloads, beside)
    if others:
        yield Finding(
            endpoint=endpoint.name,
            code="kserve-canaries",
            severity=INFO,
            text=f"InferenceService '{inference}' has {', '.join(others)} beside what '{name}' stands for: when KServe promotes "
            f"one of these, it deletes {attachment} with its Service",
            command=f"mlflow deployments create -t {{target}} --endpoint {endpoint.name} --name NEW -m models:/MODEL/VERSION "
            f"-C attach=deployment/{others[0]}",
            what=name,
        )
    selects = (service or {}).get("spec", {}).get("selector") or {}
    if service is None or selects != dict(attachment.selector) or name not in subsets_of(rule or {}):
        gets = traffic_of(endpoint, name)
        yield Finding(
            endpoint=endpoint.name,
            code="attached-unled",
            severity=ERROR if gets else WARNING,
            text=f"what leads from '{name}' to {attachment} was taken away or bent, so requests to it are answered with status 503",
            command=FIX.replace("{name}", endpoint.name),
            safe=True,
            what=name,
        )


def silent_address(endpoint: Endpoint, deployment: Object, attachment: Attachment) -> Finding:
    """That nobody listens at an address which is attached."""
    name = name_of(deployment)
    gets = traffic_of(endpoint, name)
    return Finding(
        endpoint=endpoint.name,
        code="not-ready",
        severity=ERROR if gets else WARNING,
        text=f"nobody listens at {attachment}, which '{name}' stands for" + (", and it gets traffic" if gets else ""),
        command=f"start the server there again, or: {_elsewhere(endpoint, name)}",
        what=name,
    )


def traffic_of(endpoint: Endpoint, deployment: str) -> bool:
    """Whether users reach a deployment, or are to."""
    return endpoint.traffic.reaches(deployment) or endpoint.role_of(deployment) == "stable"


def ledger_findings(
    endpoint: Endpoint, recorded: Sequence[RoutingChange], open_runs: Mapping[str, str]
) -> Iterator[Finding]:
    """Changes that the registry lacks, and runs of releases that never were.

    Args:
        endpoint: The endpoint.
        recorded: The registry's history.
        open_runs: Release id to run, for the registry's runs of releases that have not ended.
    """
    name = endpoint.name
    if endpoint.outbox:
        count = len(endpoint.outbox)
        yield Finding(
            endpoint=name,
            code="unrecorded",
            severity=WARNING,
            text=f"{count} routing change{'s are' if count > 1 else ' is'} not in the registry yet",
            command=f"mlflow-istio history {name} -t {{target}}",
            safe=True,
        )
    newest_recorded = set_back_to(endpoint, recorded)
    if newest_recorded is not None:
        yield Finding(
            endpoint=name,
            code="set-back",
            severity=ERROR,
            text=f"its object is as of change {endpoint.sequence}, and the ledger has changes up to {newest_recorded}: somebody "
            "applied an older copy of it",
            command=f"mlflow-istio rollback {name} -t {{target}} --to {newest_recorded}",
        )
    forged = [change.tag_key for change in recorded if change.forged]
    if forged:
        tags = ", ".join(forged[:5]) + (" ..." if len(forged) > 5 else "")
        yield Finding(
            endpoint=name,
            code="forged-change",
            severity=ERROR,
            text=f"somebody changed the ledger after it was written: tag {tags}",
            command=f"mlflow-istio history {name} -t {{target}} --json, and ask who may write to the tracking server",
        )
    known = {change.sequence: change for change in recorded}
    waiting = {change.sequence for change in endpoint.outbox}
    missing = (number for number in range(1, endpoint.sequence + 1) if number not in known and number not in waiting)
    lost = list(islice(missing, 11))  # a damaged number may be of any size
    newest = known.get(endpoint.sequence)
    if newest is not None and newest.id != endpoint.change and endpoint.sequence not in waiting:
        lost.append(endpoint.sequence)
    if lost:
        numbers = ", ".join(map(str, lost[:10])) + (" ..." if len(lost) > 10 else "")
        yield Finding(
            endpoint=name,
            code="lost-changes",
            severity=WARNING,
            text=f"the registry does not have change {numbers} any more: its run was deleted, it is another registry, or somebody "
            "took it off the object before the registry had it",
            command=f"mlflow runs restore, or mlflow experiments restore, then mlflow-istio history {name} -t {{target}}",
        )
    for release, run in open_runs.items():
        if endpoint.release is None or endpoint.release.id != release:
            yield orphan_run(name, release, run)


def orphan_run(name: str, release: str, run: str) -> Finding:
    """A release's run that is open in the registry, but not on the endpoint."""
    return Finding(
        endpoint=name,
        code="orphan-run",
        severity=WARNING,
        text=f"run {run} of release '{release}' is open in the registry, but the release is not",
        command=FIX.replace("{name}", name),
        safe=True,
        what=run,
    )


def standing_findings(
    standing: RegistryState,
    tags: Mapping[str, Mapping[str, str]],
    versions: frozenset[str],
    aliases: Mapping[tuple[str, str], int],
    owned: frozenset[tuple[str, str]],
) -> Iterator[Finding]:
    """Tags and aliases that say something else than the endpoint does, and versions that are served but gone.

    Args:
        standing: What they should say.
        tags: ``MODEL/VERSION`` to its tags, for every version ever behind the endpoint.
        versions: Every ``MODEL/VERSION`` that the registry has.
        aliases: (model, alias) to version number, as the registry has them.
        owned: Aliases that the registry holds for this endpoint.
    """
    start = f"istio.{standing.scope}.{standing.endpoint}."
    wanted = {served.version: served.tags(standing.scope, standing.endpoint) for served in standing.served}
    wrong = []
    for label in sorted(set(wanted) - versions):
        yield Finding(
            endpoint=standing.endpoint,
            code="version-gone",
            severity=WARNING,
            text=f"{label} is served but gone from the registry (deleted, or its model was renamed): servers that start anew "
            "may not find it, and no tag or alias tells of it",
            command=f"mlflow-istio release {standing.endpoint} models:/MODEL/VERSION -t {{target}}",
            what=label,
        )
    for label in sorted({*tags, *wanted} & versions):
        has = {key: value for key, value in tags.get(label, {}).items() if key.startswith(start)}
        if has != wanted.get(label, {}):
            wrong.append(f"tags of {label}")
    for (model, alias), version in sorted(standing.aliases.items()):
        key = (model, alias)
        if version is not None and f"{model}/{version}" not in versions:
            continue
        if aliases.get(key) != version and (version is not None or key in owned):
            has_now = aliases.get(key)
            wrong.append(f"alias '{alias}' of {model} (is {has_now or 'nothing'}, should be {version or 'nothing'})")
    if wrong:
        yield Finding(
            endpoint=standing.endpoint,
            code="registry-drift",
            severity=WARNING,
            text=f"the registry says something else than the endpoint: {', '.join(wrong)}",
            command=FIX.replace("{name}", standing.endpoint),
            safe=True,
        )


def traffic_difference(then: Traffic, now: Traffic) -> str:
    """What differs between two traffics, in words; empty when nothing does."""
    parts = []
    for name in dict.fromkeys([*then.weights, *now.weights]):
        was, is_now = then.weights.get(name, 0), now.weights.get(name, 0)
        if was != is_now:
            parts.append(f"weight of {name} {was} -> {is_now}")
    sides = {
        "pins": (set(then.pins), set(now.pins)),
        "arms": ({arm.deployment for arm in then.arms}, {arm.deployment for arm in now.arms}),
        "mirrors": ({m.destination.name for m in then.mirrors}, {m.destination.name for m in now.mirrors}),
    }
    for what, (was_there, is_there) in sides.items():
        parts += [f"{what}: {name} is gone" for name in sorted(was_there - is_there)]
        parts += [f"{what}: {name} was added" for name in sorted(is_there - was_there)]
    if not parts and (then.arms, then.mirrors, then.sticky) != (now.arms, now.mirrors, now.sticky):
        parts.append("matches of the arms, mirrored shares or the cookie")
    return ", ".join(parts)


def _gone(endpoint: Endpoint, deployment: str) -> Finding:
    used = endpoint.traffic.reaches(deployment) or endpoint.role_of(deployment) != "idle"
    if used:
        return Finding(
            endpoint=endpoint.name,
            code="gone-deployment",
            severity=ERROR,
            text=f"deployment '{deployment}' is gone, but requests are sent to it",
            command=f"mlflow-istio rollback {endpoint.name} -t {{target}} --to {endpoint.sequence}",
            what=deployment,
        )
    return Finding(
        endpoint=endpoint.name,
        code="gone-deployment",
        severity=WARNING,
        text=f"deployment '{deployment}' is gone, but its header route is there",
        command=FIX.replace("{name}", endpoint.name),
        safe=True,
        what=deployment,
    )


def _elsewhere(endpoint: Endpoint, deployment: str) -> str:
    """What helps where a deployment with traffic is broken: away from it if there is where to go, else its log."""
    release = endpoint.release
    if endpoint.role_of(deployment) == "holdback":
        return f"mlflow-istio promote {endpoint.name} -t {{target}}"
    if release is not None and deployment in release.candidates:
        return f"mlflow-istio rollback {endpoint.name} -t {{target}}"
    if release is None and endpoint.last is not None and endpoint.last.previous is not None:
        return f"mlflow-istio rollback {endpoint.name} -t {{target}}"
    return f"mlflow deployments get -t {{target}} --name {deployment}, and read its log"


def _is_left_over(endpoint: Endpoint, deployment: str) -> bool:
    """Whether a deployment was released or replaced, has no part in anything, and is no way back."""
    last = endpoint.last
    if endpoint.role_of(deployment) != "idle" or endpoint.traffic.reaches(deployment) or last is None:
        return False
    if last.previous == endpoint.destination(deployment):
        return False
    return deployment in last.candidates or last.outcome == "promoted"


def _edited(virtual_service: Object, rendered: Object) -> list[str]:
    """Names of routes and annotations that a write of ours would set right."""
    names = []
    before = {str(route.get("name", "")): route for route in virtual_service["spec"].get("http") or []}
    after = {str(route.get("name", "")): route for route in rendered["spec"]["http"]}
    for name in dict.fromkeys([*after, *before]):
        if before.get(name) != after.get(name):
            names.append(
                f"{name} {'is gone' if name not in before else 'does not belong there' if name not in after else 'was changed'}"
            )
    if not names and virtual_service["spec"].get("http") != rendered["spec"]["http"]:
        names.append("their order")
    return names
