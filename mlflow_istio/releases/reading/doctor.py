"""Look an endpoint over: objects, ledger, tags, proxies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from mlflow_istio.calls.loopback import is_listening
from mlflow_istio.core.basics.model_version import parse_label
from mlflow_istio.core.basics.objects import (
    ENDPOINT_LABEL,
    MANAGED_BY_LABEL,
    Object,
    annotations_of,
    labels_of,
    name_of,
    prefix,
    with_annotations,
)
from mlflow_istio.core.basics.stored import parsed
from mlflow_istio.core.endpoint.endpoint import Endpoint, annotation
from mlflow_istio.core.endpoint.registry_state import RegistryState, nothing_stands, registry_state_of
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import attached_host
from mlflow_istio.core.inspection.diagnosis import (
    ERROR,
    FIX,
    INFO,
    WARNING,
    Finding,
    attached_findings,
    deployment_findings,
    ledger_findings,
    orphan_run,
    route_findings,
    rule_findings,
    silent_address,
    standing_findings,
)
from mlflow_istio.core.matching.places import service_of
from mlflow_istio.core.matching.probe import change_probe
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.core.mesh.attached import KSERVE_LABEL, is_attached, readable_attachment
from mlflow_istio.core.mesh.delegation import delegates_of, is_delegate
from mlflow_istio.core.mesh.host_conflict import check_hosts
from mlflow_istio.core.mesh.virtual_service import read_endpoint, routes_of
from mlflow_istio.core.moves.adoption import copied_state, endpoints_in, several_carriers
from mlflow_istio.core.moves.claims import Claim, carries_out, claimants, claimed, claims_in, remembered
from mlflow_istio.core.release.driver import release_status_of
from mlflow_istio.errors import (
    ClusterError,
    DamagedEntry,
    InvalidInput,
    MlflowIstioError,
    NotFound,
    RegistryError,
    StateConflict,
)
from mlflow_istio.ports.registry import Survey
from mlflow_istio.releases.context import (
    CLAIM,
    ROOT,
    Context,
    deployments_of,
    endpoint_names,
    endpoint_of,
    entrance_of,
    find_virtual_service,
    is_ours,
    versions_of,
    workloads_of,
)
from mlflow_istio.releases.reading.owners_services import gone_services

_PROBE_TIMEOUT = 5.0
_PARTS = ("state", "release", "progress", "unrecorded", "deadlines", "policy", "deployed")


def examine(context: Context, name: str | None = None) -> list[Finding]:
    """Everything that is not as it should be, the worst first.

    Args:
        context: The ports.
        name: The endpoint; None: all of the target, and those that only the registry still knows.

    Raises:
        NotFound: There is no such endpoint, and the registry never knew it.
        ClusterError: The cluster can't be reached.
    """
    findings: list[Finding] = []
    names = endpoint_names(context.cluster)
    known: Survey | None = None
    try:
        known = context.registry.survey(context.scope, ())
    except RegistryError as exc:
        findings.append(
            Finding(
                endpoint=name or "",
                code="registry-unreachable",
                severity=WARNING,
                text=f"the registry can't be asked, so nothing is said of it ({exc.message})",
                command="make MLFLOW_TRACKING_URI reachable, then mlflow-istio doctor -t {target}",
            )
        )
    if name is None:
        orphans = {
            labelled for kind in ("Service", "DestinationRule", "Deployment") for labelled in _labelled(context, kind)
        }
        names = sorted({*names, *orphans, *(known.open_runs if known else ())})
    else:
        names = [name]
    findings += _claim_findings(context, name)
    there = context.cluster.list("VirtualService", {})
    for endpoint_name in names:
        findings += _carrier_findings(there, endpoint_name)
        findings += _of_one(context, endpoint_name, known, must_exist=name is not None)
    rank = {ERROR: 0, WARNING: 1, INFO: 2}
    return sorted(findings, key=lambda finding: (rank[finding.severity], finding.endpoint, finding.code, finding.what))


def _claim_findings(context: Context, name: str | None) -> Iterator[Finding]:
    """What roots hand on to endpoints that are not there; of one endpoint, or under one root, if it is named."""
    known = context.cluster.list("VirtualService", {})
    there = {endpoint: obj for obj in known for endpoint in endpoints_in(obj)}
    for root in known:
        try:
            claims = claims_in(root)
        except InvalidInput as exc:
            yield Finding(
                endpoint=name_of(root),
                code="damaged-claim",
                severity=ERROR,
                text=exc.message,
                command=f"kubectl edit virtualservice {name_of(root)}",
            )
            continue
        for endpoint, claim in claims.items():
            if name in (None, endpoint, name_of(root)):
                yield from _claim_of(root, endpoint, claim, there.get(endpoint))
    for endpoint, virtual_service in there.items():
        if name in (None, endpoint):
            yield from _lost_claim(known, endpoint, virtual_service)


def _claim_of(root: Object, endpoint: str, claim: Claim, virtual_service: Object | None) -> Iterator[Finding]:
    """A claim that leads to nothing, or to an endpoint that stands somewhere else."""
    hands_on = f"VirtualService '{name_of(root)}' hands {claim} on to it"
    if virtual_service is None or not is_delegate(virtual_service):
        why = "there is no such endpoint" if virtual_service is None else "it has hosts of its own"
        yield Finding(
            endpoint=endpoint,
            code="stale-claim",
            severity=WARNING,
            text=f"{hands_on}, but {why}, so Istio leaves that route out",
            command=FIX.replace("{name}", endpoint),
            safe=True,
            what=name_of(root),
        )
        return
    under = _root_name(virtual_service, endpoint)
    if under is not None and under != name_of(root):
        yield Finding(
            endpoint=endpoint,
            code="claim-elsewhere",
            severity=WARNING,
            text=f"{hands_on}, but it stands under '{under}': its requests here are proved by nobody",
            command=f"kubectl edit virtualservice {name_of(root)}",
            what=name_of(root),
        )


def _lost_claim(known: Sequence[Object], endpoint: str, virtual_service: Object) -> Iterator[Finding]:
    """An endpoint under a shared host whose root does not hand its requests on to it any more."""
    root_name = _root_name(virtual_service, endpoint) if is_delegate(virtual_service) else None
    root = next((obj for obj in known if name_of(obj) == root_name), None)
    if root_name is None:
        return
    root_claim = None
    if root is not None:
        try:
            if carries_out(root, endpoint):
                return
        except InvalidInput:
            return  # found above
        root_claim = claims_in(root).get(endpoint)
        ours = root_claim is not None or is_ours(root, root_name)
    claim = root_claim or remembered(read_endpoint(virtual_service, endpoint).settings.get(CLAIM))
    partly = root is not None and endpoint in delegates_of(root)
    has = (
        "is gone"
        if root is None
        else f"hands {'only a part of its' if partly else 'none of its'} requests on to it any more"
    )
    text, safe = f"VirtualService '{root_name}' {has}", False
    if root is not None and claim is not None:
        text += f" ({claim})"
        try:
            claimed(root, endpoint, claim)
            safe = ours
        except StateConflict as exc:
            text += f": {exc.message}"
    yield Finding(
        endpoint=endpoint,
        code="lost-claim",
        severity=WARNING if partly else ERROR,
        text=text,
        command=FIX.replace("{name}", endpoint)
        if safe
        else f"the create command of '{endpoint}' with under={root_name} again",
        safe=safe,
        what=root_name,
    )


def _root_name(virtual_service: Object, endpoint: str) -> str | None:
    """The root that an endpoint remembers; None where it remembers none, or can't be read, which is said elsewhere."""
    try:
        return read_endpoint(virtual_service, endpoint).settings.get(ROOT)
    except MlflowIstioError:
        return None


