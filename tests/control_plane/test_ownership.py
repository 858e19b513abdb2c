"""The user's objects on a real cluster: what is not ours is never changed, and what is unclear is refused."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict
from mlflow_istio.releases.deploying import deployments
from mlflow_istio.releases.moving import shifting
from tests.control_plane.foreign import (
    FOREIGN_ROUTE_BELOW,
    FOREIGN_ROUTES_ABOVE,
    FOREIGN_SHARE,
    SPLIT,
    SPLIT_FIELDS,
    History,
    foreign_parts,
    route_named,
    route_names,
    start,
    weights,
    with_foreign_parts,
    with_foreign_subset,
)
from tests.control_plane.namespaces import admin
from tests.control_plane.office import ENDPOINT, ISTIO, Office
from tests.control_plane.standing import edit_as_user, scale

pytestmark = pytest.mark.control_plane

OTHER_ALIASES = {"stable_alias": "n-champion", "candidate_alias": "n-challenger"}


def test_what_is_not_ours_stays_equal_through_canary_promotion_rollback_ab_blue_green_shadow_and_a_new_version(
    settled: Office,
) -> None:
    edit_as_user(settled, "virtualservices", with_foreign_parts)
    edit_as_user(settled, "destinationrules", with_foreign_subset)
    before = foreign_parts(settled)
    assert before["routes"] == [*FOREIGN_ROUTES_ABOVE, FOREIGN_ROUTE_BELOW], "the API server keeps what the user wrote"
    assert before["order"] == ["theirs", "ours", "theirs"]

    steps: list[Callable[[], object]] = [
        lambda: settled.canary(2, 10),
        lambda: settled.shift(50),
        settled.promote,
        settled.rollback,
        lambda: start(settled, "shadow", 2, mirror=100),
        lambda: shifting.abort(settled.context, ENDPOINT),
        lambda: start(
            settled, "ab", 2, 3, header="x-arm", weights={"m-v1": 40, "m-v2": 30, "m-v3": 30, "legacy:80": 0}
        ),
        lambda: shifting.abort(settled.context, ENDPOINT),
        lambda: start(settled, "blue-green", 3),
        settled.promote,
        lambda: settled.deploy(4),
        lambda: deployments.update(settled.context, "m-v4", env={"A": "b"}),
        settled.rollback,
    ]
    for number, step in enumerate(steps):
        step()
        assert foreign_parts(settled) == before, f"after step {number}"
        assert settled.ask(path="/docs")[0] == 200
    assert settled.count(20) == {"m/1": 20}
    from mlflow_istio.releases.deploying.removal import delete

    delete(settled.context, "m-v4")
    assert foreign_parts(settled) == before


def test_a_foreign_destination_with_weight_keeps_it_and_its_requests_until_somebody_says_otherwise(
    settled: Office,
) -> None:
    def with_share(virtual_service: Object) -> Object:
        found = with_foreign_parts(virtual_service)
        split = route_named(found, SPLIT)
        split["route"][0]["weight"], split["route"][-1]["weight"] = 80, 20
        return found

    edit_as_user(settled, "virtualservices", with_share)

    settled.canary(2, 10)
    assert weights(settled) == {"m-v1": 70, "m-v2": 10, "legacy:80": 20}
    stored = settled.raw("virtualservices")
    for traffic_request, words in (
        (TrafficRequest(weight=90), "weights of the candidates are over 100 together: m-v2=90, legacy:80=20"),
        (TrafficRequest(weights={"m-v1": 90, "m-v2": 10}), "must name every destination: 'legacy:80' is missing"),
        (TrafficRequest(weights={"m-v1": 0, "m-v2": 0, "legacy:80": 0}), "weights must sum to 100, not 0"),
    ):
        with pytest.raises(InvalidInput, match=words):
            shifting.shift(settled.context, ENDPOINT, traffic_request)
    assert settled.raw("virtualservices") == stored

    settled.promote()
    assert weights(settled) == {"m-v2": 80, "legacy:80": 20}
    shifting.rollback(settled.context, ENDPOINT)
    assert weights(settled) == {"m-v1": 80, "legacy:80": 20}
    assert foreign_parts(settled)["destinations"] == [{**FOREIGN_SHARE, "weight": 20}]


def twice(virtual_service: Object) -> Object:
    routes = virtual_service["spec"]["http"]
    copy_of_split = {**route_named(virtual_service, SPLIT), "match": [{"uri": {"prefix": "/other"}}]}
    return {**virtual_service, "spec": {**virtual_service["spec"], "http": [copy_of_split, *routes]}}


def without_name(virtual_service: Object) -> Object:
    routes = [
        {key: value for key, value in route.items() if key != "name"} if route.get("name") == SPLIT else route
        for route in virtual_service["spec"]["http"]
    ]
    return {**virtual_service, "spec": {**virtual_service["spec"], "http": routes}}


def redirected(virtual_service: Object) -> Object:
    routes = [
        {"name": SPLIT, "redirect": {"uri": "/gone"}} if route.get("name") == SPLIT else route
        for route in virtual_service["spec"]["http"]
    ]
    return {**virtual_service, "spec": {**virtual_service["spec"], "http": routes}}


def overweight(virtual_service: Object) -> Object:
    found = copy.deepcopy(virtual_service)
    split = route_named(found, SPLIT)
    split["route"] = [
        {**split["route"][0], "weight": 70},
        {"destination": {"host": ENDPOINT, "subset": "m-v2"}, "weight": 50},
    ]
    routes = [split if route.get("name") == SPLIT else route for route in found["spec"]["http"]]
    return {**found, "spec": {**found["spec"], "http": routes}}


@pytest.mark.parametrize(
    ("edit", "error", "words"),
    [
        (twice, StateConflict, f"has 2 http routes named '{SPLIT}': give each its own name"),
        (without_name, NotFound, f"has no http route named '{SPLIT}'.*somebody renamed or removed it"),
        (redirected, StateConflict, f"route '{SPLIT}' is a redirect, which carries no split"),
        (overweight, StateConflict, f"route '{SPLIT}' .* was edited to something no split can be .*not 120"),
    ],
)
def test_a_route_that_is_not_clear_is_named_and_nothing_is_changed(
    settled: Office, edit: Callable[[Object], Object], error: type[Exception], words: str
) -> None:
    stored = edit_as_user(settled, "virtualservices", edit)
    for verb in (lambda: settled.canary(2, 10), settled.rollback, lambda: settled.deploy(4)):
        with pytest.raises(error, match=words) as caught:
            verb()
        assert "\n" not in str(caught.value)
    assert settled.raw("virtualservices") == stored
    assert settled.cluster.get("Deployment", "m-v4") is None


@pytest.mark.parametrize(
    ("end", "stable"),
    [
        (lambda office: office.promote(), "m-v2"),
        (lambda office: office.rollback(), "m-v1"),
        (lambda office: shifting.abort(office.context, ENDPOINT), "m-v1"),
    ],
    ids=["promote", "rollback", "abort"],
)
@pytest.mark.parametrize(
    ("strategy", "traffic_request", "added"),
    [
        ("ab", {"weight": 30, "header": "x-arm"}, {"mlflow-istio.m.arm.m-v1", "mlflow-istio.m.arm.m-v2"}),
        ("ab", {"weight": 30, "cookie": "arm"}, {"mlflow-istio.m.arm.m-v1", "mlflow-istio.m.arm.m-v2"}),
        ("shadow", {"mirror": 100}, set()),
    ],
    ids=["header", "cookie", "shadow"],
)
def test_temporary_routes_do_as_the_split_does_and_are_gone_after_the_end(
    settled: Office,
    strategy: str,
    traffic_request: dict[str, Any],
    added: set[str],
    end: Callable[[Office], object],
    stable: str,
) -> None:
    edit_as_user(settled, "virtualservices", with_foreign_parts)
    before = route_names(settled)

    start(settled, strategy, 2, **traffic_request)

    during = settled.raw("virtualservices")
    assert set(route_names(settled)) - set(before) == added
    for name in added:
        arm = route_named(during, name)
        assert {field: arm.get(field) for field in SPLIT_FIELDS} == SPLIT_FIELDS
        assert route_names(settled).index(name) < route_names(settled).index(SPLIT)
    assert bool(route_named(during, SPLIT).get("mirrors")) == (strategy == "shadow")

    end(settled)

    after = route_named(settled.raw("virtualservices"), SPLIT)
    # A route that expires the cookies of a release that is over stays until its own deadline.
    left = [name for name in route_names(settled) if not name.startswith("mlflow-istio.m.expire.")]
    assert left == [name for name in before if not name.startswith("mlflow-istio.m.expire.")]
    assert "mirrors" not in after
    assert "set-cookie" not in str(after)
    assert {entry["destination"].get("subset"): entry["weight"] for entry in after["route"]}[stable] == 100
    assert foreign_parts(settled)["destinations"] == [FOREIGN_SHARE]


def test_we_write_as_mlflow_istio_and_other_managers_keep_their_fields(settled: Office) -> None:
    with admin() as api, admin() as applying:
        applying.set_default_header("Content-Type", "application/apply-patch+yaml")
        core = client.CoreV1Api(applying)
        theirs = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": ENDPOINT, "labels": {"argocd.argoproj.io/instance": "churn"}},
        }
        core.patch_namespaced_service(ENDPOINT, settled.namespace, theirs, field_manager="argocd", force=True)
        edit_as_user(settled, "virtualservices", with_foreign_parts)

        settled.canary(2, 10)
        settled.deploy(2)

        service = client.CoreV1Api(api).read_namespaced_service(ENDPOINT, settled.namespace)
        assert service.metadata.labels["argocd.argoproj.io/instance"] == "churn"
        managers = {entry.manager: entry for entry in service.metadata.managed_fields}
        assert managers["mlflow-istio"].operation == "Apply"
        assert "f:argocd.argoproj.io/instance" in managers["argocd"].fields_v1["f:metadata"]["f:labels"]
    entries = {
        entry["manager"]: entry["fieldsV1"] for entry in settled.raw("virtualservices")["metadata"]["managedFields"]
    }
    assert "f:http" in entries["mlflow-istio"]["f:spec"]
    assert "f:exportTo" in entries["somebody-else"]["f:spec"]
    assert "f:example.com/owner" in entries["somebody-else"]["f:metadata"]["f:annotations"]


def test_two_writers_at_once_lose_nothing_of_each_others(settled: Office) -> None:
    """Somebody writes between our read and our write, again and again: each of our attempts meets a real conflict."""
    settled.canary(2, 10)
    history, written = History(settled), []

    def interrupted(now: Endpoint) -> Endpoint:
        if len(written) < 5:
            written.append(len(written) + 1)
            with admin() as api:
                client.CustomObjectsApi(api).patch_namespaced_custom_object(
                    *ISTIO,
                    settled.namespace,
                    "virtualservices",
                    ENDPOINT,
                    {"metadata": {"annotations": {"example.com/count": str(written[-1])}}},
                    field_manager="somebody-else",
                )
        return transitions.shift(now, TrafficRequest(weight=30))

    outcome = shifting.move(settled.context, ENDPOINT, interrupted, action="shift")

    assert outcome.changed
    assert written == [1, 2, 3, 4, 5]
    found = settled.raw("virtualservices")
    assert found["metadata"]["annotations"]["example.com/count"] == "5"
    assert weights(settled) == {"m-v1": 70, "m-v2": 30}
    assert history.steps() == [("shift", {"m-v1": 70, "m-v2": 30})]


def test_a_host_of_another_virtual_service_is_refused_with_its_name(settled: Office) -> None:
    """With the same host twice at one gateway Istio keeps the older one's routes, and the proof would hang in a 404."""
    host, gateway = f"shop.{settled.namespace}.example.com", os.environ["MLFLOW_ISTIO_GATEWAY"]
    shop = {
        "apiVersion": "/".join(ISTIO),
        "kind": "VirtualService",
        "metadata": {"name": "shop"},
        "spec": {
            "hosts": [host],
            "gateways": [gateway],
            "http": [{"directResponse": {"status": 200, "body": {"string": "shop"}}}],
        },
    }
    with admin() as api:
        custom = client.CustomObjectsApi(api)
        custom.create_namespaced_custom_object(*ISTIO, settled.namespace, "virtualservices", shop)
        with pytest.raises(
            StateConflict, match=f"host '{host}' at gateway '{gateway}' belongs to VirtualService 'shop'"
        ):
            settled.deploy(1, name="n-v1", endpoint="n", hosts=(host,), settings=OTHER_ALIASES)
        assert settled.cluster.get("Deployment", "n-v1") is None
        assert settled.cluster.get("Service", "n") is None
        custom.delete_namespaced_custom_object(*ISTIO, settled.namespace, "virtualservices", "shop")


