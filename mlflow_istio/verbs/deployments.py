"""The verbs on deployments: create, update, delete, and adopt, which makes an endpoint of what somebody deployed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mlflow_istio.core.basics.model_version import parse_model_uri
from mlflow_istio.core.basics.names import service_name
from mlflow_istio.core.matching.places import check_own_hosts
from mlflow_istio.core.mesh.attached import parse_attach
from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.core.policy.settings import NO_POLICY, PolicyRequest, with_policy_request
from mlflow_istio.core.runtime.profiles import ATTACHED, MLFLOW, speaking
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import (
    DEFAULT_IMAGE,
    DEFAULT_MAX_BODY,
    AdoptOptions,
    CreateOptions,
    DeleteOptions,
    UpdateOptions,
    parse_options,
)
from mlflow_istio.options.combinations import check_create
from mlflow_istio.options.shared import SETTINGS
from mlflow_istio.releases.context import Context, Outcome, existing_endpoint
from mlflow_istio.releases.deploying import adoption, deployments, removal
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.sharing import HostShare
from mlflow_istio.releases.moving import policy
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.base import Base, Config, Result
from mlflow_istio.wiring.connection import Connection, load_runtime, only


def deploy_request(
    place: Connection, options: CreateOptions, name: str, endpoint: str | None, model_uri: str
) -> DeployRequest:
    """A request to bring a version up, without a release of its own."""
    on_cluster = place.target.kind == "istio"
    runtime = runtime_for(options, on_cluster=on_cluster)
    target = parse_attach(options.attach) if options.attach is not None else None
    if target is not None and not target.kind and on_cluster:
        raise InvalidInput(
            f"option 'attach' can't be {options.attach} on a cluster, which has no way to this machine: name a deployment, service "
            "or inferenceservice of the namespace"
        )
    server = place.server_environment(options.env_from_secret)
    if on_cluster and options.host and not options.foreign_host:
        check_own_hosts(options.host, place.cluster.scope)
    return DeployRequest(
        name=name,
        endpoint=endpoint,
        model_uri=model_uri,
        reason=options.reason,
        runtime=runtime,
        image=options.image if options.image != DEFAULT_IMAGE else runtime.image or options.serving_image,
        download_image=options.serving_image if runtime != MLFLOW else "",
        replicas=options.replicas,
        env={**server, **_limits(options), **only(options.env, in_pods=on_cluster)},
        env_manager=options.env_manager,
        drain=options.drain,
        from_folder=not on_cluster,
        pod=_pod(options, runtime) if on_cluster else None,
        settings=alias_settings(options),
        pins=options.pins,
        hosts=options.host if on_cluster else (),
        gateways=place.gateways(),
        export_to=options.export_to,
        ready_timeout=options.ready_timeout,
        timeout=options.confirm_timeout,
        wait=options.wait,
        take_over=options.take_over,
        attach=target,
        attach_port=options.port if target is not None else None,
    )


_OF_OTHERS = ("command", "args", "port", "readiness", "scoring")
"""Options that say what another kind of model server than ours does."""


def runtime_for(options: CreateOptions, *, on_cluster: bool) -> Runtime:
    """The kind of model server that is asked for, with what was said beside its name.

    Raises:
        InvalidInput: It is unknown, or nobody says what it runs.
    """
    ours = options.runtime == MLFLOW.name
    runtime = ATTACHED if ours and options.attach is not None else load_runtime(options.runtime)
    runtime = speaking(runtime, options.protocol)
    for name in ("readiness", "scoring"):
        if runtime.protocol == "grpc" and getattr(options, name) is not None:
            raise InvalidInput(
                f"option '{name}' has no effect with protocol=grpc, which asks for the whole server's health and by ModelInfer: "
                "leave it out, or say it in a profile of your own"
            )
    if runtime.protocol == "grpc" and (options.virtual_service or options.path):
        beside = "virtual_service" if options.virtual_service else "path"
        raise InvalidInput(
            f"option '{beside}' can't go with protocol=grpc: give the endpoint a host of its own, or 'match_header'"
        )
    if options.attach is not None:
        return runtime.with_options(
            readiness=options.readiness, scoring=options.scoring, command=(), args=(), env={}, image=""
        )
    runtime = runtime.with_options(**{name: getattr(options, name) for name in _OF_OTHERS})
    if ours:
        given = [name for name in _OF_OTHERS if getattr(options, name) is not None]
        if given:
            raise InvalidInput(
                f"option '{given[0]}' has no effect with runtime=mlflow: name the runtime that it is for"
            )
        return runtime
    if options.env_manager != "local":
        raise InvalidInput(f"option 'env_manager' has no effect with runtime={runtime.name}: leave it out")
    if options.max_body != DEFAULT_MAX_BODY:
        raise InvalidInput(f"option 'max_body' has no effect with runtime={runtime.name}: leave it out")
    if on_cluster and options.image == DEFAULT_IMAGE and not runtime.image:
        raise InvalidInput(f"runtime '{runtime.name}' has no image of its own: say which one runs it (image)")
    if not on_cluster and options.port is not None:
        raise InvalidInput(
            f"option 'port' has no effect with runtime={runtime.name} on this machine, where each server gets a port of its own: "
            "leave it out, and say $PORT in the command"
        )
    if not on_cluster and not runtime.command:
        raise InvalidInput(f"runtime '{runtime.name}' runs no image on this machine: say what runs it (command)")
    return runtime


def _pod(options: CreateOptions, runtime: Runtime) -> PodSettings:
    """What the pods have beside; a server that knows no registry gets the model's files from an init container."""
    pod = options.pod()
    return (
        replace(pod, source="init") if runtime != MLFLOW and runtime.takes_model and pod.source == "registry" else pod
    )