def _carrier_findings(there: Sequence[Object], name: str) -> Iterator[Finding]:
    """VirtualServices that hold an endpoint beside the one that carries it."""
    problem = several_carriers(there, name)
    findings = [("several-carriers", ERROR, problem)] if problem else []
    findings += [("copied-state", WARNING, text) for text in copied_state(there, name)]
    for code, severity, text in findings:
        yield Finding(
            endpoint=name, code=code, severity=severity, text=text, command="kubectl delete virtualservice NAME"
        )


def _labelled(context: Context, kind: str) -> Iterator[str]:
    for obj in context.cluster.list(kind, {}):
        labels = labels_of(obj)
        if ENDPOINT_LABEL in labels and MANAGED_BY_LABEL in labels:
            yield labels[ENDPOINT_LABEL]


def _of_one(context: Context, name: str, known: Survey | None, *, must_exist: bool) -> Iterator[Finding]:
    """What is found of an endpoint; what can't even be looked at is one finding, and holds nothing else back."""
    try:
        yield from _examined(context, name, known, must_exist=must_exist)
    except NotFound:
        raise  # there is no such endpoint
    except MlflowIstioError as exc:
        yield _unreadable(name, exc.message)


def _unreadable(name: str, why: str) -> Finding:
    return Finding(
        endpoint=name,
        code="unreadable",
        severity=ERROR,
        text=why,
        command=f"mlflow-istio doctor {name} -t {{target}}, once that is mended",
    )


