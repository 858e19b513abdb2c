"""Several endpoints under one host: each has its own VirtualService without hosts, to which a root delegates its requests."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_istio.core.basics.names import check_endpoint_name
from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.matching.places import MESH, full_gateway, gateways_of, namespace_of
from mlflow_istio.core.mesh.delegation import is_delegate
from mlflow_istio.core.mesh.host_conflict import check_hosts
from mlflow_istio.core.mesh.manifests import service_manifest, virtual_service_manifest
from mlflow_istio.core.mesh.virtual_service import routes_of
from mlflow_istio.core.moves.claims import Claim, claimants, claimed, released
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict
from mlflow_istio.releases.context import ROOT, Context, existing_endpoint, find_virtual_service, is_ours


@dataclass(frozen=True, kw_only=True, slots=True)
class HostShare:
    """An endpoint's part of a shared host.

    Attributes:
        under: Endpoint or VirtualService whose host it is; made when there is none of that name.
        claim: Which requests are the endpoint's.
    """

    under: str
    claim: Claim


def check_gateways(context: Context, virtual_service: Object, gateways: tuple[str, ...], whose: str) -> None:
    """Refuse a gateway that a VirtualService which is there already is not bound to: nothing would come of it.

    Args:
        context: The ports.
        virtual_service: What has the endpoint's hosts.
        gateways: Those that the call names.
        whose: Whose gateways they would be, for the message.

    Raises:
        InvalidInput: Names the first, and what there is.
    """
    unsaid = context.cluster.scope
    bound = gateways_of(virtual_service, unsaid)
    namespace = namespace_of(virtual_service, unsaid)
    missing = [gateway for gateway in gateways if full_gateway(gateway, namespace) not in (*bound, MESH)]
    if missing:
        raise InvalidInput(
            f"option 'gateway' has no effect on the gateways {whose} with {', '.join(bound)}: leave '{missing[0]}' out, or add it "
            f"to VirtualService '{name_of(virtual_service)}'"
        )


def check_share(
    context: Context, name: str, share: HostShare, hosts: tuple[str, ...], gateways: tuple[str, ...] = ()
) -> str:
    """Refuse a share that can't be before anything is applied; the name of the root.

    Raises:
        StateConflict: The requests are somebody else's, or the endpoint stands otherwise already.
        InvalidInput: Hosts or gateways are given for a root that has its own.
    """
    if share.under == name:
        raise InvalidInput(f"endpoint '{name}' can't stand under itself: name another host with 'under'")
    root = _root(context, share.under)
    before = existing_endpoint(context.cluster, name)
    root_name = share.under if root is None else name_of(root)
    if before is not None and before.settings.get(ROOT) != root_name:
        raise StateConflict(f"endpoint '{name}' exists already and is not under '{share.under}': leave 'under' out")
    if root is None:
        check_endpoint_name(share.under)
        other = context.cluster.get("Service", share.under)
        if other is not None and not is_ours(other, share.under):
            raise StateConflict(f"Service '{share.under}' exists and is not ours: use another name with 'under'")
        return root_name
    if hosts and not set(hosts) <= set(root["spec"].get("hosts") or ()):
        raise InvalidInput(f"option 'host' has no effect with under={share.under}, which has its hosts: leave it out")
    check_gateways(context, root, gateways, f"of '{share.under}', which is there already")
    claimed(root, name, share.claim)
    return root_name


def as_delegate(virtual_service: Object) -> Object:
    """A fresh VirtualService without hosts and gateways, as Istio wants a delegate."""
    spec = {key: value for key, value in virtual_service["spec"].items() if key not in ("hosts", "gateways")}
    return {**virtual_service, "spec": spec}


def claim(context: Context, name: str, share: HostShare, hosts: tuple[str, ...], gateways: tuple[str, ...]) -> None:
    """Give an endpoint its requests under the host; nothing to do when it has them.

    Raises:
        StateConflict: They became somebody else's meanwhile, or another VirtualService has one of the hosts.
    """
    root = _root(context, share.under)
    root_name = share.under if root is None else name_of(root)
    fresh = virtual_service_manifest(context.templates["VirtualService"], root_name, (root_name, *hosts), gateways)
    if root is None:
        check_hosts(fresh, context.cluster.list("VirtualService", {}), context.cluster.scope)
        if context.cluster.get("Service", root_name) is None:  # its name is what callers inside the mesh resolve
            context.cluster.apply(service_manifest(context.templates["Service"], root_name))
    empty: Object = {**fresh, "spec": {**fresh["spec"], "http": []}}
    context.cluster.edit("VirtualService", root_name, lambda present: claimed(present or empty, name, share.claim))


def give_up_claims(context: Context, name: str, root_name: str | None) -> None:
    """Take an endpoint's requests away from it; a root of our own that has none left goes, too.

    Args:
        context: The ports.
        name: The endpoint.
        root_name: Its root; empty where it has hosts of its own, None where that can't be read: whichever hands requests on to it.
            One that had a root before somebody deleted its VirtualService may have hosts of its own now.
    """
    if root_name:
        _give_up(context, name, root_name, context.cluster.get("VirtualService", root_name))
        return
    for obj in context.cluster.list("VirtualService", {}):
        if name in claimants(obj):
            _give_up(context, name, name_of(obj), obj)


def let_go(context: Context, name: str, root_name: str | None) -> None:
    """Take from roots what they still hand on to an endpoint that is gone, before one of that name stands elsewhere.

    Args:
        context: The ports.
        name: The endpoint that comes into being.
        root_name: The root under which it will stand, which keeps its claim; None: it has hosts of its own.
    """
    for obj in context.cluster.list("VirtualService", {}):
        if name in claimants(obj) and name_of(obj) != root_name:
            context.tell(
                f"VirtualService '{name_of(obj)}' still handed requests on to an endpoint '{name}' that is gone"
            )
            _give_up(context, name, name_of(obj), obj)


def claim_again(context: Context, name: str, root_name: str, share: Claim) -> None:
    """Write what a root hands on to an endpoint once more, where somebody took it away.

    Raises:
        StateConflict: The requests became somebody else's.
        NotFound: The root is gone.
    """

    def again(root: Object | None) -> Object:
        if root is None:
            raise NotFound(
                f"VirtualService '{root_name}' is gone: run the endpoint's create command with 'under' again"
            )
        return claimed(root, name, share)

    context.cluster.edit("VirtualService", root_name, again)


def _give_up(context: Context, name: str, root_name: str, root: Object | None) -> None:
    if root is None or (is_ours(root, root_name) and not routes_of(released(root, name))):
        context.cluster.delete("VirtualService", root_name)
        service = context.cluster.get("Service", root_name)
        if service is not None and is_ours(service, root_name):
            context.cluster.delete("Service", root_name)
        return

    def release(present: Object | None) -> Object:
        if present is None:
            raise NotFound(f"VirtualService '{root_name}' went away meanwhile: run the same command again")
        return released(present, name)

    context.cluster.edit("VirtualService", root_name, release)


def check_nothing_under(context: Context, name: str) -> None:
    """Refuse to delete an endpoint whose host others share, or the root that they share.

    Raises:
        StateConflict: Some do; names them.
    """
    virtual_service = context.cluster.get("VirtualService", name)
    if virtual_service is None or not is_ours(virtual_service, name):
        return
    others = claimants(virtual_service)
    if others:
        raise StateConflict(
            f"'{name}' has the host of {', '.join(others)}: delete {'them' if len(others) > 1 else 'that'} first"
        )


def _root(context: Context, under: str) -> Object | None:
    root = find_virtual_service(context.cluster, under) or context.cluster.get("VirtualService", under)
    if root is not None and is_delegate(root):
        raise StateConflict(f"'{under}' has no hosts, so it is itself a delegate: use one with hosts")
    return root
