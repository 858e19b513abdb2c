"""Several VirtualServices under one host: a root's ``delegate`` routes with their delegates' routes put in their place.

Follows istiod (``pilot/pkg/model/virtualservice.go``, ``MergeHTTPRoutes``; ``virtualservice_controller.go``): a delegate is a name
and a namespace, the root's unless one is said; its match must lie inside the root's, headers and query parameters are joined, and
what its route does not say (rewrite, timeout, retries, ...) the root's does. One that is missing, has hosts of its own, or is not
exported to the root's namespace leaves nothing in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.places import namespace_of

_INHERITED = (
    *("rewrite", "directResponse", "timeout", "retries", "fault", "mirror", "mirrorPercent", "mirrorPercentage"),
    *("corsPolicy", "mirrors", "headers"),
)
_STRINGS = ("uri", "scheme", "method", "authority")
_MAPS = ("headers", "withoutHeaders", "queryParams", "sourceLabels")
_SCALARS = ("port", "sourceNamespace", "gateways", "statPrefix")


def is_delegate(virtual_service: Mapping[str, Any]) -> bool:
    """Whether a VirtualService has no hosts of its own, so that another one chooses its requests."""
    return not virtual_service.get("spec", {}).get("hosts")


def delegate_of(route: Mapping[str, Any], namespace: str) -> str | None:
    """Name of the VirtualService beside its root that a route hands requests on to; None: to nobody, or to another namespace's.

    Args:
        route: A root's route.
        namespace: The root's.
    """
    delegate = route.get("delegate") or {}
    return str(delegate["name"]) if (delegate.get("namespace") or namespace) == namespace and delegate else None


def delegates_of(virtual_service: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the VirtualServices beside it that a root delegates to, in order, each once."""
    namespace = namespace_of(virtual_service)
    names = (delegate_of(route, namespace) for route in virtual_service.get("spec", {}).get("http") or [])
    return tuple(dict.fromkeys(name for name in names if name is not None))


def merged(root: Mapping[str, Any], find: Callable[[str], Mapping[str, Any] | None]) -> Object:
    """The root as proxies carry it out; itself when it delegates nothing.

    Args:
        root: A VirtualService with hosts.
        find: Gives a VirtualService of the root's namespace by its name.
    """
    if not any(route.get("delegate") for route in root.get("spec", {}).get("http") or []):
        return dict(root)
    routes: list[Object] = []
    for route in root["spec"]["http"]:
        if not route.get("delegate"):
            routes.append(route)
            continue
        name = delegate_of(route, namespace_of(root))
        delegate = find(name) if name is not None else None
        if delegate is not None and takes_over(delegate, namespace_of(root)):
            for sub in delegate.get("spec", {}).get("http") or []:
                route_of_delegate = carried(route, sub)
                if route_of_delegate is not None:
                    routes.append(route_of_delegate)
    return {**root, "spec": {**root["spec"], "http": routes}}


def takes_over(delegate: Mapping[str, Any], namespace: str) -> bool:
    """Whether a VirtualService carries out what a root of that namespace hands on to it: without hosts, and exported there."""
    seen_by = delegate.get("spec", {}).get("exportTo") or ["*"]
    own = namespace_of(delegate, namespace)
    return is_delegate(delegate) and any(seen == "*" or (own if seen == "." else seen) == namespace for seen in seen_by)


def left_out(root: Mapping[str, Any], delegate: Mapping[str, Any]) -> list[Object]:
    """The routes of a delegate that proxies carry out nowhere, because their matches lie outside of all that the root hands on."""
    name, through = delegate["metadata"]["name"], root.get("spec", {}).get("http") or []
    outer = [route for route in through if delegate_of(route, namespace_of(root)) == name]
    inner = delegate.get("spec", {}).get("http") or []
    return [sub for sub in inner if all(carried(route, sub) is None for route in outer)] if outer else []


def carried(root: Mapping[str, Any], sub: Mapping[str, Any]) -> Object | None:
    """A delegate's route as proxies carry it out inside the root's; None where the two contradict each other: it is left out."""
    match = _matches(root.get("match") or [], sub.get("match") or [])
    if match is None:
        return None
    name = "-".join(part for part in (root.get("name"), sub.get("name")) if part)
    inherited = {field: root[field] for field in _INHERITED if field in root and field not in sub}
    if "redirect" in sub or "directResponse" in sub:
        # istiod carries these along, and Envoy has no use for them beside an answer of its own.
        inherited = {field: value for field, value in inherited.items() if field == "headers"}
    rest = {key: value for key, value in sub.items() if key not in ("name", "match")}
    return {**({"name": name} if name else {}), **({"match": match} if match else {}), **inherited, **rest}


def _matches(root: Sequence[Object], sub: Sequence[Object]) -> list[Object] | None:
    if not root or not sub:
        return list(sub or root)
    matches: list[Object] = []
    for inner in sub:
        inside = [_both(outer, inner) for outer in root if not _conflict(outer, inner)]
        if not inside:
            return None
        matches += inside
    return matches


def _both(root: Mapping[str, Any], sub: Mapping[str, Any]) -> Object:
    both: Object = {**sub}
    for field in (*_STRINGS, *_SCALARS):
        if not both.get(field) and field in root:
            both[field] = root[field]
    for field in _MAPS:
        joined = {**root.get(field, {}), **sub.get(field, {})}
        if joined:
            both[field] = joined
    name = "-".join(part for part in (root.get("name"), sub.get("name")) if part)
    return {**both, **({"name": name} if name else {})}


def _conflict(root: Mapping[str, Any], sub: Mapping[str, Any]) -> bool:
    if any(_strings_conflict(root.get(field), sub.get(field)) for field in _STRINGS):
        return True
    for field in ("headers", "withoutHeaders", "queryParams"):
        outer, inner = root.get(field, {}), sub.get(field, {})
        if any(_strings_conflict(outer.get(key), value) for key, value in inner.items()):
            return True
    if bool(root.get("ignoreUriCase")) != bool(sub.get("ignoreUriCase")):
        return True
    if root.get("port") and sub.get("port") and root["port"] != sub["port"]:
        return True
    if root.get("sourceNamespace") and sub.get("sourceNamespace") != root["sourceNamespace"]:
        return True
    labels = root.get("sourceLabels", {})
    if any(labels.get(key, value) != value for key, value in sub.get("sourceLabels", {}).items()):
        return True
    outer_gateways, inner_gateways = root.get("gateways") or [], sub.get("gateways") or []
    return bool(outer_gateways and inner_gateways and not set(inner_gateways) <= set(outer_gateways))


def _strings_conflict(root: Mapping[str, str] | None, sub: Mapping[str, str] | None) -> bool:
    """Whether a string match of the delegate does not lie inside the root's."""
    if root is None or sub is None:
        return False
    if root.get("regex") or sub.get("regex"):
        return True
    if root.get("exact"):
        return bool(sub.get("prefix")) or sub.get("exact") != root["exact"]
    value = sub.get("prefix") or sub.get("exact")
    if root.get("prefix") and value:
        return not value.startswith(root["prefix"])
    return True