def _other_place(context: Context, name: str) -> Finding | None:
    """That another place keeps the ledger: nothing of it is compared then, and nothing written."""
    try:
        context.registry.check_place(context.scope, name)
    except StateConflict as exc:
        return Finding(
            endpoint=name,
            code="other-place",
            severity=ERROR,
            text=exc.message,
            command="export MLFLOW_ISTIO_SCOPE=..., or mlflow deployments create ... -C take_over=true",
        )
    except RegistryError:
        return None  # said once, for all
    return None


def _hidden(context: Context, endpoint: Endpoint, deployed: Sequence[str]) -> dict[str, str]:
    """Deployments that are not listed because they can't be read, with the reason: they are not gone."""
    hidden = {}
    for pin in endpoint.traffic.pins:
        if pin not in deployed:
            try:
                context.cluster.get("Deployment", pin)
            except ClusterError as exc:
                hidden[pin] = exc.message
    return hidden


def _examined(context: Context, name: str, known: Survey | None, *, must_exist: bool) -> Iterator[Finding]:
    recorded: Sequence[RoutingChange] = ()
    problem = ""
    if known is not None:
        try:
            recorded = context.registry.history(context.scope, name)
        except RegistryError as exc:
            problem = exc.message
            damaged = isinstance(exc, DamagedEntry)  # else a right is missing, say, and no tag is to blame
            yield Finding(
                endpoint=name,
                code="damaged-history" if damaged else "registry-unreachable",
                severity=WARNING,
                text=f"its history can't be read: {problem}",
                command="mlflow runs describe --run-id RUN, and delete or restore the tag it names"
                if damaged
                else f"mlflow-istio doctor {name} -t {{target}}, once that is mended",
            )
    deployments = deployments_of(context.cluster, name)
    virtual_service = find_virtual_service(context.cluster, name)
    if virtual_service is None:
        never_was = known is not None and not problem and not recorded
        yield from _without_home(
            context, name, recorded, deployments, known, must_exist=must_exist, never_was=never_was
        )
        return
    try:
        endpoint = read_endpoint(virtual_service, name)
    except MlflowIstioError as exc:
        yield _damaged(context, virtual_service, name, recorded, exc.message)
        return
    last = endpoint.outbox[-1] if endpoint.outbox else recorded[-1] if recorded else None
    if last is not None and last.id != endpoint.change:
        last = None
    yield from route_findings(
        virtual_service, endpoint, last if last is not None and last.whole else None, context.clock.now()
    )
    deployed = [name_of(obj) for obj in deployments]
    if not endpoint.deleting:
        yield from rule_findings(context.cluster.get("DestinationRule", name), endpoint, deployed)
        hidden = _hidden(context, endpoint, deployed)
        yield from (_unreadable(name, why) for why in hidden.values())
        yield from (finding for finding in deployment_findings(endpoint, deployments) if finding.what not in hidden)
        yield from _attached_findings(context, endpoint, deployments)
        yield from _watch_findings(endpoint, context.clock.now())
        yield from _host_findings(context, virtual_service, name)
        yield from _owners_findings(context, endpoint)
    if known is not None and not problem:
        strange = _other_place(context, name)
        if strange is not None:
            yield strange
            known = None
        elif not context.cluster.place:
            yield Finding(
                endpoint=name,
                code="place-unknown",
                severity=INFO,
                text=f"namespace '{context.cluster.scope}' may not be read, so its ledger can't be told from that of another "
                "cluster's namespace of this name",
                command="kubectl apply -f deploy/rbac.yaml (get on namespaces)",
            )
    if known is not None and not problem:
        yield from ledger_findings(endpoint, recorded, known.open_runs.get(name, {}))
        standing = registry_state_of(endpoint, context.scope, versions_of(deployments))
        yield from _registry_findings(context, standing, recorded)
    if not endpoint.deleting:
        yield from _proxy_findings(context, endpoint)


