"""Deployments and endpoints: bring a version up beside the others, change its pods, take it away.

Adding: pods ready -> subset -> header route answers -> weight. Removing: weight away -> proxies confirm -> a moment for requests in
flight -> subset -> pods. Every step may be the last one a process lives to do: the same command again does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlflow_istio.core.basics.model_version import ModelReference, ModelVersion, parse_label, parse_model_uri
from mlflow_istio.core.basics.names import check_endpoint_name, check_name, service_name
from mlflow_istio.core.basics.objects import (
    ASKED_ANNOTATION,
    DEPLOYMENT_LABEL,
    ENDPOINT_LABEL,
    Object,
    annotations_of,
    labels_of,
    name_of,
    with_annotations,
)
from mlflow_istio.core.endpoint.endpoint import PROTOCOL, Endpoint, check_not_deleting
from mlflow_istio.core.endpoint.registry_state import alias_names
from mlflow_istio.core.mesh.attached import Attachment, Target, attachment_in, standing_in
from mlflow_istio.core.mesh.destination_rule import with_subset
from mlflow_istio.core.mesh.host_conflict import check_hosts
from mlflow_istio.core.mesh.manifests import (
    DeploymentValues,
    deployment_manifest,
    destination_rule_manifest,
    exported_to,
    service_manifest,
    virtual_service_manifest,
)
from mlflow_istio.core.mesh.pods import PodSettings, plain_variables
from mlflow_istio.core.mesh.recorder_beside import entrance, has_recorder_beside, with_variables
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest, check_strategy, check_traffic_request
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, NotReady, NotRouted, StateConflict
from mlflow_istio.releases.context import (
    Context,
    Outcome,
    check_pins,
    deployment_of,
    deployments_of,
    emit_warnings,
    endpoint_of,
    existing_endpoint,
    is_ours,
    root_of,
    versions_of,
    virtual_service_of,
    workloads_of,
)
from mlflow_istio.releases.deploying.attaching import check_ready, check_standing, look_at
from mlflow_istio.releases.deploying.kept_connections import close_before_server
from mlflow_istio.releases.deploying.new_endpoint import create_endpoint
from mlflow_istio.releases.deploying.removal import check_no_foreign_routes, delete, delete_endpoint
from mlflow_istio.releases.deploying.servers import check_recorded, check_runtime, flavor_of, record_token
from mlflow_istio.releases.deploying.sharing import HostShare, check_gateways, check_share, claim, let_go
from mlflow_istio.releases.ledger import check_run, flush_outbox
from mlflow_istio.releases.moving.attachments import check_name_free, lead_to
from mlflow_istio.releases.moving.proof import prove_pinned
from mlflow_istio.releases.moving.proposal import plan
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT, move, start


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployRequest:
    """One version to bring up behind an endpoint.

    Attributes:
        name: Deployment's name.
        endpoint: Endpoint; None: the registered model's name.
        model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        flavor: Flavor; only ones with python_function can be served.
        strategy: Strategy of the release it opens; None: it gets no traffic, unless it is the endpoint's first.
        traffic_request: Weight, mirror, header, cookie of that release.
        release_id: Id of that release, or of the one that is opened later; None: made anew.
        supersede: Whether to abort an open release first.
        reason: Why, for the ledger.
        runtime: Its kind of model server.
        image: Container image.
        download_image: Image of the container that downloads the model; empty: the same.
        replicas: Desired replicas; None: as many as it has, one for a new deployment (an autoscaler may have changed it).
        env: Environment of the model server.
        env_manager: How the model's Python environment is made.
        drain: Seconds that a model server which goes has to finish what it is answering; None: as long as its answers may need.
        from_folder: Whether the model server may read the model's files where they lie on this machine.
        pod: What pods on a cluster have beside.
        settings: Small settings of the endpoint, such as alias names.
        pins: Who may pin at a new endpoint: ``guarded``, ``open``, or None: guarded where it has a gateway.
        hosts: Hosts of a new endpoint beside its name.
        gateways: Gateways of a new endpoint; empty: the mesh alone.
        export_to: Namespaces whose proxies see a new endpoint; empty: those that the mesh's own settings say.
        ready_timeout: Seconds for the pods to become ready.
        timeout: Seconds for the proxies to confirm.
        wait: Whether to wait for the pods; if not, the same command again does the rest.
        share: The endpoint's part of a host that it shares with others; None: it has hosts of its own.
        take_over: Whether the endpoint's ledger and aliases are this place's from now on, whosever they were.
        attach: What somebody else runs, in place of pods of ours; None: nothing.
        attach_port: Its port, where it has several.
    """

    name: str
    endpoint: str | None = None
    model_uri: str
    flavor: str | None = None
    strategy: str | None = None
    traffic_request: TrafficRequest = field(default_factory=TrafficRequest)
    release_id: str | None = None
    supersede: bool = False
    reason: str = ""
    runtime: Runtime = MLFLOW
    image: str
    download_image: str = ""
    replicas: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    env_manager: str = "local"
    drain: float | None = None
    from_folder: bool = False
    pod: PodSettings | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    pins: str | None = None
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    export_to: tuple[str, ...] = ()
    ready_timeout: float = 300.0
    timeout: float = DEFAULT_TIMEOUT
    wait: bool = True
    share: HostShare | None = None
    take_over: bool = False
    attach: Target | None = None
    attach_port: int | None = None


def deploy(context: Context, request: DeployRequest) -> Outcome:
    """Bring a version up and, if asked, open its release.

    The endpoint comes into being with its first deployment, which gets all the traffic. A deployment that does not come up
    is taken away again, with its last log lines in the error.

    Raises:
        InvalidInput: A name, option or URI is wrong.
        NotFound: The model version does not exist, or its files are gone.
        StateConflict: The name serves another version, another release is open, an alias or a host belongs to another.
        NotReady: It did not come up.
        NotRouted: A proxy did not take a change over in time.
        RegistryError: The registry can't be reached, so the version can't be resolved.
    """
    check_name(request.name, "deployment")
    model = _model(context, request)
    flavor = flavor_of(model, request.flavor, request.runtime)
    name = request.endpoint or _default_endpoint(context, model)
    check_endpoint_name(name)
    share = request.share
    root = check_share(context, name, share, request.hosts, request.gateways) if share else None
    before = existing_endpoint(context.cluster, name)
    attachment = look_at(context, request.attach, request.name, request.attach_port) if request.attach else None
    standing = _check_before(context, request, name, model, before, attachment)
    if before is not None:
        emit_warnings(context, flush_outbox(context, name, publish=False))

    deployment = _manifest(context, request, name, model, flavor, standing, attachment)
    deployment = with_annotations(deployment, {ASKED_ANNOTATION: _asked(request.release_id, request.model_uri)})
    if attachment is not None:
        check_name_free(context, request.name, name)
        check_ready(deployment, attachment, workloads_of(context.cluster, attachment))
    protocol = request.runtime.protocol
    service = service_manifest(context.templates["Service"], name, protocol=protocol)
    rule = exported_to(destination_rule_manifest(context.templates["DestinationRule"], name), request.export_to)
    virtual_service = virtual_service_manifest(
        context.templates["VirtualService"], name, (name, *request.hosts), request.gateways
    )
    virtual_service = exported_to(virtual_service, request.export_to)
    if before is None and share is None:
        check_hosts(virtual_service, context.cluster.list("VirtualService", {}), context.cluster.scope)
    if before is None:
        let_go(context, name, root)
    doing = f"attaching {attachment} as" if attachment else "deploying"
    context.tell(f"{doing} {model.label} as '{request.name}' behind endpoint '{name}'")
    _apply(context, service, deployment)
    if not request.wait and attachment is None:
        pending = (
            f"the pods of '{request.name}' are starting, and it gets no requests yet: the same command without wait=false "
            "waits for them and does the rest"
        )
        context.tell(pending)
        return Outcome(endpoint=before, changed=True, pending=pending)
    if attachment is None:
        _wait_ready(context, request, name, before)
    _, subsets = context.cluster.edit(
        "DestinationRule", name, lambda present: with_subset(present or rule, request.name)
    )
    lead_to(context, deployment, subsets)
    if share is not None and before is not None:
        claim(context, name, share, request.hosts, request.gateways)
    named = None if request.runtime.names_version else model.label
    if before is None:
        outcome = create_endpoint(
            context,
            name,
            request.name,
            model.label,
            virtual_service,
            share=share,
            root=root,
            hosts=request.hosts,
            gateways=request.gateways,
            settings={**request.settings, **({PROTOCOL: protocol} if protocol != "http" else {})},
            pins=request.pins,
            reason=request.reason,
            timeout=request.timeout,
            named=named,
            attached=attachment is not None,
        )
    else:
        outcome = move(
            context,
            name,
            lambda now: transitions.pin(now, request.name, named, attached=attachment is not None),
            action="deploy",
            reason=request.reason,
            timeout=request.timeout,
        )
    outcome = close_before_server(context, outcome, request.name, subsets, timeout=request.timeout)
    try:
        prove_pinned(context, name, request.name, model.label, request.timeout, request.runtime)
    except NotRouted as exc:
        if attachment is None or standing is not None:
            raise
        _detach(context, request.name, name if before is None else None)
        raise NotRouted(
            f"{exc.message}; it was detached again and no user was sent to it: look at 'port' and 'readiness' "
            f"({request.runtime.readiness or 'grpc.health.v1'})",
            detail=exc.detail,
        ) from exc
    endpoint = endpoint_of(context.cluster, name)
    if before is None or request.strategy is None:
        return outcome
    if endpoint.role_of(request.name) == "stable":
        return replace(outcome, warnings=(*outcome.warnings, *emit_warnings(context, _released_already(request))))
    started = start(
        context,
        name,
        strategy=request.strategy,
        candidates=(request.name,),
        traffic_request=request.traffic_request,
        release_id=request.release_id,
        supersede=request.supersede,
        reason=request.reason,
        timeout=request.timeout,
    )
    return replace(
        started,
        changed=outcome.changed or started.changed,
        warnings=(*outcome.warnings, *started.warnings),
    )


def _manifest(
    context: Context,
    request: DeployRequest,
    name: str,
    model: ModelVersion,
    flavor: str,
    standing: Object | None,
    attachment: Attachment | None,
) -> Object:
    """The Deployment to apply: one that runs the model server, or one that stands for what somebody else runs."""
    if attachment is not None:
        attachment = attachment_in(standing or {}) or attachment  # as it was then: its owner may have changed it since
        return standing_in(request.name, name, model, flavor, attachment, request.runtime)
    values = DeploymentValues(
        name=request.name,
        endpoint=name,
        model=model,
        flavor=flavor,
        image=request.image,
        download_image=request.download_image,
        runtime=request.runtime,
        replicas=request.replicas or int((standing or {}).get("spec", {}).get("replicas", 1)) or 1,
        env={**record_token(context, request.env, request.pod, standing), **request.env},
        env_manager=request.env_manager,
        drain=request.drain,
        from_folder=request.from_folder,
        pod=request.pod,
    )
    return deployment_manifest(context.templates["Deployment"], values)


def _released_already(request: DeployRequest) -> tuple[str, ...]:
    """A warning where a release is asked for of a deployment that users have already: the same command given again, perhaps."""
    given = ["strategy", *request.traffic_request.given]
    given += ["release_id"] if request.release_id is not None else []
    named = " and ".join(f"'{option}'" for option in given)
    verb = "has" if len(given) == 1 else "have"
    return (f"deployment '{request.name}' is stable already, so {named} {verb} no effect",)


def update(
    context: Context,
    name: str,
    *,
    model_uri: str | None = None,
    replicas: int | None = None,
    env: Mapping[str, str] | None = None,
    image: str | None = None,
    ready_timeout: float = 300.0,
    wait: bool = True,
) -> Object:
    """Change a deployment's pods, never its traffic and never its version.

    Returns:
        The Deployment as stored.

    Raises:
        NotFound: There is no such deployment.
        StateConflict: Another version is asked for, or pods that have traffic would go.
        InvalidInput: An option is wrong, or none was given.
        NotReady: The new pods did not come up; the old ones keep serving.
    """
    deployment = deployment_of(context.cluster, name)
    attachment = attachment_in(deployment)
    if attachment is not None and (replicas, env, image) != (None, None, None):
        raise StateConflict(f"deployment '{name}' stands for {attachment}, which its owner scales and changes, not we")
    if model_uri is not None:
        asked = context.registry.resolve(parse_model_uri(model_uri)).label
        serves = versions_of([deployment])[name]
        if asked != serves:
            raise StateConflict(
                f"deployment '{name}' serves {serves}; a deployment never changes its version: create another one with {asked}"
            )
    elif replicas is None and env is None and image is None:
        raise InvalidInput(f"nothing to update on deployment '{name}': give replicas, env or image")
    check_recorded(deployment, env or {})
    if replicas == 0:
        endpoint = existing_endpoint(context.cluster, labels_of(deployment)[ENDPOINT_LABEL])
        if endpoint and (endpoint.traffic.reaches(name) or endpoint.role_of(name) == "stable"):
            raise StateConflict(
                f"deployment '{name}' has traffic or is stable: move it away or promote another before scaling to 0 replicas"
            )
        check_no_foreign_routes(
            context, labels_of(deployment)[ENDPOINT_LABEL], deployment=name, what="scaled to 0 replicas"
        )

    def change(obj: Object | None) -> Object:
        if obj is None:
            raise NotFound(f"there is no deployment '{name}' any more")
        return _with_pods(obj, replicas, env, image)

    _, after = context.cluster.edit("Deployment", name, change)
    if wait and replicas != 0:
        context.cluster.wait_ready(name, ready_timeout)
    return after


def begun_as(context: Context, endpoint: str, release_id: str | None, model_uri: str) -> str | None:
    """The deployment that an earlier try of the same release brought up, if its process died before it opened the release.

    Args:
        context: The ports.
        endpoint: The endpoint.
        release_id: The release's id; without one nobody can tell an earlier try.
        model_uri: What was asked for; an alias may mean another version by now.
    """
    asked = _asked(release_id, model_uri)
    standing = deployments_of(context.cluster, endpoint) if asked else []
    return next((name_of(obj) for obj in standing if annotations_of(obj).get(ASKED_ANNOTATION) == asked), None)


def _asked(release_id: str | None, model_uri: str) -> str | None:
    """What a Deployment keeps of how its version was chosen; None where the URI says the version, or no id says whose it is."""
    return None if release_id is None or parse_model_uri(model_uri).label else f"{release_id} {model_uri}"


def _model(context: Context, request: DeployRequest) -> ModelVersion:
    """The version that is asked for: the one that an earlier try of the same release has chosen, if there was one."""
    reference = parse_model_uri(request.model_uri)
    asked = _asked(request.release_id, request.model_uri)
    standing = context.cluster.get("Deployment", request.name) if asked else None
    if standing is not None and annotations_of(standing).get(ASKED_ANNOTATION) == asked:
        chosen = parse_label(versions_of([standing])[request.name])
        reference = ModelReference(model=chosen.model, version=chosen.version)
    return context.registry.resolve(reference)


def _default_endpoint(context: Context, model: ModelVersion) -> str:
    name = service_name(model.model)
    labels = versions_of(deployments_of(context.cluster, name)).values()
    others = {parse_label(label).model for label in labels if label}
    if others and model.model not in others:
        raise StateConflict(
            f"model '{model.model}' would use endpoint '{name}', which serves '{sorted(others)[0]}': name one with --endpoint"
        )
    return name


def _check_before(
    context: Context,
    request: DeployRequest,
    name: str,
    model: ModelVersion,
    before: Endpoint | None,
    attachment: Attachment | None,
) -> Object | None:
    """Refuse what can't end well before anything is applied; the Deployment if it stands already."""
    if request.strategy is not None:
        check_strategy(request.strategy)
        check_traffic_request(request.strategy, request.traffic_request, starting=True)
    elif request.traffic_request.given:
        raise InvalidInput(f"option '{request.traffic_request.given[0]}' needs a strategy")
    if before is not None and request.release_id is not None:
        transitions.check_part(before, request.release_id, request.name, model.label)
    if before is not None:
        check_not_deleting(before)
        _check_place(context, request, before)
    obj = context.cluster.get("Deployment", request.name)
    if obj is not None:
        serves = versions_of([obj])[request.name] if DEPLOYMENT_LABEL in labels_of(obj) else ""
        if labels_of(obj).get(ENDPOINT_LABEL) != name or serves != model.label:
            moved = f"alias '{model.alias}' means {model.label} now, but " if model.alias else ""
            raise StateConflict(
                f"{moved}deployment '{request.name}' exists already and serves {serves or 'something that is not ours'} behind "
                f"endpoint '{labels_of(obj).get(ENDPOINT_LABEL, '?')}': use another name"
            )
    check_standing(request.name, obj, attachment)
    for kind in ("Service", "DestinationRule"):
        other = context.cluster.get(kind, name)
        if other is not None and not is_ours(other, name):
            raise StateConflict(f"{kind} '{name}' exists and is not ours: use another endpoint name")
    _check_aliases(context, request, name, model, before)
    beside = attachment is None and has_recorder_beside(request.runtime, request.env, request.pod)
    check_runtime(
        context,
        name,
        request.name,
        request.runtime,
        request.strategy,
        obj,
        port=entrance(request.runtime, beside=beside and request.pod is not None),
        beside=beside,
        attached=attachment is not None,
    )
    if before is None:
        useless = [
            option
            for option in request.traffic_request.given
            if (option, request.traffic_request.weight) != ("weight", 100)
        ]
        if request.strategy in ("ab", "shadow"):
            useless.append("strategy")
        if useless:
            raise InvalidInput(
                f"'{request.name}' is the first deployment of endpoint '{name}' and gets all the traffic: leave "
                f"'{useless[0]}' out"
            )
    elif request.strategy is not None and before.role_of(request.name) == "idle":
        superseded = transitions.abort(before, "superseded") if before.release and request.supersede else before
        attached = (*superseded.attached, request.name) if attachment is not None else superseded.attached
        candidate = replace(superseded, traffic=superseded.traffic.with_pin(request.name), attached=attached)
        release = plan(
            context,
            candidate,
            request.strategy,
            (request.name,),
            request.traffic_request,
            request.release_id,
            versions={request.name: model.label},
        )
        transitions.check_plan(before, release)
        transitions.check_not_ended(before, release.id)
        if request.release_id is not None:
            check_run(context, name, release)
        transitions.start(candidate, release, request.traffic_request)
    return obj