def _limits(options: CreateOptions) -> dict[str, str]:
    """What the model server is told of what it takes; its own default needs no word."""
    return {} if options.max_body == DEFAULT_MAX_BODY else {"MLFLOW_ISTIO_MAX_BODY": str(options.max_body)}


class DeploymentVerbs(Base):
    """Versions and their pods, and routes that were there before."""

    def create(
        self, name: str, model_uri: str, flavor: str | None, endpoint: str | None, config: Config | None
    ) -> Result:
        """Deploy a version; see ``releases.deployments.deploy``."""
        options = self._options(CreateOptions, config)
        place, session = self._place(options), self._session(options, templates=options.templates)
        options = create_options(session.context, options, config or {}, endpoint, model_uri)
        strategy = options.strategy
        if strategy is None and options.traffic_request.given:
            strategy = "canary" if set(options.traffic_request.given) <= {"weight", "weights", "match"} else None
        request = replace(
            deploy_request(place, options, name, endpoint, model_uri),
            flavor=flavor,
            strategy=strategy,
            traffic_request=options.traffic_request,
            release_id=options.release_id,
            supersede=options.supersede,
        )
        if "gateway" not in (config or {}) and has_its_place(session.context, options, endpoint, model_uri):
            request = replace(request, gateways=())  # the environment says where to prove changes
        traffic_request = options.settings(SETTINGS)
        if traffic_request is None:
            outcome = deploy_or_adopt(session.context, request, options)
        else:
            outcome = with_settings(session.context, request, options, traffic_request)
        return session.result(outcome, views.deployment_view(session.context.cluster, name))

    def update(self, name: str, model_uri: str | None, flavor: str | None, config: Config | None) -> Result:
        """Change a deployment's pods; see ``releases.deployments.update``."""
        if "reason" in (config or {}):
            raise InvalidInput(
                "option 'reason' has no effect on update: it changes pods, and the ledger holds changes of traffic; leave it out"
            )
        options = parse_options(UpdateOptions, config, cluster=self.target.kind)
        session = self._session(options)
        if flavor is not None:
            has = views.deployment_view(session.context.cluster, name)["flavor"]
            if flavor != has:
                raise InvalidInput(f"deployment '{name}' has flavor '{has}': create another one with flavor '{flavor}'")
        deployments.update(
            session.context,
            name,
            model_uri=model_uri,
            replicas=options.replicas,
            env=only(options.env, in_pods=self.target.kind == "istio") if options.env is not None else None,
            image=options.image,
            ready_timeout=options.ready_timeout,
            wait=options.wait,
        )
        view = views.deployment_view(session.context.cluster, name)
        return session.result(Outcome(endpoint=None, changed=True), view)

    def delete(self, name: str, endpoint: str | None, config: Config | None) -> Result:
        """Take a deployment away; see ``releases.removal.delete``."""
        options = self._options(DeleteOptions, config)
        session = self._session(options)
        if endpoint is not None and session.context.cluster.get("Deployment", name) is not None:
            views.deployment_view(session.context.cluster, name, endpoint)
        outcome = removal.delete(
            session.context, name, force=options.force, reason=options.reason, timeout=options.confirm_timeout
        )
        return session.result(outcome or Outcome(endpoint=None, changed=False), {})

    def adopt(self, name: str, config: Config | None = None) -> Result:
        """Make one route of a VirtualService an endpoint; see ``releases.adoption.adopt``."""
        options = self._options(AdoptOptions, config)
        session = self._session(options)
        outcome = adoption.adopt(
            session.context,
            name,
            virtual_service=options.virtual_service,
            route=options.route,
            stable=options.stable,
            settings=alias_settings(options),
            gateways=session.place.gateways() if "gateway" in (config or {}) else (),
            pins=options.pins,
            reason=options.reason,
            timeout=options.confirm_timeout,
            take_over=options.take_over,
        )
        return session.result(outcome, views.endpoint_view(session.context.cluster, name))