def _attached_findings(context: Context, endpoint: Endpoint, deployments: Sequence[Object]) -> Iterator[Finding]:
    """What somebody else runs, and what leads to it."""
    for obj in deployments:
        if is_attached(obj):
            attachment, host = readable_attachment(obj), attached_host(name_of(obj))
            workloads = workloads_of(context.cluster, attachment) if attachment else []
            service, rule = (context.cluster.get(kind, host) for kind in ("Service", "DestinationRule"))
            kserves = any(KSERVE_LABEL in labels_of(workload) for workload in workloads)
            beside = context.cluster.list("Deployment", {}) if kserves else []
            yield from attached_findings(endpoint, obj, workloads, service, rule, beside)
            if attachment and not attachment.kind and not is_listening(int(attachment.port)):
                yield silent_address(endpoint, obj, attachment)


def _without_home(
    context: Context,
    name: str,
    recorded: Sequence[RoutingChange],
    deployments: Sequence[Object],
    known: Survey | None,
    *,
    must_exist: bool,
    never_was: bool,
) -> Iterator[Finding]:
    """An endpoint whose VirtualService is gone, or no longer says that it carries it."""
    virtual_service = context.cluster.get("VirtualService", name)
    if virtual_service is not None and is_ours(virtual_service, name) and claimants(virtual_service):
        return  # the root of a shared host, which is no endpoint
    if virtual_service is not None and is_ours(virtual_service, name):
        yield _damaged(
            context,
            virtual_service,
            name,
            recorded,
            f"VirtualService '{name}' has lost annotation {annotation(name, 'state')}",
        )
        return
    kinds = [kind for kind in ("Service", "DestinationRule") if _is_there(context, kind, name)]
    left = [*kinds, *(f"deployment '{name_of(obj)}'" for obj in deployments)]
    if left:
        yield Finding(
            endpoint=name,
            code="orphan-objects",
            severity=WARNING,
            text=f"its first create did not end, and left {', '.join(left)}: give it again to finish it, or take away what is there"
            if never_was
            else f"there is no such endpoint any more, but {', '.join(left)} of it",
            command=f"mlflow deployments delete-endpoint -t {{target}} --endpoint {name}",
        )
    elif must_exist and not recorded and not (known and name in known.open_runs):
        endpoint_of(context.cluster, name)  # says which there are
    if known is None or _other_place(context, name) is not None:
        return  # what another place of this scope has there is none of ours
    for release, run in known.open_runs.get(name, {}).items():
        yield orphan_run(name, release, run)
    yield from _registry_findings(context, nothing_stands(context.scope, name, {}, labels_in(recorded)), recorded)


def _damaged(
    context: Context, virtual_service: Object, name: str, recorded: Sequence[RoutingChange], why: str
) -> Finding:
    """Annotations, or routes, that can't be read; the objects that the ledger keeps bring annotations back."""
    try:
        kept = kept_annotations(context, virtual_service, name, recorded)
    except RegistryError:
        kept = None
    if kept is not None:
        return Finding(
            endpoint=name,
            code="damaged",
            severity=ERROR,
            text=f"{why} (the ledger has them as of change {recorded[-1].sequence})",
            command=FIX.replace("{name}", name),
            safe=True,
        )
    return Finding(
        endpoint=name,
        code="damaged-for-good",
        severity=ERROR,
        text=why,
        command=f"mlflow-istio delete-endpoint {name} --force -t {{target}}",
    )


def kept_annotations(
    context: Context, virtual_service: Object, name: str, recorded: Sequence[RoutingChange]
) -> dict[str, str | None] | None:
    """The endpoint's annotations as the newest change left them, if that is the change whose routes stand there."""
    last = recorded[-1] if recorded else None
    if last is None or last.run is None or last.after is None:
        return None
    try:
        virtual_service = readable(virtual_service)
    except InvalidInput:
        return None
    probe = next((route for route in routes_of(virtual_service) if route.get("name") == f"{prefix(name)}probe"), {})
    if probe.get("directResponse", {}).get("body", {}).get("string") != last.id:
        return None
    text = context.runs.text(last.run, f"changes/{last.sequence:06d}-{last.id}/after.json")
    if text is None:
        return None
    try:
        annotations = annotations_of(parsed(text, "the object after the change"))
    except (InvalidInput, AttributeError):  # the artifact is damaged, too
        return None
    kept = {annotation(name, part): annotations.get(annotation(name, part)) for part in _PARTS}
    kept[annotation(name, "unrecorded")] = None
    try:
        read_endpoint(with_annotations(virtual_service, kept), name)
    except MlflowIstioError:
        return None
    return kept


