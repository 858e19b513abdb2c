"""Whatever the local mesh can't carry out is refused by the path of the field; what can't be right, too."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from mlflow_istio.adapters.local.envoy.clusters import Endpoint, clusters
from mlflow_istio.adapters.local.envoy.route_table import route_configuration
from mlflow_istio.adapters.local.storage import admitted
from mlflow_istio.adapters.local.workloads import Readiness, workload
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import InvalidInput, Unsupported
from tests.contract.model_server import deployment, destination_rule, service, virtual_service

FAULT = {"delay": {"fixedDelay": "1s", "percentage": {"value": 1}}, "abort": {"httpStatus": 503}}
OBJECTS = {
    "VirtualService": virtual_service(
        "churn", "change", {"a": 90, "b": 10}, headers={"request": {"add": {"x-a": "1"}}}, fault=FAULT
    ),
    "DestinationRule": destination_rule("churn", "a", "b"),
    "Service": service("churn"),
    "Deployment": deployment("churn", "churn"),
}
OBJECTS["VirtualService"]["spec"]["gateways"] = ["mesh"]
CONTAINER = "spec.template.spec.containers[0]"


def read(obj: Object) -> None:
    """Read an object as the mesh does before it stores it."""
    obj = admitted(obj)
    if obj["kind"] == "VirtualService":
        route_configuration(obj, {"churn": (80,)})
    elif obj["kind"] == "Deployment":
        workload(obj)
    elif obj["kind"] == "Service":
        clusters([obj], [], [])
    else:
        clusters([], [obj], [])


def with_value(kind: str, path: str, value: Any) -> Object:
    """An object of the kind that is right but for one field."""
    obj = copy.deepcopy(OBJECTS[kind])
    # A step is a name, an index in brackets, or a name with dots in brackets.
    *steps, last = (name or bracketed for name, bracketed in re.findall(r"([^.\[\]]+)(?=[.\[]|$)|\[([^\]]+)\]", path))
    place: Any = obj
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return obj


@pytest.mark.parametrize("kind", OBJECTS)
def test_the_objects_of_these_tables_are_right_without_the_bad_field(kind: str) -> None:
    read(OBJECTS[kind])


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("VirtualService", "spec.tcp", [{}]),
        ("VirtualService", "spec.tls", [{}]),
        ("VirtualService", "spec.exportTo", ["."]),
        ("VirtualService", "spec.gateways[0]", "istio-system/public"),
        ("VirtualService", "spec.http[0].corsPolicy", {}),
        ("VirtualService", "spec.http[3].corsPolicy", {"allowOrigins": []}),
        ("VirtualService", "spec.http[3].mirrorPercent", 10),
        ("VirtualService", "spec.http[3].websocketUpgrade", True),
        ("VirtualService", "spec.http[0].match[0].sourceLabels", {"app": "web"}),
        ("VirtualService", "spec.http[0].match[0].sourceNamespace", "web"),
        ("VirtualService", "spec.http[0].match[0].gateways", ["mesh"]),
        ("VirtualService", "spec.http[0].match[0].port", 80),
        ("VirtualService", "spec.http[0].match[0].statPrefix", "a"),
        ("VirtualService", "spec.http[0].match[0].headers[x-mlflow-istio-probe].suffix", "1"),
        ("VirtualService", "spec.http[0].match[0].headers[@request.auth.claims.group]", {"exact": "a"}),
        ("VirtualService", "spec.http[0].directResponse.headers", {}),
        ("VirtualService", "spec.http[1].route[0].destination.host", "churn.prod.svc.cluster.local"),
        ("VirtualService", "spec.http[1].route[0].destination.namespace", "prod"),
        ("VirtualService", "spec.http[3].route[1].headers.request.prepend", {}),
        ("VirtualService", "spec.http[3].retries.retryRemoteLocalities", True),
        ("VirtualService", "spec.http[3].rewrite.host", "a"),
        ("VirtualService", "spec.http[3].fault.delay.exponentialDelay", "1s"),
        ("VirtualService", "spec.http[3].mirror.namespace", "a"),
        ("DestinationRule", "spec.exportTo", ["."]),
        ("DestinationRule", "spec.workloadSelector", {}),
        ("DestinationRule", "spec.host", "churn.prod.svc.cluster.local"),
        ("DestinationRule", "spec.trafficPolicy.portLevelSettings", []),
        ("DestinationRule", "spec.trafficPolicy.tunnel", {}),
        ("DestinationRule", "spec.trafficPolicy.proxyProtocol", {}),
        ("DestinationRule", "spec.trafficPolicy.retryBudget", {}),
        ("DestinationRule", "spec.trafficPolicy.tls.mode", "ISTIO_MUTUAL"),
        ("DestinationRule", "spec.trafficPolicy.loadBalancer.consistentHash.hashOnStatus", 200),
        ("DestinationRule", "spec.trafficPolicy.loadBalancer.simple", "PASSTHROUGH"),
        ("DestinationRule", "spec.trafficPolicy.loadBalancer.localityLbSetting", {}),
        ("DestinationRule", "spec.trafficPolicy.connectionPool.tcp.tcpKeepalive", {}),
        ("DestinationRule", "spec.trafficPolicy.connectionPool.http.h2UpgradePolicy", "UPGRADE"),
        ("DestinationRule", "spec.trafficPolicy.connectionPool.http.useClientProtocol", True),
        ("DestinationRule", "spec.trafficPolicy.outlierDetection.minHealthPercent", 30),
        ("DestinationRule", "spec.trafficPolicy.outlierDetection.consecutiveErrors", 3),
        ("DestinationRule", "spec.subsets[1].trafficPolicy.tls.mode", "SIMPLE"),
        ("Service", "spec.type", "LoadBalancer"),
        ("Service", "spec.clusterIP", "None"),
        ("Service", "spec.sessionAffinity", "ClientIP"),
        ("Service", "spec.ports[0].appProtocol", "tcp"),
        ("Service", "spec.ports[0].protocol", "UDP"),
        ("Service", "spec.ports[0].nodePort", 30000),
        ("Deployment", "metadata.namespace", "prod"),
        ("Deployment", "metadata.finalizers", ["a"]),
        ("Deployment", "metadata.ownerReferences", [{}]),
        ("Deployment", "spec.strategy.type", "Recreate"),
        ("Deployment", "spec.paused", True),
        ("Deployment", "spec.minReadySeconds", 5),
        ("Deployment", "spec.selector.matchExpressions", []),
        ("Deployment", "spec.template.spec.initContainers", [{}]),
        ("Deployment", "spec.template.spec.volumes", [{}]),
        ("Deployment", "spec.template.spec.serviceAccountName", "a"),
        ("Deployment", "spec.template.spec.restartPolicy", "Never"),
        ("Deployment", "spec.template.spec.nodeSelector", {}),
        ("Deployment", f"{CONTAINER}.command", []),
        ("Deployment", f"{CONTAINER}.envFrom", [{}]),
        ("Deployment", f"{CONTAINER}.env[0].valueFrom", {"secretKeyRef": {}}),
        ("Deployment", f"{CONTAINER}.volumeMounts", [{}]),
        ("Deployment", f"{CONTAINER}.workingDir", "/srv"),
        ("Deployment", f"{CONTAINER}.livenessProbe", {"httpGet": {}}),
        ("Deployment", f"{CONTAINER}.lifecycle.postStart", {}),
        ("Deployment", f"{CONTAINER}.lifecycle.preStop.exec", {}),
        ("Deployment", f"{CONTAINER}.ports[0].hostPort", 80),
        ("Deployment", f"{CONTAINER}.ports[0].protocol", "UDP"),
        ("Deployment", f"{CONTAINER}.readinessProbe.exec", {}),
        ("Deployment", f"{CONTAINER}.readinessProbe.httpGet.scheme", "HTTPS"),
        ("Deployment", f"{CONTAINER}.readinessProbe.httpGet.httpHeaders", [{}]),
        ("Deployment", f"{CONTAINER}.readinessProbe.httpGet.port", 9090),
        ("Deployment", f"{CONTAINER}.startupProbe.tcpSocket", {}),
    ],
)
def test_a_field_that_cannot_be_carried_out_is_named(kind: str, path: str, value: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        read(with_value(kind, path, value))
    assert str(caught.value).startswith(f"{kind} churn: {path} can't be carried out by the local mesh: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "path", "value", "problem"),
    [
        ("VirtualService", "spec.http[0]", {"delegate": {"name": ""}}, "must not be empty"),
        (
            "VirtualService",
            "spec.http[0]",
            {"delegate": {"name": "a"}, "redirect": {}},
            "must not stand beside delegate",
        ),
        ("VirtualService", "spec.http", [], "must have a route"),
        ("VirtualService", "spec.http[3].route[0].weight", -5, "must be between 0 and"),
        ("VirtualService", "spec.http[3].route[0].weight", 12.5, "must be an integer, not 12.5"),
        ("VirtualService", "spec.http[3].route[0].weight", "90", "must be an integer, not '90'"),
        ("VirtualService", "spec.http[3].route[0].destination.host", "no service", "is no name of a Service"),
        ("VirtualService", "spec.http[3].redirect", {"uri": "/a"}, "must have exactly one of route, redirect"),
        ("VirtualService", "spec.http[0].timeout", "1s", "has no effect beside directResponse"),
        ("VirtualService", "spec.http[0].mirrors", [], "has no effect beside directResponse"),
        ("VirtualService", "spec.http[3].timeout", "soon", "must be a duration such as 2s or 250ms"),
        ("VirtualService", "spec.http[3].retries", {"retryOn": "5xx"}, "has no attempts"),
        ("VirtualService", "spec.http[3].retries", {"attempts": 1, "retryOn": "often"}, "has no condition 'often'"),
        ("VirtualService", "spec.http[3].mirrorPercentage", {"value": 5}, "has no effect without mirror"),
        ("VirtualService", "spec.http[3].rewrite", {"uri": "/", "uriRegexRewrite": {}}, "must have one of uri and"),
        ("VirtualService", "spec.http[3].rewrite.authority", 5, "must be a string"),
        ("VirtualService", "spec.http[3].headers.response.set.host", "a", "is no header of a response"),
        ("VirtualService", "spec.http[3].headers.request.set", {"host": "a", ":authority": "b"}, "a second time"),
        ("VirtualService", "spec.http[0].directResponse.body.bytes", "YQ==", "must have one of string and bytes"),
        ("VirtualService", "spec.http[0].directResponse.body.string", "x" * 1048577, "must not be longer than"),
        ("VirtualService", "spec.http[0]", {"redirect": {"scheme": "ftp"}}, "must be http or https"),
        ("VirtualService", "spec.http[0]", {"redirect": {"redirectCode": 301}}, "must have a uri, authority, scheme"),
        ("VirtualService", "spec.http[3].rewrite", {}, "must have a uri, uriRegexRewrite or authority"),
        ("VirtualService", "spec.http[3].fault", {}, "must have a delay or an abort"),
        ("VirtualService", "spec.http[0].directResponse.status", 999, "must be between 200 and 599"),
        ("VirtualService", "spec.http[0].match[0].headers.x", {"exact": "a", "prefix": "b"}, "must have one of"),
        ("VirtualService", "spec.http[0].match[0].headers.x", None, "must be an object such as"),
        ("VirtualService", "spec.http[0].match[0].headers.x", {"prefix": ""}, "must not be empty"),
        ("VirtualService", "spec.http[3].headers.request.add.x-a", "a\nb", "must not hold control characters"),
        ("VirtualService", "spec.http[3].headers.request.add.a b", "1", "is no name of a header"),
        (
            "VirtualService",
            "spec.http[3].retries",
            {"attempts": 1, "retryOn": "5xx, reset"},
            "has no condition ' reset'",
        ),
        ("VirtualService", "spec.http[3].timeout", "0s", "must be at least 1ms, not '0s'"),
        ("DestinationRule", "spec.trafficPolicy.connectionPool", {}, "must have tcp or http"),
        ("DestinationRule", "spec.trafficPolicy.connectionPool.http.idleTimeout", "0s", "must be at least 1ms"),
        (
            "DestinationRule",
            "spec.trafficPolicy.loadBalancer.consistentHash",
            {"ringHash": {}},
            "must have exactly one",
        ),
        (
            *("DestinationRule", "spec.trafficPolicy.loadBalancer.consistentHash"),
            {"useSourceIp": True, "maglev": {"tableSize": 100}},
            "must be a prime number, not 100",
        ),
        ("DestinationRule", "spec.trafficPolicy.loadBalancer.warmup", {"aggression": 1}, "must be there, such as 60s"),
        ("DestinationRule", "spec.subsets[1].name", "a", "is the second subset 'a'"),
        ("DestinationRule", "spec.trafficPolicy.connectionPool.tcp.maxConnections", -1, "must be between 0"),
        ("Service", "spec.ports", [], "must have a port"),
        ("Service", "spec.ports[0].port", 99999, "must be between 1 and 65535"),
        ("Deployment", "spec.replicas", -1, "must be between 0"),
        ("Deployment", "spec.replicas", True, "must be an integer, not True"),
        ("Deployment", "spec.selector.matchLabels.app", "other", "must have matchLabels"),
        ("Deployment", f"{CONTAINER}.env[0].name", "A=B", "is no name of a variable"),
        ("Deployment", f"{CONTAINER}.env[0].value", 5, "must be a string"),
        ("Deployment", f"{CONTAINER}.readinessProbe.httpGet.path", "ping", "must start with '/'"),
    ],
)
def test_a_value_that_cannot_be_right_is_named(kind: str, path: str, value: Any, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(with_value(kind, path, value))
    assert str(caught.value).startswith(f"{kind} churn: spec")
    assert problem in str(caught.value)


def test_a_mirror_beside_mirrors_is_refused() -> None:
    mirrors = [{"destination": {"host": "churn"}}]
    obj = virtual_service("churn", "change", {"a": 100}, mirror={"host": "churn"}, mirrors=mirrors)
    with pytest.raises(InvalidInput, match=r"spec\.http\[2\]\.mirror must not stand beside mirrors"):
        read(obj)


@pytest.mark.parametrize(("member", "value"), [("derivePort", "FROM_REQUEST_PORT"), ("redirectCode", 305)])
def test_a_redirect_that_envoy_does_not_know_is_refused(member: str, value: Any) -> None:
    route = {"redirect": {"uri": "/new", member: value}}
    with pytest.raises(Unsupported, match=rf"spec\.http\[2\]\.redirect\.{member} can't be carried out"):
        read(virtual_service("churn", "change", {"a": 100}, route))


def test_no_weight_at_all_is_refused() -> None:
    obj = virtual_service("churn", "change", {"a": 0, "b": 0})
    with pytest.raises(
        InvalidInput, match=r"VirtualService churn: spec\.http\[3\]\.route must not have a total weight"
    ):
        read(obj)


@pytest.mark.parametrize(
    ("obj", "problem"),
    [
        ({"kind": "Pod", "metadata": {"name": "a"}}, "there is no kind 'Pod'"),
        ({"kind": "Service", "metadata": {}}, "must have metadata.name"),
        (
            {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "../a"}},
            "is not a DNS label, so it can't be the name of a Service",
        ),
        ({"kind": "Service", "apiVersion": "apps/v1", "metadata": {"name": "a"}}, "apiVersion must be v1"),
        ({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {"a": {1, 2}}}, "JSON values only"),
    ],
)
def test_what_is_no_object_is_refused(obj: Object, problem: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(problem)):
        admitted(obj)


def test_a_service_of_a_process_of_the_users_own_reaches_its_port_on_this_machine() -> None:
    """As istiod has it (``ExternalNameServiceInstances``): the Service's own port at the name, chosen by the Service's labels."""
    rule = destination_rule("web", "old", "new")
    web = {**external("web", {"name": "http", "port": 8000}), "metadata": {"name": "web", "labels": {"version": "old"}}}
    asked = {
        cluster["name"]: [
            host["endpoint"]["address"]["socket_address"]
            for group in cluster["load_assignment"]["endpoints"]
            for host in group["lb_endpoints"]
        ]
        for cluster in clusters([web], [rule], [Endpoint(deployment="web", labels={}, port=7, readiness=None)])
    }
    here = [{"address": "127.0.0.1", "port_value": 8000}]
    assert asked == {"outbound|8000||web": here, "outbound|8000|new|web": [], "outbound|8000|old|web": here}


def external(name: str, *ports: Object, **spec: Any) -> Object:
    """A Service in front of a process on this machine that no Deployment runs."""
    given = {"type": "ExternalName", "externalName": "localhost", "ports": list(ports), **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": given}


@pytest.mark.parametrize(
    ("obj", "problem"),
    [
        (
            external("web", {"port": 80}, externalName="example.com"),
            "spec.externalName can't be carried out by the local",
        ),
        (
            external("web", {"port": 80}, externalName=None),
            "spec.externalName must be localhost with type ExternalName",
        ),
        (external("web", {"port": 80}, selector={"app": "a"}), "spec.selector has no effect with type ExternalName"),
        (
            external("web", {"port": 80, "targetPort": 81}),
            "spec.ports[0].targetPort has no effect with type ExternalName",
        ),
        (external("web", {"port": 80}, type="ClusterIP"), "spec.externalName has no effect without type ExternalName"),
        (external("web"), "spec.ports must have a port"),
    ],
)
def test_a_service_that_would_reach_something_else_is_refused(obj: Object, problem: str) -> None:
    with pytest.raises((InvalidInput, Unsupported), match=re.escape(f"Service web: {problem}")):
        read(obj)


def test_several_containers_are_refused() -> None:
    obj = copy.deepcopy(OBJECTS["Deployment"])
    containers = obj["spec"]["template"]["spec"]["containers"]
    containers.append(containers[0])
    with pytest.raises(Unsupported, match=r"containers can't be carried out .* and this has 2 containers"):
        read(obj)


def test_two_readiness_paths_behind_one_service_are_refused() -> None:
    """Envoy checks all replicas of a cluster in one way."""
    endpoints = [
        Endpoint(deployment=name, labels={"app": "churn"}, port=port, readiness=Readiness(path=path))
        for name, port, path in (("churn-v1", 1, "/ping"), ("churn-v2", 2, "/health"))
    ]
    with pytest.raises(Unsupported, match=r"Deployment churn-v2: .*readinessProbe.httpGet.path .* churn-v1 .*'/ping'"):
        clusters([service("churn")], [], endpoints)
