"""What has no effect on an endpoint that is there already is refused, and what an owner's destination has alone is told of."""

from __future__ import annotations

import copy

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import World, a_shop, a_world, with_shop


def test_a_host_that_the_endpoint_does_not_have_is_refused_and_one_that_it_has_is_not() -> None:
    world = World()
    world.deploy("churn-v1", hosts=("churn.example",))
    world.deploy("churn-v2", hosts=("churn.example",))
    with pytest.raises(
        InvalidInput,
        match="option 'host' has no effect on the hosts of endpoint 'churn', which is there already with churn, churn.example: "
        "leave 'new.example' out",
    ):
        world.deploy("churn-v3", hosts=("new.example",))
    assert world.cluster.get("Deployment", "churn-v3") is None


def test_namespaces_that_the_endpoint_is_not_exported_to_are_refused() -> None:
    world = World()
    world.deploy("churn-v1", export_to=(".", "web"))
    world.deploy("churn-v2", export_to=("web", "."))
    with pytest.raises(InvalidInput, match=r"option 'export_to' has no effect .* which is there already with \., web"):
        world.deploy("churn-v3", export_to=("*",))
    assert world.cluster.get("Deployment", "churn-v3") is None
    with pytest.raises(InvalidInput, match="which is there already with those of the mesh"):
        a_world("churn-v1").deploy("churn-v2", export_to=("*",))


def test_what_was_chosen_with_the_adoption_is_not_chosen_again() -> None:
    world = with_shop(deployed=())
    assert not adopt(world.context, "churn", virtual_service="shop", route="main", stable="web").changed
    with pytest.raises(StateConflict, match="adopted route 'main' with 'web' as stable: leave 'stable' out"):
        adopt(world.context, "churn", virtual_service="shop", route="main", stable="rest")
    with pytest.raises(StateConflict, match="has had its aliases since it adopted route 'main'"):
        adopt(world.context, "churn", virtual_service="shop", route="main", settings={"champion": "best"})


def test_headers_at_an_owners_destination_are_told_of_at_the_adoption_and_when_users_leave_it() -> None:
    obj = copy.deepcopy(a_shop())
    rules = {"response": {"set": {"x-shop": "yes"}, "remove": ["server"]}}
    obj["spec"]["http"][0]["route"][0]["headers"] = rules
    world = with_shop(obj)
    told = (
        "destination 'web' of route 'main' has headers of its own (response set x-shop; response remove server), which users of "
        "endpoint 'churn' don't get from a deployment: write them at the route, whose headers are for all of its users"
    )
    assert adopt(world.context, "churn", virtual_service="shop", route="main").warnings == (told,)
    assert world.deploy("churn-v1").warnings == ()
    canary = {"strategy": "canary", "candidates": ("churn-v1",), "traffic_request": TrafficRequest(weight=5)}
    assert shifting.start(world.context, "churn", **canary).warnings == (told,)  # type: ignore[arg-type]
    assert shifting.shift(world.context, "churn", TrafficRequest(weight=50)).warnings == ()
    assert shifting.promote(world.context, "churn").warnings == (told,)
    assert shifting.rollback(world.context, "churn").warnings == ()


def test_where_no_destination_has_headers_of_its_own_there_is_nothing_to_tell() -> None:
    world = with_shop()
    assert adopt(world.context, "churn", virtual_service="shop", route="main").warnings == ()