def _apply(context: Context, service: Object, deployment: Object) -> None:
    """Service and Deployment; a Deployment that is refused leaves no Service behind."""
    name = name_of(service)
    there = context.cluster.get("Service", name) is not None
    if not there:
        context.cluster.apply(service)
    try:
        context.cluster.apply(deployment)
    except MlflowIstioError:
        if not there and not deployments_of(context.cluster, name):
            context.cluster.delete("Service", name)
        raise


def _check_place(context: Context, request: DeployRequest, endpoint: Endpoint) -> None:
    """Refuse hosts, gateways and namespaces that an endpoint which is there already does not have: nothing would come of them.

    Raises:
        InvalidInput: Names the first, and what the endpoint has.
    """
    virtual_service = root_of(context.cluster, endpoint) or virtual_service_of(context.cluster, endpoint.name)
    spec = virtual_service.get("spec", {})
    where = f"of endpoint '{endpoint.name}', which is there already"
    has = [str(host) for host in spec.get("hosts") or []]
    missing = [host for host in request.hosts if host not in has]
    if missing:
        raise InvalidInput(
            f"option 'host' has no effect on the hosts {where} with {', '.join(has) or 'none'}: leave '{missing[0]}' out, or "
            f"add it to VirtualService '{name_of(virtual_service)}'"
        )
    check_gateways(context, virtual_service, request.gateways, where)
    check_pins(endpoint, request.pins)
    exported = [str(namespace) for namespace in spec.get("exportTo") or []]
    if request.export_to and sorted(request.export_to) != sorted(exported):
        raise InvalidInput(
            f"option 'export_to' has no effect on the namespaces {where} with {', '.join(exported) or 'those of the mesh'}: leave "
            f"it out, or set exportTo of VirtualService and DestinationRule '{endpoint.name}'"
        )


