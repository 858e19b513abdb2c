"""What is the user's stays the user's: on the real API server, through a whole canary with promotion, rollback and removal."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from kubernetes import client

from mlflow_istio.core.objects import Object
from mlflow_istio.errors import MlflowIstioError, NotFound, StateConflict
from mlflow_istio.releases import removal
from tests.control_plane.namespaces import admin
from tests.control_plane.office import ENDPOINT, ISTIO, Office
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

_ABOVE: list[Object] = [
    {
        "name": "internal",
        "match": [
            {
                "uri": {"prefix": "/internal"},
                "withoutHeaders": {"x-user": {}},
                "headers": {"x-team": {"regex": "a|b"}},
                "queryParams": {"debug": {"exact": "1"}},
                "ignoreUriCase": True,
            }
        ],
        "rewrite": {"uri": "/"},
        "retries": {"attempts": 3, "perTryTimeout": "250ms", "retryOn": "5xx", "retryRemoteLocalities": True},
        "timeout": "1.5s",
        "fault": {"delay": {"percentage": {"value": 0.1}, "fixedDelay": "5s"}},
        "route": [
            {"destination": {"host": "legacy", "port": {"number": 80}}, "headers": {"request": {"set": {"a": "b"}}}}
        ],
    },
    {"match": [{"uri": {"exact": "/old"}}], "redirect": {"uri": "/new", "redirectCode": 308}},
]
_BELOW: Object = {"name": "never", "directResponse": {"status": 404, "body": {"string": "gone"}}}
_POLICY: Object = {
    "connectionPool": {"http": {"http1MaxPendingRequests": 512}},
    "outlierDetection": {"consecutive5xxErrors": 7, "interval": "5s"},
}
_SUBSET: Object = {"name": "legacy", "labels": {"tier": "old"}, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}
_SPLIT: Object = {
    "timeout": "20s",
    "retries": {"attempts": 2, "perTryTimeout": "9s"},
    "corsPolicy": {"allowOrigins": [{"exact": "https://example.com"}]},
    "headers": {"response": {"set": {"x-served-by": "models"}}},
}


def decorate(office: Office) -> None:
    """What users do to our objects: routes around ours, fields on ours, subsets, policy, labels and annotations."""
    found = office.raw("virtualservices")
    ours = [{**route, **_SPLIT} if route["name"].endswith(".split") else route for route in found["spec"]["http"]]
    found["spec"]["http"] = [*_ABOVE, *ours, _BELOW]
    found["spec"]["hosts"].append("m.example.com")
    found["spec"]["exportTo"] = ["."]
    found["metadata"]["annotations"]["team.example.com/owner"] = "søren\nline two"
    found["metadata"]["labels"]["team"] = "a"
    office.write_raw("virtualservices", found)
    rule = office.raw("destinationrules")
    rule["spec"]["subsets"] = [_SUBSET, *rule["spec"]["subsets"]]
    rule["spec"]["trafficPolicy"] = _POLICY
    rule["metadata"]["annotations"] = {"note": "theirs"}
    office.write_raw("destinationrules", rule)


def foreign(office: Office) -> str:
    """Everything on the two objects that is not ours, as one text."""
    found, rule = office.raw("virtualservices"), office.raw("destinationrules")
    routes = found["spec"]["http"]
    split = next(route for route in routes if route.get("name", "").endswith(".split"))
    seen = {
        "routes": [route for route in routes if not str(route.get("name", "")).startswith("mlflow-istio.")],
        "order": ["ours" if str(r.get("name", "")).startswith("mlflow-istio.") else r.get("name", "-") for r in routes],
        "split": {key: value for key, value in split.items() if key not in ("route", "mirrors")},
        "spec": {key: value for key, value in found["spec"].items() if key != "http"},
        "annotations": foreign_part(found["metadata"]["annotations"]),
        "labels": foreign_part(found["metadata"]["labels"]),
        "subsets": [subset for subset in rule["spec"]["subsets"] if not subset["name"].startswith("m-v")],
        "rule": {key: value for key, value in rule["spec"].items() if key != "subsets"},
        "rule annotations": rule["metadata"].get("annotations"),
    }
    order: list[str] = []
    for one in seen["order"]:
        if not (one == "ours" and order[-1:] == ["ours"]):
            order.append(one)
    return json.dumps({**seen, "order": order})


def foreign_part(texts: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in texts.items() if not key.startswith("mlflow-istio.org/")}


def test_routes_fields_subsets_labels_and_annotations_of_others_stay_byte_equal_through_a_whole_canary(
    office: Office,
) -> None:
    office.deploy(1)
    decorate(office)
    before = foreign(office)
    assert '"order": ["internal", "-", "ours", "never"]' in before

    seen: dict[str, str] = {}
    office.deploy(2)
    seen["deployed"] = foreign(office)
    office.canary(2, 10)
    seen["started"] = foreign(office)
    office.shift(55)
    seen["shifted"] = foreign(office)
    office.promote()
    seen["promoted"] = foreign(office)
    office.rollback()
    seen["rolled back"] = foreign(office)
    removal.delete(office.desk, "m-v2")
    seen["removed"] = foreign(office)

    assert {step: text for step, text in seen.items() if text != before} == {}
    assert office.count(10) == {"m/1": 10}


def test_pinned_users_get_the_splits_timeout_retries_cors_and_headers_and_nothing_of_it_is_left_after_removal(
    office: Office,
) -> None:
    office.deploy(1)
    decorate(office)
    office.deploy(2)

    routes = {route.get("name"): route for route in office.raw("virtualservices")["spec"]["http"]}
    pin = routes["mlflow-istio.m.pin.m-v2"]
    assert {field: pin[field] for field in _SPLIT} == _SPLIT

    removal.delete(office.desk, "m-v2")
    left = office.raw("virtualservices")["spec"]["http"]
    assert [route.get("name") for route in left] == [
        "internal",
        None,
        "mlflow-istio.m.probe",
        "mlflow-istio.m.pin.m-v1",
        "mlflow-istio.m.split",
        "never",
    ]
    assert office.raw("destinationrules")["spec"]["subsets"] == [
        _SUBSET,
        {"name": "m-v1", "labels": {"version": "m-v1"}},
    ]


def test_a_destination_of_somebody_else_in_the_split_is_never_removed(office: Office) -> None:
    office.deploy(1)
    found = office.raw("virtualservices")
    split = next(route for route in found["spec"]["http"] if route["name"].endswith(".split"))
    split["route"] = [{**split["route"][0], "weight": 90}, {"destination": {"host": "legacy"}, "weight": 10}]
    office.write_raw("virtualservices", found)
    office.deploy(2)

    office.canary(2, 30)
    office.shift(60)

    route = next(r for r in office.raw("virtualservices")["spec"]["http"] if r["name"].endswith(".split"))["route"]
    weights = {one["destination"].get("subset", one["destination"]["host"]): one.get("weight", 0) for one in route}
    assert "legacy" in weights
    assert weights["m-v2"] == 60
    assert sum(weights.values()) == 100


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        ("renamed", NotFound, "no http route named 'mlflow-istio.m.split'"),
        ("doubled", StateConflict, "2 http routes named 'mlflow-istio.m.split'"),
        ("redirected", StateConflict, "route 'mlflow-istio.m.split' is a redirect"),
    ],
)
def test_ambiguous_routes_are_refused_by_name_and_nothing_is_written(
    office: Office, damage: str, error: type[Exception], words: str
) -> None:
    office.deploy(1)
    office.deploy(2)
    found = office.raw("virtualservices")
    routes = found["spec"]["http"]
    if damage == "renamed":
        routes[-1]["name"] = "mine-now"
    elif damage == "doubled":
        routes[-1]["match"] = [{"uri": {"prefix": "/a"}}]
        routes.append({**routes[-1], "match": [{"uri": {"prefix": "/b"}}]})
    else:
        routes[-1] = {"name": routes[-1]["name"], "redirect": {"uri": "/elsewhere"}}
    stored = office.write_raw("virtualservices", found)

    with pytest.raises(error, match=words):
        office.canary(2, 10)

    assert office.raw("virtualservices")["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]


def test_a_gitops_tool_that_applies_without_our_routes_is_noticed_and_named(office: Office) -> None:
    """Self-heal with its own copy of spec.http wipes ours: the next verb says so instead of writing over it."""
    office.deploy(1)
    office.deploy(2)
    found = office.raw("virtualservices")
    found["spec"]["http"] = [{"name": "from-git", "route": [{"destination": {"host": ENDPOINT, "subset": "m-v1"}}]}]
    office.write_raw("virtualservices", found)

    with pytest.raises(NotFound, match="somebody renamed or removed it; restore it"):
        office.canary(2, 10)

    assert [route["name"] for route in office.raw("virtualservices")["spec"]["http"]] == ["from-git"]


def test_our_field_manager_stands_on_what_we_wrote_and_theirs_stays_on_theirs(office: Office) -> None:
    office.deploy(1)
    body = {
        "apiVersion": "/".join(ISTIO),
        "kind": "VirtualService",
        "metadata": {"name": ENDPOINT, "labels": {"team": "a"}},
    }
    with admin() as api:
        applying = client.ApiClient(api.configuration)
        applying.set_default_header("Content-Type", "application/apply-patch+yaml")
        client.CustomObjectsApi(applying).patch_namespaced_custom_object(
            *ISTIO, office.namespace, "virtualservices", ENDPOINT, body, field_manager="gitops", force=True
        )
    office.deploy(2)

    managers = {one["manager"]: one for one in office.raw("virtualservices")["metadata"]["managedFields"]}
    assert set(managers) == {"mlflow-istio", "gitops"}
    assert managers["gitops"]["fieldsV1"] == {"f:metadata": {"f:labels": {"f:team": {}}}}
    assert "f:http" in managers["mlflow-istio"]["fieldsV1"]["f:spec"]


def test_a_canary_and_another_writer_of_the_same_object_lose_nothing_of_each_other(office: Office) -> None:
    office.deploy(1)
    office.deploy(2)
    office.canary(2, 0)
    written = 0
    stop = threading.Event()

    def annotate() -> None:
        nonlocal written
        with admin() as api:
            custom = client.CustomObjectsApi(api)
            while not stop.is_set():
                patch = {"metadata": {"annotations": {f"other/{written}": "x"}}}
                custom.patch_namespaced_custom_object(*ISTIO, office.namespace, "virtualservices", ENDPOINT, patch)
                written += 1

    writer = threading.Thread(target=annotate)
    writer.start()
    try:
        for weight in (10, 20, 30, 40, 50):
            office.shift(weight)
    finally:
        stop.set()
        writer.join()

    found = office.raw("virtualservices")["metadata"]["annotations"]
    assert written > 5
    assert {key for key in found if key.startswith("other/")} == {f"other/{number}" for number in range(written)}
    changes = office.registry.history(office.namespace, ENDPOINT)
    shifts = [change.after.weights["m-v2"] for change in changes if change.action == "shift" and change.after]
    assert shifts == [10, 20, 30, 40, 50]


def test_of_two_releases_at_once_one_wins_and_the_other_is_told_its_id(office: Office) -> None:
    for version in (1, 2, 3):
        office.deploy(version)
    results: dict[int, Any] = {}
    barrier = threading.Barrier(2)

    def start(version: int) -> None:
        barrier.wait()
        try:
            results[version] = office.canary(version, 10)
        except MlflowIstioError as exc:
            results[version] = exc

    threads = [threading.Thread(target=start, args=(version,)) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (loser,) = [result for result in results.values() if isinstance(result, Exception)]
    (winner,) = [result for result in results.values() if not isinstance(result, Exception)]
    assert isinstance(loser, StateConflict)
    assert f"open release '{winner.endpoint.release.id}'" in str(loser)
    assert sum(winner.endpoint.traffic.weights.values()) == 100


def test_a_service_and_a_destination_rule_that_were_there_first_are_used_as_they_are(office: Office) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": ENDPOINT, "labels": {"team": "a"}},
        "spec": {"selector": {"app": ENDPOINT}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }
    rule = {
        "apiVersion": "/".join(ISTIO),
        "kind": "DestinationRule",
        "metadata": {"name": ENDPOINT},
        "spec": {"host": ENDPOINT, "trafficPolicy": _POLICY, "subsets": [_SUBSET]},
    }
    with admin() as api:
        client.CoreV1Api(api).create_namespaced_service(office.namespace, service)
        client.CustomObjectsApi(api).create_namespaced_custom_object(*ISTIO, office.namespace, "destinationrules", rule)
    there = office.cluster.get("Service", ENDPOINT)

    office.deploy(1)

    assert office.cluster.get("Service", ENDPOINT) == there
    assert office.raw("destinationrules")["spec"] == {
        **rule["spec"],
        "subsets": [_SUBSET, {"name": "m-v1", "labels": {"version": "m-v1"}}],
    }
    assert office.count(5) == {"m/1": 5}


def test_a_virtual_service_of_somebody_else_by_the_endpoints_name_is_refused(office: Office) -> None:
    theirs = {
        "apiVersion": "/".join(ISTIO),
        "kind": "VirtualService",
        "metadata": {"name": ENDPOINT},
        "spec": {"hosts": [ENDPOINT], "http": [{"route": [{"destination": {"host": ENDPOINT}}]}]},
    }
    with admin() as api:
        client.CustomObjectsApi(api).create_namespaced_custom_object(
            *ISTIO, office.namespace, "virtualservices", theirs
        )

    with pytest.raises(StateConflict, match="VirtualService 'm' exists and is not ours"):
        office.deploy(1)

    assert office.raw("virtualservices")["spec"] == theirs["spec"]
    assert office.cluster.list("Deployment", {}) == []


def test_an_autoscalers_replicas_survive_the_same_create_given_again(office: Office) -> None:
    office.deploy(1)
    with admin() as api:
        scale = {"spec": {"replicas": 3}}
        client.AppsV1Api(api).patch_namespaced_deployment_scale("m-v1", office.namespace, scale)

    office.deploy(1)

    found = office.cluster.get("Deployment", "m-v1")
    assert found is not None
    assert found["spec"]["replicas"] == 3
    assert found["status"]["readyReplicas"] == 3


def test_deleting_the_endpoint_takes_its_pods_and_leaves_the_namespace_as_it_was(office: Office) -> None:
    office.deploy(1)
    office.deploy(2)

    assert removal.delete_endpoint(office.desk, ENDPOINT) is True

    for kind in ("VirtualService", "DestinationRule", "Deployment", "Service"):
        assert office.cluster.list(kind, {}) == []
    with admin() as api:
        core = client.CoreV1Api(api)
        wait_for("the pods to end", lambda: not core.list_namespaced_pod(office.namespace).items)
    assert removal.delete_endpoint(office.desk, ENDPOINT) is False
