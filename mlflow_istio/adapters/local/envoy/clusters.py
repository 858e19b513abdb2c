"""What answers requests: Services, DestinationRules and replicas become Envoy clusters.

One cluster per Service port, and one more per subset, under istiod's names. The replicas stand in the cluster itself:
Envoy warms a changed cluster up (its first health checks run) before it takes the place of the old one, whose open
requests end in their own time. That makes the replacement of a set of replicas one step without a gap.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_istio.adapters.local.envoy.balancing import balancing
from mlflow_istio.adapters.local.envoy.types import (
    CLUSTER,
    UPSTREAM_HTTP,
    UPSTREAM_HTTP_KEY,
    Config,
    cluster_name,
    filled,
)
from mlflow_istio.adapters.local.supported_fields import Field, read
from mlflow_istio.adapters.local.workloads import Readiness
from mlflow_istio.core.basics.objects import labels_of, oldest_first
from mlflow_istio.errors import StateConflict, Unsupported

CONTENT_KEY = "mlflow-istio"
HTTP, GRPC = "http", "grpc"
"""What a Service's port speaks, in Kubernetes' words for ``appProtocol``."""
_UNLIMITED = 2**32 - 1
_CONNECT_TIMEOUT = "10s"
_UNHEALTHY_INTERVAL = "0.25s"
# Shorter than the 5 s after which uvicorn closes an idle connection: the proxy never sends on one being closed.
_IDLE_TIMEOUT = "3s"
_EXTERNAL = "ExternalName"
_THIS_MACHINE = ("localhost", "127.0.0.1")
# Envoy's default of streams on one connection has changed; istiod's has not.
_SPOKEN: Mapping[str, Config] = {
    HTTP: {"http_protocol_options": {}},
    GRPC: {"http2_protocol_options": {"max_concurrent_streams": 2**30}},
}
_POLICIES = ("connectionPool", "outlierDetection", "loadBalancer", "tls")


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One replica that may get requests.

    Attributes:
        deployment: Its Deployment; empty for a process of the user's own.
        labels: Its labels.
        port: Its port on 127.0.0.1.
        readiness: How it shows that it is ready; None means that it always is.
    """

    deployment: str
    labels: Mapping[str, str]
    port: int
    readiness: Readiness | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """One subset of a DestinationRule: the labels that choose and the policies as they stand."""

    labels: Mapping[str, str]
    policy: Mapping[str, Field]


def clusters(
    services: Sequence[Mapping[str, Any]],
    destination_rules: Sequence[Mapping[str, Any]],
    endpoints: Sequence[Endpoint],
) -> list[Config]:
    """All clusters, ordered by name.

    Raises:
        Unsupported: A field that the local mesh can't carry out; names its path.
        InvalidInput: A value that can't be right.
        StateConflict: Two DestinationRules for one host.
    """
    rules = _by_host(destination_rules)
    result = []
    for service in services:
        host = str(service["metadata"]["name"])
        selector = _selector(service)
        chosen_by = [endpoint for endpoint in endpoints if selector and selector.items() <= endpoint.labels.items()]
        whole, subsets = _rule(rules[host]) if host in rules else (_policies(_absent(service)), {})
        for port, protocol in _protocols(service).items():
            behind = [_users_process(service, port)] if _is_external(service) else chosen_by
            _check_health(host, protocol, behind)
            result.append(_cluster(cluster_name(host, port), whole, behind, protocol))
            for name, subset in subsets.items():
                chosen = [endpoint for endpoint in behind if subset.labels.items() <= endpoint.labels.items()]
                result.append(_cluster(cluster_name(host, port, name), subset.policy, chosen, protocol))
    return sorted(result, key=lambda cluster: str(cluster["name"]))


def service_ports(service: Mapping[str, Any]) -> tuple[int, ...]:
    """The ports of a Service, the Service checked."""
    return tuple(_protocols(service))


