"""What is asked of a deployment that is to come up, and what of it is refused before anything is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.basics.objects import (
    DEPLOYMENT_LABEL,
    ENDPOINT_LABEL,
    Object,
    labels_of,
    name_of,
)
from mlflow_istio.core.endpoint.endpoint import Endpoint, check_not_deleting
from mlflow_istio.core.endpoint.registry_state import alias_names
from mlflow_istio.core.mesh.attached import Attachment, Target
from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.mesh.recorder_beside import entrance, has_recorder_beside
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest, check_strategy, check_traffic_request
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.releases.context import (
    Context,
    check_pins,
    is_ours,
    root_of,
    versions_of,
    virtual_service_of,
)
from mlflow_istio.releases.deploying.attaching import check_standing
from mlflow_istio.releases.deploying.servers import check_runtime
from mlflow_istio.releases.deploying.sharing import HostShare, check_gateways
from mlflow_istio.releases.ledger import check_run
from mlflow_istio.releases.moving.proposal import plan
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT


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


def check_before(
    context: Context,
    request: DeployRequest,
    name: str,
    model: ModelVersion,
    before: Endpoint | None,
    attachment: Attachment | None,
) -> Object | None:
    """Refuse what can't end well before anything is applied; the Deployment if it stands already.

    Args:
        context: The ports.
        request: What is asked for.
        name: The endpoint.
        model: The version.
        before: The endpoint as it is; None: it is made now.
        attachment: What somebody else runs, if that is to be attached.

    Raises:
        InvalidInput: An option is wrong or would do nothing.
        StateConflict: A name is taken, the endpoint is on its way out, or its release can't begin.
    """
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
    _check_names(context, obj, request.name, name, model)
    check_standing(request.name, obj, attachment)
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
        _check_first(request, name)
    elif request.strategy is not None and before.role_of(request.name) == "idle":
        _check_release(context, request, request.strategy, name, model, before, attached=attachment is not None)
    return obj


def _check_names(context: Context, deployment: Object | None, name: str, endpoint: str, model: ModelVersion) -> None:
    """Refuse names that belong to something else."""
    if deployment is not None:
        serves = versions_of([deployment])[name] if DEPLOYMENT_LABEL in labels_of(deployment) else ""
        if labels_of(deployment).get(ENDPOINT_LABEL) != endpoint or serves != model.label:
            moved = f"alias '{model.alias}' means {model.label} now, but " if model.alias else ""
            raise StateConflict(
                f"{moved}deployment '{name}' exists already and serves {serves or 'something that is not ours'} behind "
                f"endpoint '{labels_of(deployment).get(ENDPOINT_LABEL, '?')}': use another name"
            )
    for kind in ("Service", "DestinationRule"):
        other = context.cluster.get(kind, endpoint)
        if other is not None and not is_ours(other, endpoint):
            raise StateConflict(f"{kind} '{endpoint}' exists and is not ours: use another endpoint name")


def _check_first(request: DeployRequest, name: str) -> None:
    """Refuse options of a split where the endpoint's first deployment gets everything."""
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


def _check_release(
    context: Context,
    request: DeployRequest,
    strategy: str,
    name: str,
    model: ModelVersion,
    before: Endpoint,
    *,
    attached: bool,
) -> None:
    """Refuse a release that could not be opened once the deployment is there."""
    superseded = transitions.abort(before, "superseded") if before.release and request.supersede else before
    now_attached = (*superseded.attached, request.name) if attached else superseded.attached
    candidate = replace(superseded, traffic=superseded.traffic.with_pin(request.name), attached=now_attached)
    release = plan(
        context,
        candidate,
        strategy,
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