def _check_aliases(
    context: Context, request: DeployRequest, name: str, model: ModelVersion, before: Endpoint | None
) -> None:
    if before is not None and any(before.settings.get(key) != value for key, value in request.settings.items()):
        has = " and ".join(f"'{alias}'" for alias in alias_names(before.settings).values()) or "none"
        raise StateConflict(
            f"endpoint '{name}' has had its aliases ({has}) since it was created: leave champion_alias and challenger_alias out"
        )
    aliases = tuple(alias_names(before.settings if before else request.settings).values())
    if len(set(aliases)) < len(aliases):
        raise InvalidInput(f"champion_alias and challenger_alias are both '{aliases[0]}': give each its own")
    context.registry.check_place(context.scope, name, take_over=request.take_over)
    context.registry.check_aliases(model.model, aliases, f"{context.scope}/{name}")


def _wait_ready(context: Context, request: DeployRequest, name: str, before: Endpoint | None) -> None:
    """Wait for the pods; what nobody can reach yet is taken away again when they don't come up."""
    try:
        context.cluster.wait_ready(request.name, request.ready_timeout)
    except NotReady as exc:
        if before is not None and request.name in before.traffic.pins:
            raise
        context.cluster.delete("Deployment", request.name)
        if before is None and not deployments_of(context.cluster, name):
            context.cluster.delete("Service", name)
        raise NotReady(
            f"{exc.message}{_asked_of(request)}; it was taken away again and no traffic has changed", detail=exc.detail
        ) from exc