def _protocols(service: Mapping[str, Any]) -> dict[int, str]:
    """The ports of a Service and what is spoken at each, the Service checked."""
    spec = read(service).member("spec").members("selector", "ports", "type", "externalName")
    if spec["type"] and spec["type"].text() not in ("ClusterIP", _EXTERNAL):
        raise spec["type"].unsupported(f"use ClusterIP, or {_EXTERNAL} for a process of yours on this machine")
    _check_external(service, spec)
    by_port: dict[int, str] = {}
    numbers, targets = [], set()
    for port in spec["ports"].each():
        members = port.members("name", "port", "targetPort", "appProtocol", "protocol")
        if members["protocol"] and members["protocol"].text() != "TCP":
            raise members["protocol"].unsupported("use TCP")
        numbers.append(members["port"].integer(low=1, high=65535))
        by_port[numbers[-1]] = _protocol(members["name"], members["appProtocol"])
        if _is_external(service) and members["targetPort"].value not in (None, numbers[-1]):
            raise members["targetPort"].invalid(
                f"has no effect with type {_EXTERNAL}: port is what is asked, as in Istio"
            )
        targets.add(numbers[0] if _is_external(service) else str(members["targetPort"].value or numbers[-1]))
        if len(targets) > 1:
            raise members["targetPort"].unsupported("a replica has one port")
    if not numbers:
        raise spec["ports"].invalid("must have a port")
    return by_port


def _protocol(name: Field, protocol: Field) -> str:
    """What a port speaks, as Istio finds it out: by ``appProtocol``, else by the start of its name."""
    if protocol and protocol.text() not in (HTTP, GRPC):
        raise protocol.unsupported(f"use {HTTP} or {GRPC}")
    if protocol:
        return protocol.text()
    return GRPC if name and name.text().partition("-")[0].lower() == GRPC else HTTP


def _check_health(host: str, protocol: str, endpoints: Sequence[Endpoint]) -> None:
    """Envoy asks for health by gRPC only where it speaks HTTP/2, and would refuse the whole configuration."""
    for endpoint in endpoints:
        if protocol != GRPC and endpoint.readiness is not None and endpoint.readiness.service is not None:
            raise Unsupported(
                f"Deployment {endpoint.deployment}: spec.template.spec.containers[0].readinessProbe.grpc can't be carried out by "
                f"the local mesh: the port of Service {host} is HTTP, so say appProtocol: {GRPC} there"
            )


def rule_host(destination_rule: Mapping[str, Any]) -> str:
    """The host of a DestinationRule, the rule checked."""
    _rule(destination_rule)
    return str(destination_rule["spec"]["host"])


def active(cluster: Config) -> tuple[str, str]:
    """Name of a cluster and the hash of its content that it carries."""
    content = cluster.get("metadata", {}).get("filter_metadata", {}).get(CONTENT_KEY, {}).get("content", "")
    return str(cluster["name"]), str(content)


def _is_external(service: Mapping[str, Any]) -> bool:
    return bool(read(service).member("spec").member("type").value == _EXTERNAL)


def _check_external(service: Mapping[str, Any], spec: Mapping[str, Field]) -> None:
    """A Service in front of what no Deployment runs: only on this machine, and not beside a selector."""
    if not _is_external(service):
        if spec["externalName"]:
            raise spec["externalName"].invalid(f"has no effect without type {_EXTERNAL}")
        return
    if not spec["externalName"]:
        raise spec["externalName"].invalid(f"must be localhost with type {_EXTERNAL}")
    if spec["externalName"].text() not in _THIS_MACHINE:
        raise spec["externalName"].unsupported("it reaches this machine only, so use localhost")
    if spec["selector"].pairs():
        raise spec["selector"].invalid(f"has no effect with type {_EXTERNAL}")


def _users_process(service: Mapping[str, Any], port: int) -> Endpoint:
    """What an ExternalName reaches: the port of the Service, with its labels, as in istiod (``ExternalNameServiceInstances``)."""
    return Endpoint(deployment="", labels=labels_of(service), port=port, readiness=None)


def _selector(service: Mapping[str, Any]) -> dict[str, str]:
    return read(service).member("spec").member("selector").texts()


