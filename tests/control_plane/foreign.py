"""What a user puts beside our routes, and how to look whether it is still there."""

from __future__ import annotations

import copy
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.releases.moving import shifting
from tests.control_plane.office import ENDPOINT, Office

SPLIT = "mlflow-istio.m.split"
OURS = "mlflow-istio."
FOREIGN_ROUTES_ABOVE: list[Object] = [
    {
        "name": "docs",
        "match": [{"uri": {"prefix": "/docs"}, "withoutHeaders": {"x-internal": {"exact": "yes"}}}],
        "directResponse": {"status": 200, "body": {"string": "the user's docs"}},
    },
    {
        "name": "old-api",
        "match": [{"uri": {"prefix": "/v0"}, "method": {"exact": "GET"}}],
        "redirect": {"uri": "/v1", "redirectCode": 308},
    },
]
FOREIGN_ROUTE_BELOW: Object = {
    "route": [{"destination": {"host": "old", "subset": "m-v9"}}],
    "timeout": "7s",
    "retries": {"attempts": 3, "perTryTimeout": "2s", "retryOn": "5xx"},
    "fault": {"delay": {"percentage": {"value": 0.5}, "fixedDelay": "0.001s"}},
}
SPLIT_FIELDS: Object = {
    "timeout": "20s",
    "retries": {"attempts": 1, "retryOn": "connect-failure"},
    "headers": {"request": {"set": {"x-user": "theirs"}}, "response": {"set": {"x-from": "split"}}},
    "corsPolicy": {"allowOrigins": [{"exact": "https://example.com"}], "maxAge": "1h"},
}
FOREIGN_SHARE: Object = {
    "destination": {"host": "legacy", "port": {"number": 80}},
    "weight": 0,
    "headers": {"response": {"set": {"x-legacy": "1"}}},
}
FOREIGN_SUBSET: Object = {
    "name": "theirs",
    "labels": {"tier": "gold"},
    "trafficPolicy": {"connectionPool": {"http": {"maxRetries": 2}}},
}


def with_foreign_parts(virtual_service: Object) -> Object:
    """A VirtualService to which its user has added routes, a destination, fields, a label and an annotation."""
    found = copy.deepcopy(virtual_service)
    found["metadata"]["labels"]["team"] = "churn"
    found["metadata"].setdefault("annotations", {})["example.com/owner"] = "ada"
    spec = found["spec"]
    spec["exportTo"] = ["*"]
    split = next(route for route in spec["http"] if route.get("name") == SPLIT)
    split.update(copy.deepcopy(SPLIT_FIELDS))
    split["route"].append(copy.deepcopy(FOREIGN_SHARE))
    spec["http"] = [*copy.deepcopy(FOREIGN_ROUTES_ABOVE), *spec["http"], copy.deepcopy(FOREIGN_ROUTE_BELOW)]
    return found


def with_foreign_subset(rule: Object) -> Object:
    found = copy.deepcopy(rule)
    found["metadata"]["labels"]["team"] = "churn"
    found["spec"]["trafficPolicy"] = {"outlierDetection": {"consecutive5xxErrors": 7}}
    found["spec"]["subsets"] = [copy.deepcopy(FOREIGN_SUBSET), *found["spec"]["subsets"]]
    return found


def foreign_parts(office: Office) -> Any:
    """All that is not ours on the endpoint's Istio objects, as the API server has it."""
    found, rule = office.raw("virtualservices"), office.raw("destinationrules")
    theirs = [route for route in found["spec"]["http"] if not str(route.get("name", "")).startswith(OURS)]
    split = route_named(found, SPLIT)
    destinations = [entry for entry in split["route"] if entry["destination"]["host"] != ENDPOINT]
    fields = {key: value for key, value in split.items() if key not in ("name", "route", "mirrors")}
    annotations = {k: v for k, v in found["metadata"]["annotations"].items() if not k.startswith("mlflow-istio.org/")}
    spec = {key: value for key, value in found["spec"].items() if key != "http"}
    order = ["ours" if str(route.get("name", "")).startswith(OURS) else "theirs" for route in found["spec"]["http"]]
    runs = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    return {
        "routes": theirs,
        "order": runs,
        "fields": fields,
        "destinations": destinations,
        "annotations": annotations,
        "labels": found["metadata"]["labels"],
        "spec": spec,
        "rule": {key: value for key, value in rule["spec"].items() if key != "subsets"},
        "rule's labels": rule["metadata"]["labels"],
        "subsets": [subset for subset in rule["spec"]["subsets"] if not subset["name"].startswith("m-v")],
    }


def route_named(virtual_service: Object, name: str) -> Object:
    (found,) = (route for route in virtual_service["spec"]["http"] if route.get("name") == name)
    return dict(found)


def route_names(office: Office) -> list[str]:
    return [str(route.get("name", "")) for route in office.raw("virtualservices")["spec"]["http"]]


def weights(office: Office) -> dict[str, int]:
    return read_endpoint(office.raw("virtualservices"), ENDPOINT).traffic.weights


class History:
    """The changes recorded since a moment; the objects of an earlier moment count from there again."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._before = {change.id for change in self._all()}

    def _all(self) -> list[RoutingChange]:
        return list(self._office.registry.history(self._office.namespace, ENDPOINT))

    def steps(self) -> list[tuple[str, dict[str, int]]]:
        """Action and weights after it."""
        new = (change for change in self._all() if change.id not in self._before)
        return [(change.action, change.after.weights if change.after else {}) for change in new]


def start(office: Office, strategy: str, *versions: int, supersede: bool = False, **traffic_request: Any) -> None:
    names = tuple(f"m-v{version}" for version in versions)
    shifting.start(
        office.context,
        ENDPOINT,
        strategy=strategy,
        candidates=names,
        traffic_request=TrafficRequest(**traffic_request),
        supersede=supersede,
        timeout=60,
    )
