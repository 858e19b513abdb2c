"""What a plan is bound to: an endpoint's own routes, subsets, settings and release, in parts that can be named when one has moved.

Entries that wait for the registry, a driver's heartbeat and ids of changes are no part of it: they come and go without anybody's
decision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_istio.core.basics.objects import Object, is_own_route, prefix
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.matching.pin_guard import without_keys
from mlflow_istio.core.mesh.destination_rule import subset_labels
from mlflow_istio.core.mesh.virtual_service import read_endpoint, routes_of, split_route
from mlflow_istio.core.policy.routes import written_policy
from mlflow_istio.core.policy.settings import Policy

_SPLIT_FIELDS = ("name", "match", "route", "mirrors")
_NOTHING = "nothing"


def fingerprint(virtual_service: Object | None, destination_rule: Object | None, name: str) -> dict[str, str]:
    """The parts of an endpoint that decide what a command does to it.

    Args:
        virtual_service: The VirtualService that carries it, or None.
        destination_rule: Its DestinationRule, or None.
        name: The endpoint.

    Returns:
        Part to its value as text; where that would be long, to a digest of it.

    Raises:
        StateConflict: Its routes can't be read.
        NotFound: The route that carries the split is missing.
        InvalidInput: Its annotations are damaged.
    """
    subsets = (destination_rule or {}).get("spec", {}).get("subsets") or []
    ours = [subset for subset in subsets if subset.get("labels") == subset_labels(str(subset.get("name")))]
    parts = {"subsets": ", ".join(str(subset["name"]) for subset in ours) or _NOTHING}
    policies = [written_policy(destination_rule, name).policy] if destination_rule else []
    if virtual_service is None:
        nothing = dict.fromkeys(("stable", "release", "traffic", "routes"), _NOTHING)
        return {**nothing, **parts, "settings": _settings(policies)}
    endpoint = read_endpoint(virtual_service, name)
    policies = [endpoint.traffic.policy, *policies]
    proof = f"{prefix(name)}probe"
    own = [route for route in routes_of(virtual_service) if is_own_route(route, name)]
    own = [{**route, "directResponse": ""} if route["name"] == proof else route for route in own]
    base = split_route(virtual_service, name)
    split = {key: base[key] for key in _SPLIT_FIELDS if key in base}
    return {
        "stable": endpoint.stable.name + (" (being deleted)" if endpoint.deleting else ""),
        "release": _release(endpoint),
        "traffic": ", ".join(f"{name} {weight}%" for name, weight in endpoint.traffic.weights.items()),
        "routes": digest({"own": own, "split": split}),
        **parts,
        "settings": _settings(policies),
    }


def digest(value: Any) -> str:
    """A short digest of a JSON value; a key in it may be any."""
    return hashlib.sha256(json.dumps(without_keys(value), sort_keys=True).encode()).hexdigest()[:16]


def moved(planned: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """What differs, one phrase for each part; ``routes`` only where nothing else says it better."""
    parts = [part for part in planned if present.get(part) != planned[part]]
    if len(parts) > 1 and "routes" in parts:
        parts.remove("routes")
    digests = {"routes": "its routes were edited", "settings": "its settings were changed"}
    return [digests.get(part, f"its {part} was {planned[part]}, is {present.get(part)}") for part in parts]


def fits(planned: Mapping[str, str], present: Mapping[str, str]) -> bool:
    """Whether an endpoint is as planned, in every part that the plan names; one of an earlier version names fewer."""
    return not moved(planned, present)


def _settings(policies: Sequence[Policy]) -> str:
    """A digest of what is set; when a fault ends, and which cookies are expired, is nobody's decision."""
    stored = [to_json(policy) for policy in policies]
    parts = [{key: value for key, value in part.items() if key != "stale"} for part in stored]
    parts = [{**part, "fault": {**part["fault"], "until": ""}} if "fault" in part else part for part in parts]
    return digest(parts) if any(parts) else _NOTHING


def _release(endpoint: Endpoint) -> str:
    release, last = endpoint.release, endpoint.last
    if release is not None:
        return f"'{release.id}' ({release.strategy} of {', '.join(release.candidates)}, {release.state})"
    if last is None:
        return "none"
    back = f", back to {last.previous.name}" if last.previous else ""
    return f"none ('{last.id}' {last.outcome}{back})"