def _by_host(destination_rules: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    by_name: dict[str, Mapping[str, Any]] = {}
    for rule in sorted(destination_rules, key=oldest_first):
        host = rule_host(rule)
        if host in by_name:
            raise StateConflict(
                f"DestinationRule {rule['metadata']['name']}: host {host!r} already has the DestinationRule "
                f"{by_name[host]['metadata']['name']}: change that one"
            )
        by_name[host] = rule
    return by_name


def _rule(destination_rule: Mapping[str, Any]) -> tuple[Mapping[str, Field], dict[str, Subset]]:
    """Policies of the whole host, and the subsets by name with the policies that hold for them."""
    spec = read(destination_rule).member("spec").members("host", "subsets", "trafficPolicy")
    host = spec["host"].name()
    if "." in host:
        raise spec["host"].unsupported(f"it has no namespaces, so write {host.split('.')[0]!r}")
    whole = _policies(spec["trafficPolicy"])
    subsets: dict[str, Subset] = {}
    for entry in spec["subsets"].each():
        members = entry.members("name", "labels", "trafficPolicy")
        name = members["name"].name()
        if name in subsets:
            raise members["name"].invalid(f"is the second subset {name!r}")
        own = _policies(members["trafficPolicy"])
        policy = {key: own[key] or whole[key] for key in _POLICIES}
        subsets[name] = Subset(labels=members["labels"].texts(), policy=policy)
        _settings(policy)
    _settings(whole)
    return whole, subsets


def _policies(field: Field) -> Mapping[str, Field]:
    return field.members(*_POLICIES)


def _absent(service: Mapping[str, Any]) -> Field:
    return read(service).member("trafficPolicy")


def _cluster(name: str, policy: Mapping[str, Field], endpoints: Sequence[Endpoint], protocol: str) -> Config:
    readiness = _common_readiness(endpoints)
    hosts = []
    for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.port):
        address = {"socket_address": {"address": "127.0.0.1", "port_value": endpoint.port}}
        unchecked = readiness is not None and endpoint.readiness is None
        check = {"health_check_config": {"disable_active_health_check": True}} if unchecked else {}
        hosts.append({"endpoint": {"address": address, **check}})
    config: Config = {
        "@type": CLUSTER,
        "name": name,
        "type": "STATIC",
        **_settings(policy, protocol),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}] if hosts else []},
    }
    if readiness is not None:
        config["health_checks"] = [_health_check(readiness)]
    content = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    return {**config, "metadata": {"filter_metadata": {CONTENT_KEY: {"content": content}}}}


def _common_readiness(endpoints: Sequence[Endpoint]) -> Readiness | None:
    """One check for a whole cluster: Envoy knows no other."""
    checked = [(endpoint.deployment, endpoint.readiness) for endpoint in endpoints if endpoint.readiness is not None]
    if not checked:
        return None
    first, common = checked[0]
    for deployment, readiness in checked:
        if (readiness.service is None) != (common.service is None):
            raise Unsupported(
                f"Deployment {deployment}: spec.template.spec.containers[0].readinessProbe can't be carried out by the local "
                f"mesh: Deployment {first} behind the same Service is asked by {_asked_by(common)}, so use that"
            )
        if (readiness.path, readiness.service) != (common.path, common.service) and common.service is not None:
            raise Unsupported(
                f"Deployment {deployment}: spec.template.spec.containers[0].readinessProbe.grpc.service can't be carried out by "
                f"the local mesh: Deployment {first} behind the same Service has {common.service!r}, so use that"
            )
        if readiness.path != common.path:
            raise Unsupported(
                f"Deployment {deployment}: spec.template.spec.containers[0].readinessProbe.httpGet.path "
                f"can't be carried out by the local mesh: Deployment {first} behind the same Service has "
                f"{common.path!r}, so use that"
            )
    checks = [readiness for _, readiness in checked]
    return Readiness(
        path=common.path,
        service=common.service,
        period=min(check.period for check in checks),
        timeout=max(check.timeout for check in checks),
        failures=max(check.failures for check in checks),
        successes=max(check.successes for check in checks),
    )


def _asked_by(readiness: Readiness) -> str:
    return "httpGet" if readiness.service is None else "grpc"


def _health_check(readiness: Readiness) -> Config:
    period = f"{readiness.period}s"
    how: Config = {
        "http_health_check": {
            "host": "127.0.0.1",
            "path": readiness.path,
            "expected_statuses": [{"start": 200, "end": 400}],
        }
    }
    if readiness.service is not None:
        how = {"grpc_health_check": filled({"service_name": readiness.service})}
    return {
        "timeout": f"{readiness.timeout}s",
        "interval": period,
        # Both intervals of a replica that is not ready: before and after the cluster had its first request.
        "no_traffic_interval": _UNHEALTHY_INTERVAL,
        "no_traffic_healthy_interval": period,
        "unhealthy_interval": _UNHEALTHY_INTERVAL,
        "unhealthy_threshold": readiness.failures,
        "healthy_threshold": readiness.successes,
        **how,
    }