def _watch_findings(endpoint: Endpoint, now: datetime) -> Iterator[Finding]:
    """A promotion that is to be watched, and nobody looks."""
    release = endpoint.release
    if release is None or release.watching is None or release.state == "paused":
        return
    release_status = release_status_of(endpoint.progress)
    if release_status is None or release_status.driven(now) is not None:
        return
    yield Finding(
        endpoint=endpoint.name,
        code="unwatched",
        severity=WARNING,
        text=f"nobody drives release '{release.id}', which is to watch '{endpoint.stable.name}', so nobody would go back",
        command=f"mlflow-istio resume {endpoint.name} -t {{target}}",
        what=release.id,
    )


def _host_findings(context: Context, virtual_service: Object, name: str) -> Iterator[Finding]:
    try:
        check_hosts(virtual_service, context.cluster.list("VirtualService", {}), context.cluster.scope)
    except StateConflict as exc:
        yield Finding(
            endpoint=name,
            code="host-conflict",
            severity=ERROR,
            text=exc.message,
            command=f"kubectl edit virtualservice {name_of(virtual_service)}",
        )


def _owners_findings(context: Context, endpoint: Endpoint) -> Iterator[Finding]:
    """Services of the owner's that stood behind an adopted route, and are gone."""
    weights = {share.destination: share.weight for share in endpoint.traffic.split}
    previous = endpoint.last.previous if endpoint.last else None
    for destination in gone_services(
        context.cluster, endpoint, dict.fromkeys((*weights, *((previous,) if previous else ())))
    ):
        service = service_of(destination.host, context.cluster.scope)
        weight = weights.get(destination, 0)
        text = f"'{destination.name}', which users had before, is gone: Service '{service}' was deleted"
        if weight:
            text = f"{weight}% of requests go to '{destination.name}', which is gone: Service '{service}' was deleted"
        yield Finding(
            endpoint=endpoint.name,
            code="gone-service",
            severity=ERROR if weight else WARNING,
            text=text,
            command=f"kubectl apply -f FILE, with Service '{service}' as it was",
            what=str(service),
        )


def _registry_findings(
    context: Context, standing: RegistryState, recorded: Sequence[RoutingChange]
) -> Iterator[Finding]:
    labels = {*(served.version for served in standing.served), *standing.removed, *labels_in(recorded)}
    models = sorted({parse_label(label).model for label in labels})
    if not models:
        return
    try:
        survey = context.registry.survey(context.scope, models)
    except RegistryError:
        return  # said once, for all
    owned = frozenset(key for key, owner in survey.owners.items() if owner == standing.owner)
    others = {key for key, owner in survey.owners.items() if owner != standing.owner}
    aliases = {key: version for key, version in standing.aliases.items() if key not in others}
    aliases |= {key: None for key in owned if key not in aliases}
    wanted = RegistryState(
        scope=standing.scope,
        endpoint=standing.endpoint,
        served=standing.served,
        removed=standing.removed,
        aliases=aliases,
    )
    yield from standing_findings(wanted, survey.tags, survey.versions, survey.aliases, owned)


def _proxy_findings(context: Context, endpoint: Endpoint) -> Iterator[Finding]:
    try:
        asked = change_probe(endpoint.name, endpoint.change, endpoint.protocol)
        probe = entrance_of(context.cluster, endpoint.name).through(asked)
        proxies = context.cluster.wait_routed(probe, _PROBE_TIMEOUT)
    except ClusterError as exc:
        yield Finding(
            endpoint=endpoint.name,
            code="proxy-behind",
            severity=ERROR,
            text=f"a proxy does not answer with the newest change: {exc.message}",
            command="{up}",
            safe=context.revive is not None,
        )
    except MlflowIstioError as exc:
        yield Finding(
            endpoint=endpoint.name,
            code="unreachable",
            severity=WARNING,
            text=exc.message,
            command=f"mlflow-istio explain-route {endpoint.name} -t {{target}}",
        )
    else:
        if not proxies:
            yield Finding(
                endpoint=endpoint.name,
                code="no-proxy",
                severity=WARNING,
                text="no proxy can be reached from here, so no change can be proved",
                command="{up}",
            )


def _is_there(context: Context, kind: str, name: str) -> bool:
    obj = context.cluster.get(kind, name)
    return obj is not None and is_ours(obj, name)


def labels_in(recorded: Sequence[RoutingChange]) -> set[str]:
    """Every ``MODEL/VERSION`` that was ever behind the endpoint."""
    return {version for change in recorded for version in change.versions.values() if version}
