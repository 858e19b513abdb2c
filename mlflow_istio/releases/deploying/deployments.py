"""Deployments and endpoints: bring a version up beside the others, change its pods, take it away.

Adding: pods ready -> subset -> header route answers -> weight. Removing: weight away -> proxies confirm -> a moment for requests in
flight -> subset -> pods. Every step may be the last one a process lives to do: the same command again does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlflow_istio.core.basics.model_version import ModelReference, ModelVersion, parse_label, parse_model_uri
from mlflow_istio.core.basics.names import check_endpoint_name, check_name, service_name
from mlflow_istio.core.basics.objects import (
    ASKED_ANNOTATION,
    ENDPOINT_LABEL,
    Object,
    annotations_of,
    labels_of,
    name_of,
    with_annotations,
)
from mlflow_istio.core.endpoint.endpoint import PROTOCOL, Endpoint
from mlflow_istio.core.mesh.attached import Attachment, attachment_in, standing_in
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
from mlflow_istio.core.mesh.pods import plain_variables
from mlflow_istio.core.mesh.recorder_beside import with_variables
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, NotReady, NotRouted, StateConflict
from mlflow_istio.releases.context import (
    Context,
    Outcome,
    deployment_of,
    deployments_of,
    emit_warnings,
    endpoint_of,
    existing_endpoint,
    versions_of,
    workloads_of,
)
from mlflow_istio.releases.deploying.attaching import check_ready, look_at
from mlflow_istio.releases.deploying.deploy_request import DeployRequest, check_before
from mlflow_istio.releases.deploying.kept_connections import close_before_server
from mlflow_istio.releases.deploying.new_endpoint import create_endpoint
from mlflow_istio.releases.deploying.removal import check_no_foreign_routes, delete, delete_endpoint
from mlflow_istio.releases.deploying.servers import check_recorded, flavor_of, record_token
from mlflow_istio.releases.deploying.sharing import check_share, claim, let_go
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving.attachments import check_name_free, lead_to
from mlflow_istio.releases.moving.proof import prove_pinned
from mlflow_istio.releases.moving.shifting import move, start


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
    standing = check_before(context, request, name, model, before, attachment)
    if before is not None:
        emit_warnings(context, flush_outbox(context, name, publish=False))

    deployment = _manifest(context, request, name, model, flavor, standing, attachment)
    deployment = with_annotations(deployment, {ASKED_ANNOTATION: _asked(request.release_id, request.model_uri)})
    if attachment is not None:
        check_name_free(context, request.name, name)
        check_ready(deployment, attachment, workloads_of(context.cluster, attachment))
    service, rule, virtual_service = _fresh_objects(context, request, name)
    if before is None and share is None:
        check_hosts(virtual_service, context.cluster.list("VirtualService", {}), context.cluster.scope)
    if before is None:
        let_go(context, name, root)
    context.tell(
        f"{f'attaching {attachment} as' if attachment else 'deploying'} {model.label} as '{request.name}' behind endpoint '{name}'"
    )
    _apply(context, service, deployment)
    if not request.wait and attachment is None:
        return _begun(context, request, before)
    if attachment is None:
        _wait_ready(context, request, name, before)
    _, subsets = context.cluster.edit(
        "DestinationRule", name, lambda present: with_subset(present or rule, request.name)
    )
    lead_to(context, deployment, subsets)
    if share is not None and before is not None:
        claim(context, name, share, request.hosts, request.gateways)
    outcome = _bring_in(
        context, request, name, model.label, virtual_service, root=root, before=before, attached=attachment is not None
    )
    outcome = close_before_server(context, outcome, request.name, subsets, timeout=request.timeout)
    detached = attachment is not None and standing is None
    _prove(context, request, name, model.label, detached=detached, first=before is None)
    endpoint = endpoint_of(context.cluster, name)
    if before is None or request.strategy is None:
        return outcome
    if endpoint.role_of(request.name) == "stable":
        return replace(outcome, warnings=(*outcome.warnings, *emit_warnings(context, _released_already(request))))
    started = _start(context, request, request.strategy, name)
    return replace(started, changed=outcome.changed or started.changed, warnings=(*outcome.warnings, *started.warnings))


def _bring_in(
    context: Context,
    request: DeployRequest,
    name: str,
    label: str,
    virtual_service: Object,
    *,
    root: str | None,
    before: Endpoint | None,
    attached: bool,
) -> Outcome:
    """Make the endpoint, with the deployment as its stable, or give the deployment its header route behind one that is there."""
    named = None if request.runtime.names_version else label
    if before is None:
        return create_endpoint(
            context,
            name,
            request.name,
            label,
            virtual_service,
            share=request.share,
            root=root,
            hosts=request.hosts,
            gateways=request.gateways,
            settings={**request.settings, **_protocol_setting(request.runtime)},
            pins=request.pins,
            reason=request.reason,
            timeout=request.timeout,
            named=named,
            attached=attached,
        )
    return move(
        context,
        name,
        lambda now: transitions.pin(now, request.name, named, attached=attached),
        action="deploy",
        reason=request.reason,
        timeout=request.timeout,
    )


def _fresh_objects(context: Context, request: DeployRequest, name: str) -> tuple[Object, Object, Object]:
    """Service, DestinationRule and VirtualService as a new endpoint would have them."""
    templates = context.templates
    service = service_manifest(templates["Service"], name, protocol=request.runtime.protocol)
    rule = destination_rule_manifest(templates["DestinationRule"], name)
    hosts = (name, *request.hosts)
    virtual_service = virtual_service_manifest(templates["VirtualService"], name, hosts, request.gateways)
    return service, exported_to(rule, request.export_to), exported_to(virtual_service, request.export_to)


def _protocol_setting(runtime: Runtime) -> dict[str, str]:
    return {PROTOCOL: runtime.protocol} if runtime.protocol != "http" else {}


def _begun(context: Context, request: DeployRequest, before: Endpoint | None) -> Outcome:
    """What is said where nobody waits for the pods."""
    pending = (
        f"the pods of '{request.name}' are starting, and it gets no requests yet: the same command without wait=false "
        "waits for them and does the rest"
    )
    context.tell(pending)
    return Outcome(endpoint=before, changed=True, pending=pending)


def _prove(context: Context, request: DeployRequest, name: str, label: str, *, detached: bool, first: bool) -> None:
    """Ask the deployment by its header; what was just attached and does not answer is detached again.

    Args:
        context: The ports.
        request: What is asked for.
        name: The endpoint.
        label: ``MODEL/VERSION`` that must answer.
        detached: Whether it is detached again where it does not.
        first: Whether the endpoint was made for it.
    """
    try:
        prove_pinned(context, name, request.name, label, request.timeout, request.runtime)
    except NotRouted as exc:
        if not detached:
            raise
        _detach(context, request.name, name if first else None)
        raise NotRouted(
            f"{exc.message}; it was detached again and no user was sent to it: look at 'port' and 'readiness' "
            f"({request.runtime.readiness or 'grpc.health.v1'})",
            detail=exc.detail,
        ) from exc


def _start(context: Context, request: DeployRequest, strategy: str, name: str) -> Outcome:
    """Open the release that is asked for."""
    return start(
        context,
        name,
        strategy=strategy,
        candidates=(request.name,),
        traffic_request=request.traffic_request,
        release_id=request.release_id,
        supersede=request.supersede,
        reason=request.reason,
        timeout=request.timeout,
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