def _settings(policy: Mapping[str, Field], protocol: str = HTTP) -> Config:
    """The members of a cluster that a traffic policy decides, with istiod's defaults."""
    if policy["tls"] and policy["tls"].members("mode")["mode"].text() != "DISABLE":
        raise policy["tls"].member("mode").unsupported("replicas on this machine speak plain HTTP")
    pool = policy["connectionPool"].members("tcp", "http")
    tcp = pool["tcp"].members("maxConnections", "connectTimeout", "maxConnectionDuration", "idleTimeout")
    http = pool["http"].members(
        *("http1MaxPendingRequests", "http2MaxRequests", "maxRequestsPerConnection", "maxRetries", "idleTimeout")
    )
    if policy["connectionPool"] and not pool["tcp"] and not pool["http"]:
        raise policy["connectionPool"].invalid("must have tcp or http")
    connection = {
        "idle_timeout": _idle_timeout(http["idleTimeout"], tcp["idleTimeout"]),
        "max_requests_per_connection": _positive(http["maxRequestsPerConnection"]),
        "max_connection_duration": tcp["maxConnectionDuration"].duration() if tcp["maxConnectionDuration"] else None,
    }
    threshold = {
        "max_connections": _positive(tcp["maxConnections"]) or _UNLIMITED,
        "max_pending_requests": _positive(http["http1MaxPendingRequests"]) or _UNLIMITED,
        "max_requests": _positive(http["http2MaxRequests"]) or _UNLIMITED,
        "max_retries": _positive(http["maxRetries"]) or _UNLIMITED,
        "track_remaining": True,
    }
    return filled(
        {
            "connect_timeout": tcp["connectTimeout"].duration() if tcp["connectTimeout"] else _CONNECT_TIMEOUT,
            **balancing(policy["loadBalancer"]),
            "circuit_breakers": {"thresholds": [threshold]},
            "outlier_detection": _outlier_detection(policy["outlierDetection"]),
            # A replica that is not ready gets nothing, even when none is.
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "typed_extension_protocol_options": {
                UPSTREAM_HTTP_KEY: {
                    "@type": UPSTREAM_HTTP,
                    "explicit_http_config": _SPOKEN[protocol],
                    "common_http_protocol_options": filled(connection),
                }
            },
        }
    )


def _idle_timeout(http: Field, tcp: Field) -> str:
    """How long an unused connection is kept; 0 at ``tcp`` means for ever."""
    if http:
        return http.duration()
    return tcp.duration(low=0) if tcp else _IDLE_TIMEOUT


def _positive(field: Field) -> int | None:
    """A limit; 0 and absent both mean none, as in Istio."""
    return field.integer(low=0, high=_UNLIMITED) or None if field else None


def _outlier_detection(field: Field) -> Config | None:
    if not field:
        return None
    members = field.members(
        *("consecutive5xxErrors", "consecutiveGatewayErrors", "interval", "baseEjectionTime", "maxEjectionPercent"),
        *("minHealthPercent", "splitExternalLocalOriginErrors", "consecutiveLocalOriginFailures"),
    )
    if members["minHealthPercent"] and members["minHealthPercent"].integer(low=0, high=100):
        raise members["minHealthPercent"].unsupported("replicas that are not ready get no requests here")
    result: Config = {
        "enforcing_success_rate": 0,
        # An ejected replica comes back after its time, not with the next readiness check.
        "successful_active_health_check_uneject_host": False,
    }
    for key, envoy in (
        ("consecutive5xxErrors", "consecutive_5xx"),
        ("consecutiveGatewayErrors", "consecutive_gateway_failure"),
    ):
        if members[key]:
            count = members[key].integer(low=0, high=_UNLIMITED)
            result[envoy] = count
            result[f"enforcing_{envoy}"] = 100 if count else 0
    for key, envoy in (("interval", "interval"), ("baseEjectionTime", "base_ejection_time")):
        if members[key]:
            result[envoy] = members[key].duration()
    if members["maxEjectionPercent"]:
        result["max_ejection_percent"] = members["maxEjectionPercent"].integer(low=0, high=100)
    if members["splitExternalLocalOriginErrors"].flag():
        result["split_external_local_origin_errors"] = True
        result["enforcing_local_origin_success_rate"] = 0
        if members["consecutiveLocalOriginFailures"]:
            count = members["consecutiveLocalOriginFailures"].integer(low=0, high=_UNLIMITED)
            result["consecutive_local_origin_failure"] = count
            result["enforcing_consecutive_local_origin_failure"] = 100
    elif members["consecutiveLocalOriginFailures"]:
        raise members["consecutiveLocalOriginFailures"].invalid("has no effect without splitExternalLocalOriginErrors")
    return result