def create_options(
    context: Context, options: CreateOptions, given: Collection[str], endpoint: str | None, model_uri: str
) -> CreateOptions:
    """The options of ``create`` that mean something for this endpoint; see ``check_create``.

    Raises:
        InvalidInput: As for ``check_create``; or the model URI can't be read.
    """
    return check_create(options, given, exists=_exists(context, endpoint, model_uri))


def has_its_place(context: Context, options: CreateOptions, endpoint: str | None, model_uri: str) -> bool:
    """Whether a VirtualService that is there already has the endpoint's hosts and gateways, or will have them."""
    return options.virtual_service is not None or _exists(context, endpoint, model_uri)


def _exists(context: Context, endpoint: str | None, model_uri: str) -> bool:
    name = endpoint or service_name(parse_model_uri(model_uri).model)
    return existing_endpoint(context.cluster, name) is not None


def with_settings(
    context: Context, request: DeployRequest, options: CreateOptions, traffic_request: PolicyRequest
) -> Outcome:
    """Deploy a version and make settings; what of them can't be is refused before anything is deployed.

    Raises:
        MlflowIstioError: As for ``deploy_or_adopt`` and ``set_policy``.
    """
    endpoint = existing_endpoint(context.cluster, request.endpoint) if request.endpoint else None
    with_policy_request(endpoint.traffic.policy if endpoint else NO_POLICY, traffic_request)
    if traffic_request.subset not in (None, request.name) and (
        endpoint is None or traffic_request.subset not in endpoint.traffic.pins
    ):
        raise InvalidInput(f"'subset' names '{traffic_request.subset}', which is no deployment of the endpoint")
    if endpoint is not None and request.endpoint:
        policy.check_policy(context, request.endpoint, traffic_request, request.name)
    deployed = deploy_or_adopt(context, request, options)
    name = request.endpoint or (deployed.endpoint.name if deployed.endpoint else "")
    if not name or (not request.wait and deployed.endpoint is None):
        raise InvalidInput("settings can't be made before the model servers are ready: leave wait=false out")
    outcome = policy.set_policy(context, name, traffic_request, reason=request.reason, timeout=request.timeout)
    return replace(
        outcome, changed=deployed.changed or outcome.changed, warnings=(*deployed.warnings, *outcome.warnings)
    )


def deploy_or_adopt(context: Context, request: DeployRequest, options: CreateOptions) -> Outcome:
    """Deploy a version, behind an adopted route where the options name one.

    Raises:
        InvalidInput: ``under`` without what of its host is the endpoint's.
    """
    share = host_share(options)
    if options.virtual_service is None or options.route is None:
        return deployments.deploy(context, replace(request, share=share))
    return adoption.adopt_and_deploy(
        context, request, virtual_service=options.virtual_service, route=options.route, stable=options.stable
    )


def host_share(options: CreateOptions) -> HostShare | None:
    """The endpoint's part of a shared host, as the options say it.

    Raises:
        InvalidInput: Neither ``path`` nor ``match_header`` is given with ``under``, or one that can't be.
    """
    if options.under is None:
        return None
    header: tuple[str, str] | None = None
    if options.match_header is not None:
        name, equals, value = options.match_header.partition("=")
        if not equals:
            raise InvalidInput(f"option 'match_header' can't be {options.match_header!r}: write NAME=VALUE")
        header = (name.strip().lower(), value.strip())
    return HostShare(under=options.under, claim=Claim(path=(options.path or "").rstrip("/"), header=header))


def alias_settings(options: CreateOptions | AdoptOptions) -> dict[str, str]:
    """The endpoint's settings for aliases that have other names than usual."""
    given = (
        ("stable_alias", options.champion_alias, "champion"),
        ("candidate_alias", options.challenger_alias, "challenger"),
    )
    return {role: alias for role, alias, usual in given if alias != usual}
