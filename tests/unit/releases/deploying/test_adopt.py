"""The use-case of adopting a route, on in-memory ports: who may, what is written, what is given back."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object, with_annotations
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, NotReady, StateConflict
from mlflow_istio.releases.context import address_of, endpoint_names, existing_endpoint
from mlflow_istio.releases.deploying.adoption import adopt, adopt_and_deploy
from mlflow_istio.releases.deploying.removal import delete, delete_endpoint
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reading.views import endpoint_view, endpoint_views
from tests.support.in_memory import World, a_request, a_shop, with_shop


def taken(world: World, **options: Any) -> Any:
    return adopt(world.context, "churn", **{"virtual_service": "shop", "route": "main", **options})


def as_applied(world: World, name: str = "shop") -> Object:
    found = world.cluster.get("VirtualService", name)
    assert found is not None
    return {**found, "metadata": {k: v for k, v in found["metadata"].items() if k != "resourceVersion"}}


def test_the_whole_job_from_a_foreign_stable_and_back() -> None:
    world = with_shop()
    outcome = taken(world)
    assert outcome.changed
    assert outcome.proxies == ("in-memory",)
    assert world.warnings == []
    world.deploy("churn-v1", strategy="canary", traffic_request=TrafficRequest(weight=10))
    assert world.endpoint().traffic.weights == {"web": 90, "churn-v1": 10}
    shifting.promote(world.context, "churn")
    assert world.endpoint().traffic.weights == {"churn-v1": 100, "web": 0}
    shifting.rollback(world.context, "churn")
    assert world.endpoint().traffic.weights == {"web": 100}
    assert world.history() == [(1, "adopt"), (2, "deploy"), (3, "start"), (4, "promote"), (5, "rollback")]
    assert delete_endpoint(world.context, "churn")
    assert as_applied(world) == a_shop()
    assert [obj["kind"] for obj in world.objects()] == ["VirtualService"]
    assert world.history()[-1] == (6, "delete")
    assert not delete_endpoint(world.context, "churn")


def test_a_deployment_of_an_adopted_route_can_be_taken_away() -> None:
    world = with_shop()
    taken(world)
    world.deploy("churn-v1")
    assert delete(world.context, "churn-v1") is not None
    assert world.endpoint().traffic.pins == ()


def above(*routes: Object, **spec: Any) -> World:
    """A shop with routes of its owner's above ``main``."""
    shop = a_shop()
    shop["spec"] = {**shop["spec"], **spec, "http": [*routes, *shop["spec"]["http"]]}
    return with_shop(shop)


def to_admin(*match: Object) -> Object:
    return {
        "name": "admin",
        **({"match": list(match)} if match else {}),
        "route": [{"destination": {"host": "admin"}}],
    }


@pytest.mark.parametrize(
    ("route", "spec"),
    [
        (to_admin({"authority": {"exact": "admin.example"}}), {"hosts": ["admin.example", "shop.example"]}),
        (to_admin({"gateways": ["front.infra"]}), {"gateways": ["infra/front", "mesh"]}),
        (to_admin({"scheme": {"exact": "https"}}), {}),
        (to_admin({"headers": {"X-Admin": {"regex": "*"}}}), {}),
        ({"name": "support", "delegate": {"name": "chat", "namespace": "team-b"}}, {}),
    ],
)
def test_a_route_above_that_can_not_take_its_requests_does_not_block_it(route: Object, spec: Any) -> None:
    world = above(route, **spec)
    before = as_applied(world)
    assert taken(world).proxies == ("in-memory",)
    world.deploy("churn-v1", strategy="canary", traffic_request=TrafficRequest(weight=10))
    assert delete_endpoint(world.context, "churn", force=True)
    assert as_applied(world) == before


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (to_admin({"uri": {"prefix": "/"}}), r"route 'admin' \(uri prefix '/'\) above it takes them: put it below"),
        (to_admin(), r"route 'admin' \(no match\) above it takes them"),
        ({**to_admin({"authority": {}}), "name": ""}, r"route 'spec.http\[0\]' \(no match\) above it"),
    ],
)
def test_a_dead_route_is_refused_before_anything_is_written(route: Object, words: str) -> None:
    world = above(route)
    world.cluster.writes.clear()
    with pytest.raises(InvalidInput, match=words):
        taken(world)
    assert world.cluster.writes == []
    assert world.history() == []


def test_a_delegate_beside_it_that_takes_everything_makes_it_a_dead_route() -> None:
    world = above({"name": "handed-on", "delegate": {"name": "chat"}})
    delegate = a_shop()
    delegate["metadata"] = {"name": "chat"}
    delegate["spec"] = {"http": [{"name": "all", "route": [{"destination": {"host": "chat"}}]}]}
    world.cluster.apply(delegate)
    with pytest.raises(InvalidInput, match=r"route 'handed-on-all' \(no match\) above it takes them"):
        taken(world)
    delegate["spec"]["http"][0]["match"] = [{"uri": {"prefix": "/chat"}}]
    world.cluster.apply(delegate)
    assert taken(world).changed


def test_adopting_again_changes_nothing_and_says_so() -> None:
    world = with_shop()
    taken(world)
    world.cluster.writes.clear()
    assert not taken(world).changed
    assert world.cluster.writes == []


