"""Where requests go: one VirtualService becomes one Envoy route configuration.

Follows what istiod does with the same object (``pilot/pkg/networking/core/route``): the same order, the same default
retries, no timeout unless given, destinations of weight 0 left out, no host suffix on mirrored requests. An unknown
host or subset becomes the name of a cluster that does not exist, which Envoy answers with 503, as on a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlflow_istio.adapters.local.envoy import actions
from mlflow_istio.adapters.local.envoy.balancing import Hashes, hash_policies
from mlflow_istio.adapters.local.envoy.headers import header_changes, joined
from mlflow_istio.adapters.local.envoy.matches import match
from mlflow_istio.adapters.local.envoy.stats import counted_in, live_routes
from mlflow_istio.adapters.local.envoy.types import FAULT_FILTER, ROUTES, Config, cluster_name, percentage
from mlflow_istio.adapters.local.supported_fields import Field, read

DEFAULT_PORT = 80
_NO_HASHES: Hashes = {}
_WEIGHT_LIMIT = 2**31 - 1
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_FOR_ALL = ("name", "match", "headers")
_FOR_ROUTES = ("rewrite", "timeout", "retries", "fault", "mirror", "mirrorPercentage", "mirrors")


def route_configuration(
    virtual_service: Mapping[str, Any], service_ports: Mapping[str, tuple[int, ...]], hashes: Hashes = _NO_HASHES
) -> Config:
    """The route configuration that carries out a VirtualService, under its name, for every host.

    Args:
        virtual_service: The object.
        service_ports: The ports of each Service, by its name.
        hashes: What routes hash, by host and subset.

    Raises:
        Unsupported: A field that the local mesh can't carry out; names its path.
        InvalidInput: A value that can't be right.
    """
    hosts(virtual_service)
    name = str(virtual_service["metadata"]["name"])
    routes: list[Config] = []
    live = live_routes(virtual_service)
    for http in read(virtual_service).member("spec").member("http").each():
        routes += _routes(http, service_ports, hashes, live)
    return {
        "@type": ROUTES,
        "name": name,
        "virtual_hosts": [{"name": name, "domains": ["*"], "include_request_attempt_count": True, "routes": routes}],
        "max_direct_response_body_size_bytes": actions.DIRECT_BODY_LIMIT,
        "validate_clusters": False,
    }


def hosts(virtual_service: Mapping[str, Any]) -> tuple[str, ...]:
    """The hosts of a VirtualService, its other members checked; none makes it a delegate, to which another one sends requests."""
    spec = read(virtual_service).member("spec").members("hosts", "gateways", "http")
    for gateway in spec["gateways"].each():
        if gateway.text() != "mesh":
            raise gateway.unsupported("it has no gateways")
    names = tuple(host.name() for host in spec["hosts"].each())
    if not names and spec["gateways"].each():
        raise spec["gateways"].invalid("has no effect on a delegate, which has no hosts")
    if not spec["http"].each():
        raise spec["http"].invalid("must have a route")
    return names


def _routes(
    http: Field, service_ports: Mapping[str, tuple[int, ...]], hashes: Hashes, live: Mapping[str, str]
) -> list[Config]:
    members = http.members(*_FOR_ALL, *_FOR_ROUTES, "route", "redirect", "directResponse", "delegate")
    if members["delegate"]:
        _check_delegating(members)
        return []
    changes = header_changes(members["headers"])
    route: Config = {**changes.config}
    chosen = [key for key in ("route", "redirect", "directResponse") if members[key]]
    if len(chosen) != 1 or not members[chosen[0]].value:
        raise http.invalid("must have exactly one of route, redirect and directResponse")
    if chosen == ["route"]:
        route = _forwarded(members, service_ports, hashes)
    else:
        for key in _FOR_ROUTES:
            if members[key]:
                raise members[key].invalid(f"has no effect beside {chosen[0]}")
        if chosen == ["redirect"]:
            route["redirect"] = actions.redirect(members["redirect"])
        else:
            route["direct_response"] = actions.direct_response(members["directResponse"])
    name = members["name"].text() if members["name"] else ""
    if name in live and chosen == ["route"]:
        filters = {**route.get("typed_per_filter_config", {}), **counted_in(live[name])}
        route = {**route, "typed_per_filter_config": filters}
    result = []
    for condition in members["match"].each() or [http.member("match")]:
        label = condition.member("name")
        full_name = f"{name}.{label.text()}" if label else name
        result.append({**({"name": full_name} if full_name else {}), "match": match(condition), **route})
    return result


def _check_delegating(members: Mapping[str, Field]) -> None:
    """A root's route, in whose place its delegate's stand when it is carried out (``core.delegation``)."""
    delegate = members["delegate"].members("name", "namespace")
    delegate["name"].name()
    if delegate["namespace"]:
        raise delegate["namespace"].unsupported("it has no namespaces, so leave it out")
    for key in ("route", "redirect"):
        if members[key]:
            raise members[key].invalid("must not stand beside delegate")


def _forwarded(members: Mapping[str, Field], service_ports: Mapping[str, tuple[int, ...]], hashes: Hashes) -> Config:
    """A route to destinations: its action, header changes and fault."""
    changes = header_changes(members["headers"])
    timeout = members["timeout"].duration() if members["timeout"] else "0s"
    # A gRPC caller's own deadline holds, up to the timeout, as istiod has it (``setTimeout``).
    action: Config = {"timeout": timeout, "max_grpc_timeout": timeout}
    authority = changes.authority
    if members["rewrite"]:
        path, rewritten = actions.rewrite(members["rewrite"])
        action.update(path)
        if rewritten and authority:
            raise members["rewrite"].member("authority").invalid("sets the host a second time")
        authority = rewritten or authority
    destinations = members["route"].each()
    hashed = hash_policies(destinations, hashes) if hashes else []
    if hashed:
        action["hash_policy"] = hashed
    retries = actions.retry_policy(members["retries"], hashed=bool(hashed) and len(destinations) == 1)
    if retries is not None:
        action["retry_policy"] = retries
    mirrors = _mirrors(members, service_ports)
    if mirrors:
        action["request_mirror_policies"] = mirrors
    headers = changes.config
    if len(destinations) == 1:
        (destination,) = destinations
        parts = destination.members("destination", "weight", "headers")
        if parts["weight"]:
            parts["weight"].integer(low=0, high=_WEIGHT_LIMIT)
        own = header_changes(parts["headers"])
        action["cluster"] = _cluster(parts["destination"], service_ports)
        headers = joined(headers, own.config)
        authority = authority or own.authority
    else:
        action["weighted_clusters"] = {"clusters": _weighted(members["route"], service_ports)}
    if authority:
        action["host_rewrite_literal"] = authority
    result: Config = {**headers, "route": action}
    if members["fault"]:
        result["typed_per_filter_config"] = {FAULT_FILTER: actions.fault(members["fault"])}
    return result


def _weighted(route: Field, service_ports: Mapping[str, tuple[int, ...]]) -> list[Config]:
    clusters = []
    for destination in route.each():
        parts = destination.members("destination", "weight", "headers")
        weight = parts["weight"].integer(low=0, high=_WEIGHT_LIMIT) if parts["weight"] else 0
        name = _cluster(parts["destination"], service_ports)
        own = header_changes(parts["headers"])
        if weight == 0:
            continue
        cluster: Config = {"name": name, "weight": weight, **own.config}
        if own.authority:
            cluster["host_rewrite_literal"] = own.authority
        clusters.append(cluster)
    if not clusters:
        raise route.invalid("must not have a total weight of 0")
    return clusters


def _mirrors(members: Mapping[str, Field], service_ports: Mapping[str, tuple[int, ...]]) -> list[Config]:
    if members["mirror"] and members["mirrors"]:
        raise members["mirror"].invalid("must not stand beside mirrors")
    if members["mirrorPercentage"] and not members["mirror"]:
        raise members["mirrorPercentage"].invalid("has no effect without mirror")
    wanted = [(members["mirror"], members["mirrorPercentage"])] if members["mirror"] else []
    for mirror in members["mirrors"].each():
        parts = mirror.members("destination", "percentage")
        wanted.append((parts["destination"], parts["percentage"]))
    policies = []
    for destination, share in wanted:
        name = _cluster(destination, service_ports)
        value = share.members("value")["value"]
        percent = 100.0 if not share else (value.number(low=0, high=100) if value else 0.0)
        if percent > 0:
            policies.append(
                {
                    "cluster": name,
                    "runtime_fraction": {"default_value": percentage(percent)},
                    "trace_sampled": False,
                    "disable_shadow_host_suffix_append": True,
                }
            )
    return policies


def _cluster(destination: Field, service_ports: Mapping[str, tuple[int, ...]]) -> str:
    parts = destination.members("host", "subset", "port")
    host = parts["host"].name()
    if "." in host:
        short = host.split(".")[0]
        raise parts["host"].unsupported(f"it has no namespaces, so write {short!r} for {host!r}")
    if not _LABEL.fullmatch(host):
        raise parts["host"].invalid("is no name of a Service")
    subset = parts["subset"].text() if parts["subset"] else ""
    ports = service_ports.get(host, ())
    port = DEFAULT_PORT
    if parts["port"]:
        port = parts["port"].members("number")["number"].integer(low=1, high=65535)
    elif len(ports) == 1:
        port = ports[0]
    return cluster_name(host, port, subset)
