"""The cases as values, read from ``cases/*.yaml``."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mlflow_istio.core.basics.objects import API_VERSIONS, Object

FOLDER = Path(__file__).parent / "cases"
MODEL = "model"
DOMAIN = "corpus.example"
READY_HEADER = "x-corpus-ready"
# Subsets of the model: a, b and c have one replica, pair has two, empty has none.
SUBSETS = {"a": 1, "b": 1, "c": 1, "pair": 2, "empty": 0}
# The model that speaks gRPC has three, of one replica each.
GRPC_MODEL = "model-grpc"
GRPC_SUBSETS = {"a": 1, "b": 1, "c": 1}
APPS = {"http": "echo", "grpc": "echo-grpc"}
_SOURCES = {"http": "echo.py", "grpc": "echo_grpc.py"}
_CASE_KEYS = {
    *(
        "name",
        "why",
        "http",
        "spec",
        "hosts",
        "delegates",
        "policy",
        "subsetPolicy",
        "rule",
        "requests",
        "local",
        "istiod",
        "protocol",
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request of a case, or several alike.

    Attributes:
        method: Its method.
        path: Path and query.
        headers: Its headers; ``host`` is the case's first host unless given.
        body: Its body.
        times: How often it is sent, one after the other.
        together: How often it is sent at the same time.
        slow: Seconds; the answer then says whether it took at least so long.
        copies: Whether to count what reached which subset.
        eventually: Sent again until the answer has this status, which is all that is kept.
        replicas: Whether to count the replicas that answered.
        shares: Expected share of each subset that answers, in percent; checked within binomial bounds.
        call: Service and method, such as ``/echo.Echo/Call``: a unary gRPC call whose metadata the headers are; all of a
            request's calls are made on one connection.
        deadline: Seconds after which a call's own caller gives up.
    """

    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    times: int = 1
    together: int = 1
    slow: float | None = None
    eventually: int | None = None
    copies: bool = False
    replicas: bool = False
    shares: Mapping[str, float] = field(default_factory=dict)
    call: str = ""
    deadline: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Objects and what is asked of them.

    Attributes:
        family: Name of its file.
        name: Unique in the corpus; names its VirtualService.
        http: The routes, ``to: SUBSET`` written out.
        spec: Further members of the VirtualService's spec.
        hosts: Its hosts.
        delegates: Specs of VirtualServices without hosts that it may delegate to, by the end of their names.
        rule: Spec of a DestinationRule of its own, and with it a Service of its own; None routes to the common one.
        requests: Sent in this order.
        local: ``same``, or how the local mesh refuses it: the path of the field, of a delegate's behind the end of its name.
        istiod: ``same``, or ``refused`` when istiod's validator takes no such object.
        protocol: What its model speaks: ``http`` or ``grpc``.
    """

    family: str
    name: str
    http: Sequence[Object]
    spec: Object
    hosts: Sequence[str]
    delegates: Mapping[str, Object]
    rule: Object | None
    requests: Sequence[Request]
    local: str
    istiod: str
    protocol: str = "http"

    @property
    def service(self) -> str:
        """The Service it routes to."""
        return self.name if self.rule is not None else model_of(self.protocol)

    @property
    def routes(self) -> bool:
        """Whether it has a VirtualService at all."""
        return bool(self.http or self.spec)

    def virtual_service(self, *, gateways: Sequence[str] = (), ready_route: bool = True) -> Object:
        """Its VirtualService.

        Args:
            gateways: Gateways it is bound to.
            ready_route: Whether a first route tells that the proxy has this object.
        """
        http = copy.deepcopy(list(self.http))
        if ready_route:
            http.insert(
                0,
                {
                    "match": [{"headers": {READY_HEADER: {"exact": "1"}}}],
                    "directResponse": {"status": 200, "body": {"string": f"{self.name} is ready"}},
                },
            )
        spec = {"hosts": list(self.hosts), **({"gateways": list(gateways)} if gateways else {}), **self.spec}
        return obj("VirtualService", self.name, {**copy.deepcopy(spec), **({"http": http} if self.http else {})})

    def delegate_services(self) -> list[Object]:
        """The VirtualServices that it delegates to."""
        return [
            obj("VirtualService", f"{self.name}-{end}", copy.deepcopy(spec)) for end, spec in self.delegates.items()
        ]

    def destination_rule(self) -> Object | None:
        """Its own DestinationRule, if it has one."""
        return None if self.rule is None else obj("DestinationRule", self.name, copy.deepcopy(self.rule))


def obj(kind: str, name: str, spec: Object) -> Object:
    """An object of a kind."""
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": {"name": name}, "spec": spec}


def model_of(protocol: str) -> str:
    """The common Service of those that speak it."""
    return GRPC_MODEL if protocol == "grpc" else MODEL


def service(name: str, protocol: str = "http") -> Object:
    """A Service in front of all replicas."""
    port = {"name": protocol, "port": 80, "targetPort": 8080, "appProtocol": protocol}
    return obj("Service", name, {"selector": {"app": APPS[protocol]}, "ports": [port]})


def common_rule(protocol: str = "http") -> Object:
    """The DestinationRule of the common Service."""
    name = model_of(protocol)
    return obj("DestinationRule", name, {"host": name, "subsets": _subsets(subsets_of(protocol), {})})


def subsets_of(protocol: str) -> Mapping[str, int]:
    """The subsets of the common Service of those that speak it, with the replicas of each."""
    return GRPC_SUBSETS if protocol == "grpc" else SUBSETS


def deployments(protocol: str = "http") -> Iterator[Object]:
    """The echo servers, a Deployment for each subset that has replicas."""
    source = (Path(__file__).parent / _SOURCES[protocol]).read_text(encoding="utf-8")
    probe: Object = {"grpc": {"port": 8080}} if protocol == "grpc" else {"httpGet": {"path": "/ping", "port": 8080}}
    for subset, replicas in subsets_of(protocol).items():
        if not replicas:
            continue
        labels = {"app": APPS[protocol], "version": subset}
        container = {
            "name": "echo",
            "image": "any",
            "command": ["python", "-c", source],
            "env": [{"name": "SUBSET", "value": subset}],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {**probe, "periodSeconds": 30},
        }
        yield obj(
            "Deployment",
            f"{APPS[protocol]}-{subset}",
            {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        )


def load() -> list[Case]:
    """All cases, by family and in the order of their files.

    Raises:
        ValueError: Two cases have one name, or a case has a key that no case has.
    """
    cases: list[Case] = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["cases"]:
            cases.append(_case(path.stem, entry))
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError(f"two cases have one name: {sorted(name for name in names if names.count(name) > 1)}")
    return cases


def _case(family: str, entry: Mapping[str, Any]) -> Case:
    name = entry["name"]
    unknown = set(entry) - _CASE_KEYS
    if unknown or not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"case {name!r} in {family}.yaml is no DNS label or has unknown keys {sorted(unknown)}")
    rule = None
    if entry.keys() & {"policy", "subsetPolicy", "rule"}:
        policies = entry.get("subsetPolicy", {})
        named = {
            subset for subset in SUBSETS if subset in policies or re.search(rf"\b{subset}\b", str(entry.get("http")))
        }
        rule = {
            "host": name,
            "subsets": _subsets(named, policies),
            **({"trafficPolicy": entry["policy"]} if "policy" in entry else {}),
            **entry.get("rule", {}),
        }
    protocol = entry.get("protocol", "http")
    target = model_of(protocol) if rule is None else name
    return Case(
        family=family,
        name=name,
        http=[_written_out(route, target, name) for route in entry.get("http", ())],
        spec=entry.get("spec", {}),
        hosts=[f"{name}.{DOMAIN}", *(f"{host}.{name}.{DOMAIN}" for host in entry.get("hosts", ()))],
        delegates={
            end: _written_out(spec if isinstance(spec, dict) else {"http": spec}, target, name)
            for end, spec in entry.get("delegates", {}).items()
        },
        rule=rule,
        requests=[Request(**request) for request in entry.get("requests", ())],
        local=entry.get("local", "same"),
        istiod=entry.get("istiod", "same"),
        protocol=protocol,
    )


def _subsets(named: Collection[str], policies: Mapping[str, Any]) -> list[Object]:
    return [
        {
            "name": subset,
            "labels": {"version": subset},
            **({"trafficPolicy": policies[subset]} if subset in policies else {}),
        }
        for subset in SUBSETS
        if subset in named
    ]


def _written_out(value: Any, target: str, case: str) -> Any:
    """Texts that stand for more: ``to`` and ``destination`` a subset of the Service, ``delegate`` one of the case's own."""
    if isinstance(value, list):
        return [_written_out(member, target, case) for member in value]
    if not isinstance(value, dict):
        return value
    result: Object = {}
    for key, member in value.items():
        if key == "to":
            result["route"] = [{"destination": {"host": target, "subset": member}}]
        elif key in ("destination", "mirror") and isinstance(member, str):
            result[key] = {"host": target, "subset": member}
        elif key == "delegate" and isinstance(member, str):
            result[key] = {"name": f"{case}-{member}"}
        else:
            result[key] = _written_out(member, target, case)
    return result
