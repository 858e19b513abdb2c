"""Values that the tests of the core and of the use-cases start from: endpoint ``churn`` with deployments v1, v2, v3."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from mlflow_istio.core.basics.objects import Object, with_annotations
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import ChangeMetadata, Endpoint, state_annotations
from mlflow_istio.core.endpoint.release_state import Assignment, Release
from mlflow_istio.core.endpoint.traffic import Destination, Traffic, WeightedDestination
from mlflow_istio.core.mesh.manifests import virtual_service_manifest
from mlflow_istio.core.mesh.virtual_service import changed, first_endpoint, read_endpoint, write_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest, assignment_for
from mlflow_istio.wiring.connection import load_templates

TIME = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=timezone.utc)
TEMPLATES = load_templates(None)
LEGACY = Destination(host="legacy.old.svc.cluster.local", port=8080)
OTHER = Destination(host="other")
VERSIONS = {"v1": "churn/1", "v2": "churn/2", "v3": "churn/3"}


def own(name: str) -> Destination:
    """One of our deployments as a destination."""
    return Destination(host="churn", subset=name)


def split(**weights: int) -> tuple[WeightedDestination, ...]:
    """Shares of our deployments; ``legacy`` stands for the foreign service."""
    return tuple(
        WeightedDestination(destination=LEGACY if name == "legacy" else own(name), weight=weight)
        for name, weight in weights.items()
    )


def an_endpoint(weights: Mapping[str, int] | None = None, **changes: Any) -> Endpoint:
    """v1 is stable with all the traffic, v2 and v3 wait."""
    values: dict[str, Any] = {
        "name": "churn",
        "traffic": Traffic(split=split(**(weights or {"v1": 100})), pins=("v1", "v2", "v3")),
        "stable": own("v1"),
        "route": "mlflow-istio.churn.split",
    }
    return Endpoint(**{**values, **changes})


def a_release(
    strategy: str = "canary", *candidates: str, traffic_request: TrafficRequest | None = None, **changes: Any
) -> Release:
    """A release of v2, with the assignment that an A/B needs."""
    names = candidates or ("v2",)
    assignment: Assignment | None = None
    release_id = str(changes.get("id", "r1"))
    if strategy == "ab":
        assignment = assignment_for(release_id, ("v1", *names), traffic_request or TrafficRequest(header="x-arm"))
    values: dict[str, Any] = {
        "id": release_id,
        "strategy": strategy,
        "candidates": names,
        "opened": TIME,
        "who": "me",
        "run": f"run-{release_id}",
        "assignment": assignment,
    }
    return Release(**{**values, **changes})


def started(
    strategy: str = "canary", *candidates: str, traffic_request: TrafficRequest | None = None, **changes: Any
) -> Endpoint:
    """An endpoint with an open release."""
    given = traffic_request or {"ab": TrafficRequest(header="x-arm"), "shadow": TrafficRequest(mirror=25)}.get(
        strategy, TrafficRequest(weight=0)
    )
    return transitions.start(an_endpoint(**changes), a_release(strategy, *candidates, traffic_request=given), given)


def a_stamp(change_id: str = "c1", action: str = "shift", **changes: Any) -> ChangeMetadata:
    """Who, when and why of a change."""
    values: dict[str, Any] = {"id": change_id, "time": TIME, "who": "me", "action": action, "versions": VERSIONS}
    return ChangeMetadata(**{**values, **changes})


def a_virtual_service(endpoint: Endpoint | None = None, **with_change: Any) -> Object:
    """A VirtualService of our own that carries an endpoint."""
    bare = virtual_service_manifest(TEMPLATES["VirtualService"], "churn")
    return first_endpoint(bare, endpoint or an_endpoint(), a_stamp("c0", "deploy", **with_change))


def carrying(endpoint: Endpoint) -> Object:
    """A VirtualService of our own that carries an endpoint just as it is, without a change of its own."""
    return write_endpoint(a_virtual_service(), endpoint)


def moved(
    virtual_service: Object, transition: Any, change_id: str, action: str = "shift", **with_change: Any
) -> Object:
    """The VirtualService after a transition, as the edit does it."""
    after = transition(read_endpoint(virtual_service, "churn"))
    return changed(virtual_service, after, a_stamp(change_id, action, **with_change))


def adopted(**base: Any) -> Object:
    """A user's own VirtualService whose route ``main`` carries the split: legacy is stable, another service has 30%.

    Args:
        base: Fields of the route ``main`` beside those it has, or instead of them.
    """
    main = {
        "name": "main",
        "match": [{"uri": {"prefix": "/api"}}],
        "route": [
            {"destination": to_json(LEGACY), "weight": 70, "headers": {"request": {"set": {"x-old": "1"}}}},
            {"destination": to_json(OTHER), "weight": 30},
        ],
        "timeout": "3s",
        "retries": {"attempts": 2, "retryOn": "5xx"},
        "aFieldOfTomorrow": {"deep": [1, None, "x"]},
        **base,
    }
    theirs: Object = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {
            "name": "shop",
            "resourceVersion": "41",
            "labels": {"argocd": "yes"},
            "annotations": {"team": "risk"},
        },
        "spec": {
            "hosts": ["shop.example"],
            "http": [
                {"name": "docs", "match": [{"uri": {"exact": "/docs"}}], "redirect": {"uri": "/help"}},
                main,
                {"route": [{"destination": {"host": "shop"}}], "unknown": True},
            ],
            "tcp": [{"route": [{"destination": {"host": "db"}}]}],
        },
    }
    traffic = Traffic(
        split=(WeightedDestination(destination=LEGACY, weight=70), WeightedDestination(destination=OTHER, weight=30)),
        pins=("v1", "v2", "v3"),
    )
    endpoint = an_endpoint(traffic=traffic, stable=LEGACY, route="main", sequence=1, change="c0")
    return with_annotations(theirs, state_annotations(endpoint)) | {
        "spec": {
            **theirs["spec"],
            "http": [
                theirs["spec"]["http"][0],
                *(pin_route(name) for name in ("v1", "v2", "v3")),
                *theirs["spec"]["http"][1:],
            ],
        }
    }


def pin_route(name: str) -> Object:
    """The header route of a deployment as it stands in the adopted VirtualService."""
    return {
        "name": f"mlflow-istio.churn.pin.{name}",
        "match": [{"uri": {"prefix": "/api"}, "headers": {"x-mlflow-deployment": {"exact": name}}}],
        "route": [{"destination": to_json(own(name))}],
    }


def names(virtual_service: Object) -> list[str]:
    """Names of the http routes, in order."""
    return [route.get("name", "") for route in virtual_service["spec"]["http"]]


def route(virtual_service: Object, name: str) -> Object:
    """The only http route of that name."""
    (found,) = (route for route in virtual_service["spec"]["http"] if route.get("name") == name)
    return dict(found)


def with_match(virtual_service: Object, match: list[Object] | None) -> Object:
    """The VirtualService after its owner gave the split's route another match."""
    http = []
    for entry in virtual_service["spec"]["http"]:
        if entry["name"] == "mlflow-istio.churn.split":
            entry = {key: value for key, value in entry.items() if key != "match"} | ({"match": match} if match else {})
        http.append(entry)
    return {**virtual_service, "spec": {**virtual_service["spec"], "http": http}}


def canary(now: Endpoint) -> Endpoint:
    """Start a canary of v2 at 10%."""
    return transitions.start(now, a_release(), TrafficRequest(weight=10))


def by_header(now: Endpoint) -> Endpoint:
    """Start an A/B of v2 by the header x-arm at 50%."""
    return transitions.start(now, a_release("ab"), TrafficRequest(header="x-arm", weight=50))
