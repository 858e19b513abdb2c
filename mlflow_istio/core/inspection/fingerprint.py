"""What a plan is bound to: an endpoint's own routes, subsets and release, in parts that can be named when one has moved.

Entries that wait for the registry, a driver's heartbeat and ids of changes are no part of it: they come and go without anybody's
decision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.destination_rule import subset_labels
from mlflow_istio.core.mesh.virtual_service import prefix, read_endpoint, routes_of, split_route

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
    if virtual_service is None:
        return {"stable": _NOTHING, "release": _NOTHING, "traffic": _NOTHING, "routes": _NOTHING, **parts}
    endpoint = read_endpoint(virtual_service, name)
    start, proof = prefix(name), f"{prefix(name)}probe"
    own = [route for route in routes_of(virtual_service) if str(route.get("name", "")).startswith(start)]
    own = [{**route, "directResponse": ""} if route["name"] == proof else route for route in own]
    base = split_route(virtual_service, name)
    split = {key: base[key] for key in _SPLIT_FIELDS if key in base}
    return {
        "stable": endpoint.stable.name + (" (being deleted)" if endpoint.deleting else ""),
        "release": _release(endpoint),
        "traffic": ", ".join(f"{name} {weight}%" for name, weight in endpoint.traffic.weights.items()),
        "routes": digest({"own": own, "split": split}),
        **parts,
    }


def digest(value: Any) -> str:
    """A short digest of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def moved(planned: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What differs, one phrase for each part; ``routes`` only where nothing else says it better."""
    parts = [part for part in planned if found.get(part) != planned[part]]
    if len(parts) > 1 and "routes" in parts:
        parts.remove("routes")
    return [
        "its routes were edited" if part == "routes" else f"its {part} was {planned[part]}, is {found.get(part)}"
        for part in parts
    ]


def _release(endpoint: Endpoint) -> str:
    release, last = endpoint.release, endpoint.last
    if release is not None:
        return f"'{release.id}' ({release.strategy} of {', '.join(release.candidates)}, {release.state})"
    if last is None:
        return "none"
    back = f", back to {last.previous.name}" if last.previous else ""
    return f"none ('{last.id}' {last.outcome}{back})"