def _asked_of(request: DeployRequest) -> str:
    """What another server than ours has to do to be ready, and, on this machine, whether anybody told it where."""
    runtime = request.runtime
    if runtime == MLFLOW:
        return ""
    if runtime.protocol == "grpc":
        answer, other = "grpc.health.v1 with SERVING", "HTTP is deployed without protocol=grpc"
    else:
        answer, other = f"GET {runtime.readiness} with 200", "gRPC needs protocol=grpc"
    if request.pod is None:
        answer += " at 127.0.0.1 ($HOST)"
    untold = request.pod is None and not runtime.takes_port
    advice = (
        ", at the port $PORT, which neither its command nor 'args' nor the profile's 'env' says"
        if untold
        else f"; one that speaks {other}"
    )
    return f"; it must answer {answer}{advice}"


def _detach(context: Context, deployment: str, endpoint: str | None) -> None:
    """Take away what was just attached and does not answer, with the endpoint that was made for it if there is one."""
    if endpoint is not None:
        delete_endpoint(context, endpoint, force=True, reason="what was attached does not answer")
    else:
        delete(context, deployment, force=True, reason="what was attached does not answer")


def _with_pods(obj: Object, replicas: int | None, env: Mapping[str, str] | None, image: str | None) -> Object:
    spec = dict(obj["spec"])
    if replicas is not None:
        spec["replicas"] = replicas
    if env is not None or image is not None:
        template = spec["template"]
        pod = with_variables(template["spec"], plain_variables(env or {}))
        if image is not None:
            first, *rest = pod["containers"]
            pod = {**pod, "containers": [{**first, "image": image}, *rest]}
        spec["template"] = {**template, "spec": pod}
    return {**obj, "spec": spec}