def test_views_name_the_virtual_service_and_the_address_inside_its_match() -> None:
    world = with_shop()
    taken(world)
    view = endpoint_view(world.cluster, "churn")
    assert (view["virtual_service"], view["adopted_route"], view["stable"]) == ("shop", "main", "web")
    assert view["scoring_url"] == "http://shop.invalid/api"
    assert [one["name"] for one in endpoint_views(world.cluster)] == ["churn"]
    assert endpoint_names(world.cluster) == ["churn"]
    assert address_of(world.cluster, "churn").scoring == ""


def test_a_route_that_hands_on_another_path_is_adopted_with_a_warning() -> None:
    shop = a_shop()
    del shop["spec"]["http"][0]["rewrite"]
    world = with_shop(shop)
    taken(world)
    assert world.warnings == [
        "route 'main' hands requests on as /api/invocations, which MLflow's model server answers with 404: give the route a "
        "rewrite to /invocations before a deployment of endpoint 'churn' gets traffic"
    ]


def test_an_object_of_the_endpoints_own_name_can_be_adopted_and_is_never_deleted() -> None:
    world = with_shop(a_shop("churn"))
    taken(world, virtual_service="churn")
    world.deploy("churn-v1")
    delete_endpoint(world.context, "churn")
    assert as_applied(world, "churn") == a_shop("churn")


def service_of_theirs(world: World) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "churn"}, "spec": {"ports": [{"port": 80}]}}
    world.cluster.apply(service)


@pytest.mark.parametrize(
    ("prepare", "options", "error", "words"),
    [
        (lambda _: None, {"virtual_service": "shap"}, NotFound, "no VirtualService 'shap' .* did you mean 'shop'"),
        (lambda _: None, {"route": "mein"}, NotFound, "no http route named 'mein': did you mean 'main'"),
        (service_of_theirs, {}, StateConflict, "Service 'churn' exists and is not ours"),
        (lambda w: w.deploy("churn-v1"), {}, StateConflict, "exists already, in VirtualService 'churn'"),
        (
            lambda w: w.deploy("churn-v1"),
            {"virtual_service": "churn", "route": "mlflow-istio.churn.split"},
            StateConflict,
            "with routes of its own",
        ),
        (lambda w: taken(w), {"route": "rest"}, StateConflict, "already carries endpoint 'churn' in route 'main'"),
    ],
)
def test_what_can_not_be_adopted_is_refused_with_nothing_written(
    prepare: Any, options: dict[str, str], error: type[MlflowIstioError], words: str
) -> None:
    world = with_shop()
    prepare(world)
    world.cluster.writes.clear()
    with pytest.raises(error, match=words):
        taken(world, **options)
    assert world.cluster.writes == []


def test_an_endpoint_that_is_being_deleted_is_not_adopted_again() -> None:
    world = with_shop()
    taken(world)
    world.cluster.unroutable = True
    with pytest.raises(MlflowIstioError):
        delete_endpoint(world.context, "churn")
    with pytest.raises(StateConflict, match="being deleted"):
        taken(world)


def test_a_foreign_stable_is_never_an_arm() -> None:
    world = with_shop()
    taken(world)
    with pytest.raises(InvalidInput, match="needs a stable arm of ours"):
        world.deploy("churn-v1", strategy="ab", traffic_request=TrafficRequest(header="x-arm"))


def test_create_on_an_adopted_route_adopts_it_and_opens_the_release() -> None:
    world = with_shop()
    request = a_request("churn-v1", endpoint=None, strategy="canary", traffic_request=TrafficRequest(weight=5))
    outcome = adopt_and_deploy(world.context, request, virtual_service="shop", route="main")
    assert outcome.changed
    assert world.endpoint().traffic.weights == {"web": 95, "churn-v1": 5}
    again = adopt_and_deploy(world.context, request, virtual_service="shop", route="main")
    assert not again.changed


def test_a_first_version_that_does_not_come_up_leaves_the_route_as_it_was() -> None:
    world = with_shop()
    world.cluster.unready.add("churn-v1")
    with pytest.raises(NotReady, match="was taken away again"):
        adopt_and_deploy(world.context, a_request("churn-v1"), virtual_service="shop", route="main")
    assert as_applied(world) == a_shop()
    assert world.warnings == []


def test_a_route_that_was_adopted_before_stays_adopted_when_a_version_does_not_come_up() -> None:
    world = with_shop()
    taken(world)
    world.cluster.unready.add("churn-v1")
    with pytest.raises(NotReady):
        adopt_and_deploy(world.context, a_request("churn-v1"), virtual_service="shop", route="main")
    assert world.endpoint().traffic.weights == {"web": 100}


def test_damage_is_torn_out_by_force_only_and_the_object_stays_its_owners() -> None:
    world = with_shop()
    taken(world)
    world.deploy("churn-v1")
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    world.cluster.apply(with_annotations(found, {"mlflow-istio.org/unrecorded.churn": "{"}))
    with pytest.raises(InvalidInput, match="damaged|is not JSON"):
        delete_endpoint(world.context, "churn")
    assert delete_endpoint(world.context, "churn", force=True)
    assert as_applied(world) == a_shop()


def test_somebody_elses_object_of_that_name_is_left_alone_and_the_way_to_adopt_it_is_told() -> None:
    world = with_shop(a_shop("churn"))
    with pytest.raises(StateConflict, match="mlflow-istio adopt NAME --virtual-service churn"):
        existing_endpoint(world.cluster, "churn")
    with pytest.raises(StateConflict, match="not ours"):
        world.deploy("churn-v1")
