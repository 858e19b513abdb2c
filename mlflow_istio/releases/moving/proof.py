"""What must be seen before and after an edit: targets that answer, proxies that have the change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_istio.core.basics.objects import Object, name_of, ready_replicas
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.matching.entrance import Entrance
from mlflow_istio.core.matching.probe import Probe, change_probe, health_probe, pin_probe
from mlflow_istio.core.mesh.attached import not_ready
from mlflow_istio.core.mesh.destination_rule import subset_labels, with_policy, with_subset
from mlflow_istio.core.mesh.manifests import destination_rule_manifest, runtime_of_deployment, service_manifest
from mlflow_istio.core.mesh.virtual_service import read_endpoint, write_endpoint
from mlflow_istio.core.moves.gaining import gaining, has_users
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import (
    InvalidInput,
    MlflowIstioError,
    NotFound,
    NotReady,
    NotRouted,
    StateConflict,
    Unsupported,
)
from mlflow_istio.releases.context import (
    Context,
    edit_virtual_service,
    endpoint_of,
    entrance_of,
    versions_of,
)
from mlflow_istio.releases.moving.attachments import lead_to
from mlflow_istio.releases.reading.owners_services import NobodyThere, check_owners_services

_FIRST_WAIT = 2.0
"""Seconds before looking whether somebody else has changed the endpoint once more."""


def make_reachable(
    context: Context,
    deployments: list[Object],
    before: Endpoint,
    after: Endpoint,
    *,
    force: bool = False,
    urgent: bool = False,
    timeout: float,
) -> frozenset[str]:
    """Whoever gains users by a change is there, ready, has its way through the mesh, and has answered through it.

    It is asked of the destination, whatever of our routes others have left: a Service or header route of ours that is missing is
    written again, and proved before there is weight. Who took a subset away may have meant it, so that is a refusal, but for a way
    back and by force. Only who gains is asked: one that is broken and loses traffic must not hold the others back.

    Args:
        context: The ports.
        deployments: The endpoint's Deployments as just read.
        before: The endpoint before.
        after: The endpoint as it is to be.
        force: Whether one that is not ready, or does not answer, is taken all the same. One that is gone never is.
        urgent: Whether it is a way back, which is not held up by what can't be asked.
        timeout: Seconds for each to answer.

    Returns:
        The deployments that may gain.

    Raises:
        NobodyThere: A deployment that would get traffic is gone, or a Service of the owner's that would.
        StateConflict: The subset of a deployment that would selects something else.
        NotReady: It has no ready replica.
        NotRouted: It has no subset, or does not answer through its header route.
        InvalidInput: No request reaches its header route, so that it can't be asked.
    """
    if not force:
        check_owners_services(context, before, after)
    names = gaining(before, after)
    by_name = {name_of(obj): obj for obj in deployments}
    for name in names:
        if name not in by_name:
            raise NobodyThere(f"deployment '{name}' is gone, so it can't get traffic: deploy it again first")
        if not force and (why := not_ready(by_name[name])):
            raise NotReady(
                f"deployment '{name}' gets no traffic: {why}; its owner has to bring it up first, or force it"
            )
        if not force and ready_replicas(by_name[name]) == 0:
            raise NotReady(
                f"deployment '{name}' has no ready replica, so it gets no traffic: see 'mlflow-istio status', or force it"
            )
    if not names:
        return frozenset()
    mended = _mend_ways(context, before, [by_name[name] for name in names], subsets=urgent or force)
    versions = versions_of(deployments)
    for name in () if force else names:
        if urgent and not mended and has_users(before, name):
            continue  # its users are with it already
        try:
            runtime = runtime_of_deployment(by_name[name])
            prove_pinned(context, after.name, name, versions[name], timeout, runtime)
        except (InvalidInput, NotFound, Unsupported) as exc:
            if not urgent:
                raise
            context.warn(f"deployment '{name}' could not be asked before it got traffic: {exc.message}")
    return frozenset(names)


def _check_subsets(rule: Object | None, name: str, deployments: tuple[str, ...]) -> None:
    there = {subset.get("name") for subset in (rule or {}).get("spec", {}).get("subsets") or []}
    for deployment in deployments:
        if deployment not in there:
            raise NotRouted(
                f"deployment '{deployment}' gets no traffic: its subset is gone from DestinationRule '{name}', so that proxies "
                f"answer with status 503: deploy it again, or run 'mlflow-istio doctor {name} --fix'"
            )


def _mend_ways(context: Context, endpoint: Endpoint, deployments: Sequence[Object], *, subsets: bool) -> bool:
    """Write what leads to these deployments where somebody took it away, in the order in which it was made: whether that was so.

    Subsets only where that is said.
    """
    cluster, name, names = context.cluster, endpoint.name, tuple(name_of(obj) for obj in deployments)
    service, rule = cluster.get("Service", name), cluster.get("DestinationRule", name)
    if not subsets:
        _check_subsets(rule, name, names)
    if service is None:
        cluster.apply(service_manifest(context.templates["Service"], name, protocol=endpoint.protocol))
    fresh = destination_rule_manifest(context.templates["DestinationRule"], name)

    def with_subsets(present: Object | None) -> Object:
        rule = present or with_policy(fresh, name, endpoint.traffic.policy)
        for deployment in names:
            rule = _with_subset(rule, deployment)
        return rule

    def with_header_routes(virtual_service: Object) -> Object:
        now = read_endpoint(virtual_service, name)
        if not frozenset(names).issuperset(gaining(now, now, rewritten=True)):
            raise StateConflict(f"endpoint '{name}' was changed by somebody else meanwhile: run the command again")
        return write_endpoint(virtual_service, now)

    lost = rule is None or with_subsets(rule) != rule
    if lost:
        cluster.edit("DestinationRule", name, with_subsets)
    led = [lead_to(context, obj, with_subsets(rule)) for obj in deployments]
    routes = any(f"pin.{deployment}" in endpoint.missing for deployment in names)
    if routes:
        edit_virtual_service(cluster, endpoint.virtual_service, name, with_header_routes)
    mended = service is None or lost or routes or any(led)
    if mended:
        context.tell(
            f"endpoint '{name}': wrote again what leads to {' and '.join(names)}, which somebody had taken away"
        )
    return mended


def _with_subset(rule: Object, deployment: str) -> Object:
    for subset in rule.get("spec", {}).get("subsets") or []:
        if subset["name"] == deployment and subset.get("labels") != subset_labels(deployment):
            raise StateConflict(
                f"subset '{deployment}' of DestinationRule '{name_of(rule)}' selects {subset.get('labels')}, not deployment "
                f"'{deployment}', so that one gets no traffic: run 'mlflow-istio doctor {name_of(rule)} --fix'"
            )
    return with_subset(rule, deployment)


def prove_pinned(context: Context, name: str, deployment: str, version: str, timeout: float, runtime: Runtime) -> None:
    """Ask a deployment through its header route whether it answers as the version it should be.

    Args:
        context: The ports.
        name: The endpoint.
        deployment: The deployment.
        version: ``MODEL/VERSION``.
        timeout: Seconds.
        runtime: What it runs: how its server says that it is ready.

    Raises:
        NotRouted: It does not, in time.
    """
    probe = health_probe if runtime.protocol == "grpc" else pin_probe
    try:
        _asked(context, probe(name, deployment, version, runtime.readiness), name, timeout)
    except NotRouted as exc:
        raise NotRouted(f"deployment '{deployment}' gets no traffic: {exc.message}", detail=exc.detail) from exc


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What the proxies said of a change that is stored.

    Attributes:
        proxies: Those that have it.
        warnings: Why nobody could be asked, in one line; empty where some were.
    """

    proxies: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def prove_change(context: Context, endpoint: Endpoint, timeout: float, virtual_service: Object | None = None) -> Proof:
    """Wait until every reachable proxy has the endpoint's newest change, and say which those are.

    When somebody else changes the endpoint right after us, proxies answer with that change, which contains ours. Where no request
    of ours reaches the endpoint, because a route above takes it or the root hands nothing on, there is nobody to ask.

    Args:
        context: The ports.
        endpoint: The endpoint after the change.
        timeout: Seconds.
        virtual_service: The VirtualService that carries it, as just written; read when None.

    Raises:
        NotRouted: A proxy did not, in time.
        NotFound: The endpoint went away meanwhile.
    """
    first = min(_FIRST_WAIT, timeout / 2)
    try:
        entrance = entrance_of(context.cluster, endpoint.name, virtual_service)
    except (InvalidInput, NotFound, Unsupported) as exc:
        endpoint_of(context.cluster, endpoint.name)  # one that is gone is no change that stands unproved
        return _unproved(endpoint, exc)
    try:
        probe = entrance.through(change_probe(endpoint.name, endpoint.change, endpoint.protocol))
        proxies = tuple(context.cluster.wait_routed(probe, first))
    except NotRouted:
        newest = endpoint_of(context.cluster, endpoint.name).change
        try:
            newest_probe = change_probe(endpoint.name, newest, endpoint.protocol)
            proxies = _asked(context, newest_probe, endpoint.name, timeout - first)
        except (InvalidInput, Unsupported) as exc:  # since somebody changed it once more
            return _unproved(endpoint, exc)
    except Unsupported as exc:  # a route above that a mesh without proxies can't evaluate
        return _unproved(endpoint, exc)
    if proxies:
        return Proof(proxies=proxies)
    alone = f" ({_alone(entrance)})" if entrance.gateways is not None or entrance.listeners is not None else ""
    unproved = (
        f"no proxy of endpoint '{endpoint.name}' can be reached from here{alone}: the change is stored, not proved"
    )
    return Proof(warnings=(unproved,))


def _alone(entrance: Entrance) -> str:
    """Where requests reach an endpoint that they don't reach everywhere."""
    places = [f"by {entrance.listeners}"] if entrance.listeners is not None else []
    places += [f"at {' and '.join(entrance.gateways)}"] if entrance.gateways is not None else []
    return f"requests reach it {' '.join(places)} alone"


def _unproved(endpoint: Endpoint, why: MlflowIstioError) -> Proof:
    return Proof(warnings=(f"the change of endpoint '{endpoint.name}' is stored, not proved: {why.message}",))


def _asked(context: Context, probe: Probe, name: str, timeout: float) -> tuple[str, ...]:
    """The proxies that proved it, asked in the way that reaches the endpoint."""
    entrance = entrance_of(context.cluster, name)
    return tuple(context.cluster.wait_routed(entrance.through(probe), timeout))