def test_a_disruption_budget_and_an_autoscaler_of_the_users_are_left_alone_and_its_replicas_stay(
    settled: Office,
) -> None:
    budget = {
        "metadata": {"name": "m"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": ENDPOINT, "version": "m-v2"}}},
    }
    scaler = {
        "metadata": {"name": "m-v2"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "m-v2"},
            "minReplicas": 2,
            "maxReplicas": 4,
        },
    }
    with admin() as api:
        policy, autoscaling = client.PolicyV1Api(api), client.AutoscalingV2Api(api)
        apps = client.AppsV1Api(api)
        policy.create_namespaced_pod_disruption_budget(settled.namespace, budget)
        autoscaling.create_namespaced_horizontal_pod_autoscaler(settled.namespace, scaler)

        def specs() -> list[Any]:
            found = policy.read_namespaced_pod_disruption_budget("m", settled.namespace)
            return [found.spec, autoscaling.read_namespaced_horizontal_pod_autoscaler("m-v2", settled.namespace).spec]

        def replicas() -> int:
            return int(apps.read_namespaced_deployment("m-v2", settled.namespace).spec.replicas)

        before = specs()
        scale(settled.namespace, "m-v2", 2, manager="horizontal-pod-autoscaler")  # what the autoscaler does

        settled.deploy(2, strategy="canary", traffic_request=TrafficRequest(weight=10))
        assert replicas() == 2
        deployments.update(settled.context, "m-v2", env={"A": "b"})
        assert replicas() == 2
        settled.promote()
        settled.rollback()
        assert replicas() == 2
        assert specs() == before
        policy.delete_namespaced_pod_disruption_budget("m", settled.namespace)
        autoscaling.delete_namespaced_horizontal_pod_autoscaler("m-v2", settled.namespace)
