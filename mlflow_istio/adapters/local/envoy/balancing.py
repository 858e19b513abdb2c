"""Which replica gets the next request: a DestinationRule's load balancing becomes part of clusters and of routes.

Consistent hashing needs both: the cluster says how hashes choose among its replicas, the route what is hashed. A route
to one destination then tries again where the hash says, whichever replica failed before, as istiod has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mlflow_istio.adapters.local.envoy.types import Config, filled
from mlflow_istio.adapters.local.supported_fields import Field, read

Hashes: TypeAlias = Mapping[str, Mapping[str, Config]]
"""What routes hash, by host and subset; the subset "" stands for all that have nothing of their own."""

_SIMPLE = {
    "UNSPECIFIED": "LEAST_REQUEST",
    "LEAST_CONN": "LEAST_REQUEST",
    "LEAST_REQUEST": "LEAST_REQUEST",
    "ROUND_ROBIN": "ROUND_ROBIN",
    "RANDOM": "RANDOM",
}
_SLOW_STARTS = {"LEAST_REQUEST": "least_request_lb_config", "ROUND_ROBIN": "round_robin_lb_config"}
"""Envoy's balancers that know a slow start, and where it stands."""
_KEYS = ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")
_RING_SIZE = 1024
# Envoy takes a Maglev table of any prime size below this.
_MAGLEV_LIMIT = 5_000_011
_SIZE_LIMIT = 2**23
_AGGRESSION_LIMIT = 1000.0


def balancing(field: Field) -> Config:
    """The members of a cluster that ``loadBalancer`` decides.

    Raises:
        Unsupported: A kind of load balancing that the local mesh does not carry out.
        InvalidInput: A value that can't be right.
    """
    members = field.members("simple", "consistentHash", "warmup", "warmupDurationSecs")
    if members["consistentHash"]:
        if members["simple"]:
            raise field.invalid("must have one of simple and consistentHash")
        _check_no_warmup(members, "consistentHash, where the hash alone says who gets a request")
        return _hashing(members["consistentHash"])
    simple = members["simple"]
    if simple and simple.text() not in _SIMPLE:
        raise simple.unsupported(f"use one of {', '.join(_SIMPLE)}")
    policy = _SIMPLE[simple.text()] if simple else "LEAST_REQUEST"
    if policy not in _SLOW_STARTS:
        _check_no_warmup(members, f"simple {simple.text()}: use one of LEAST_REQUEST and ROUND_ROBIN")
    slow_start = _slow_start(members)
    return {"lb_policy": policy, **({_SLOW_STARTS[policy]: {"slow_start_config": slow_start}} if slow_start else {})}


def _check_no_warmup(members: Mapping[str, Field], beside: str) -> None:
    for key in ("warmup", "warmupDurationSecs"):
        if members[key]:
            raise members[key].invalid(f"has no effect with {beside}")


def _slow_start(members: Mapping[str, Field]) -> Config | None:
    """How a new replica's share grows, with istiod's defaults (``setWarmup``, ``setSlowStartConfig``); None: at once."""
    warmup, older = members["warmup"], members["warmupDurationSecs"]
    if older:
        if warmup:
            raise older.invalid("can't stand beside warmup: leave it out")
        return {"slow_start_window": older.duration()}
    if not warmup:
        return None
    parts = warmup.members("duration", "minimumPercent", "aggression")
    if not parts["duration"]:
        raise parts["duration"].invalid("must be there, such as 60s")
    aggression = (
        parts["aggression"].number(low=0, high=_AGGRESSION_LIMIT) if parts["aggression"].value is not None else 1.0
    )
    if aggression == 0:
        raise parts["aggression"].invalid("must be above 0")
    least = parts["minimumPercent"].number(low=0, high=100) if parts["minimumPercent"].value is not None else 10.0
    return {
        "slow_start_window": parts["duration"].duration(),
        "aggression": {"default_value": aggression, "runtime_key": "("},
        "min_weight_percent": {"value": least},
    }


def hashes(destination_rules: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Config]]:
    """What routes to these hosts and subsets hash; hosts whose requests are not hashed are left out."""
    policies = {}
    for rule in destination_rules:
        spec = read(rule).member("spec")
        by_subset = {"": _hash_policy(spec)}
        by_subset |= {
            str(subset.member("name").value): _hash_policy(subset) for subset in spec.member("subsets").each()
        }
        by_subset = {name: policy for name, policy in by_subset.items() if policy}
        if by_subset:
            policies[spec.member("host").name()] = by_subset
    return policies


def hash_policies(destinations: Sequence[Field], hashes: Hashes) -> list[Config]:
    """What a route hashes for its destinations; one that gets no share of several has no say."""
    result = []
    for entry in destinations:
        if len(destinations) > 1 and not entry.member("weight").value:
            continue
        destination = entry.member("destination")
        by_subset = hashes.get(destination.member("host").text(), {})
        policy = by_subset.get(destination.member("subset").value) or by_subset.get("")
        if policy:
            result.append(policy)
    return result


def _hashing(field: Field) -> Config:
    members = field.members(*_KEYS, "ringHash", "maglev", "minimumRingSize")
    _hash_key(members, field)
    if sum(bool(members[key]) for key in ("ringHash", "maglev", "minimumRingSize")) > 1:
        raise field.invalid("must have one of ringHash, maglev and minimumRingSize")
    if members["maglev"]:
        size = members["maglev"].members("tableSize")["tableSize"]
        if not _is_prime(size.integer(low=1, high=_MAGLEV_LIMIT - 1)):
            raise size.invalid(f"must be a prime number, not {size.value}")
        return {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": size.value}}
    size = members["minimumRingSize"] or members["ringHash"].members("minimumRingSize")["minimumRingSize"]
    wanted = size.integer(low=0, high=_SIZE_LIMIT) if size else 0
    # Envoy's own default, which `ringHash` without a size keeps, is the same.
    return {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": wanted or _RING_SIZE}}


def _hash_policy(holder: Field) -> Config:
    field = holder.member("trafficPolicy").member("loadBalancer").member("consistentHash")
    return _hash_key({key: field.member(key) for key in _KEYS}, field) if field else {}


def _hash_key(members: Mapping[str, Field], field: Field) -> Config:
    given = [key for key in _KEYS if members[key]]
    if len(given) != 1:
        raise field.invalid(f"must have exactly one of {', '.join(_KEYS)}")
    value = members[given[0]]
    if given == ["httpHeaderName"]:
        return {"header": {"header_name": value.name()}}
    if given == ["httpQueryParameterName"]:
        return {"query_parameter": {"name": value.name()}}
    if given == ["useSourceIp"]:
        return {"connection_properties": {"source_ip": value.flag()}}
    return {"cookie": _cookie(value)}


def _cookie(field: Field) -> Config:
    """The cookie that is hashed; with a ``ttl`` Envoy gives one to callers that have none."""
    members = field.members("name", "path", "ttl", "attributes")
    attributes = []
    for entry in members["attributes"].each():
        pair = entry.members("name", "value")
        attributes.append(filled({"name": pair["name"].name(), "value": pair["value"].value}))
    ttl = members["ttl"].duration(low=0) if members["ttl"] else None
    return filled({"name": members["name"].name(), "path": members["path"].value, "ttl": ttl, "attributes": attributes})


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
