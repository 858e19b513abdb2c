"""Names of Envoy's types and the small values that several of its messages share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Config: TypeAlias = dict[str, Any]
"""A piece of Envoy's configuration as JSON."""

_TYPES = "type.googleapis.com/"
CLUSTER = _TYPES + "envoy.config.cluster.v3.Cluster"
LISTENER = _TYPES + "envoy.config.listener.v3.Listener"
ROUTES = _TYPES + "envoy.config.route.v3.RouteConfiguration"
CONNECTION_MANAGER = _TYPES + ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")
ROUTER = _TYPES + "envoy.extensions.filters.http.router.v3.Router"
FAULT = _TYPES + "envoy.extensions.filters.http.fault.v3.HTTPFault"
UUID_REQUEST_ID = _TYPES + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
UPSTREAM_HTTP = _TYPES + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
PREVIOUS_HOSTS = _TYPES + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
CONNECTION_LIMIT = _TYPES + ("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig")

FAULT_FILTER = "envoy.filters.http.fault"
UPSTREAM_HTTP_KEY = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster_name(host: str, port: int, subset: str = "") -> str:
    """Istio's name of an outbound cluster, which its metrics and ours carry."""
    return f"outbound|{port}|{subset}|{host}"


def percentage(value: float) -> Config:
    """A percentage in parts of a million, cut off as istiod does it."""
    return {"numerator": int(value * 10000), "denominator": "MILLION"}


def filled(config: Mapping[str, Any]) -> Config:
    """The configuration without its members that are empty or None."""
    return {key: value for key, value in config.items() if value is not None and value not in ({}, [], "")}
