"""A deployment or endpoint that somebody else's route goes to is not taken away from under that route's users.

The spellings of a host are Istio's (``ResolveShortnameToFQDN``); a destination that is an only one gets all, whatever its weight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.policy.settings import CustomRoute
from mlflow_istio.errors import StateConflict
from mlflow_istio.releases.deploying import deployments, removal
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.moving import policy, shifting
from tests.support.foreign_edits import edit, route
from tests.support.in_memory import World, a_shop, a_world, with_canary, with_shop
from tests.unit.releases.moving.test_whoever_gains import STAFF

V2 = {"host": "churn", "subset": "churn-v2"}


def theirs(**main: Any) -> Object:
    """Somebody's VirtualService, whose route ``main`` has these fields."""
    shop = a_shop()
    shop["spec"]["http"][0] = {"name": "main", **main}
    return shop


def beside(*entries: Object) -> Object:
    return theirs(route=list(entries))


GOES_THERE: dict[str, tuple[Object, str]] = {
    "alone": (beside({"destination": V2}), "route 'main' of VirtualService 'shop'"),
    "alone, without weight": (beside({"destination": V2, "weight": 0}), "route 'main' of VirtualService 'shop'"),
    "with a part": (
        beside({"destination": V2, "weight": 1}, {"destination": {"host": "web"}, "weight": 99}),
        "route 'main' of VirtualService 'shop'",
    ),
    "by its full name": (
        beside({"destination": {**V2, "host": "churn.in-memory.svc.cluster.local"}}),
        "route 'main' of VirtualService 'shop'",
    ),
    "from a route without a name": (
        {**a_shop(), "spec": {"hosts": ["shop.example"], "http": [{"route": [{"destination": V2}]}]}},
        r"route 'http\[0\]' of VirtualService 'shop'",
    ),
    "over TCP": (
        {**a_shop(), "spec": {"hosts": ["shop.example"], "tcp": [{"route": [{"destination": V2}]}]}},
        r"route 'tcp\[0\]' of VirtualService 'shop'",
    ),
}
GOES_ELSEWHERE: dict[str, Object] = {
    "no weight": beside({"destination": V2, "weight": 0}, {"destination": {"host": "web"}, "weight": 100}),
    "another deployment": beside({"destination": {"host": "churn", "subset": "churn-v1"}}),
    "another namespace's": beside({"destination": {**V2, "host": "churn.elsewhere.svc.cluster.local"}}),
    "another service": beside({"destination": {"host": "web", "subset": "churn-v2"}}),
}


def idle() -> World:
    return a_world("churn-v1", "churn-v2")


Taking = Callable[..., Any]
TAKEN: dict[str, tuple[Taking, str]] = {
    "a deployment": (
        lambda world, **how: removal.delete(world.context, "churn-v2", **how),
        "deployment 'churn-v2' of endpoint 'churn' can't be deleted",
    ),
    "an endpoint": (
        lambda world, **how: removal.delete_endpoint(world.context, "churn", **how),
        "endpoint 'churn' can't be deleted",
    ),
}


@pytest.mark.parametrize("taking", TAKEN)
@pytest.mark.parametrize("how", GOES_THERE)
def test_what_somebodys_route_goes_to_is_taken_away_only_by_force(how: str, taking: str) -> None:
    obj, named = GOES_THERE[how]
    (take, meant), world = TAKEN[taking], idle()
    world.cluster.apply(copy.deepcopy(obj))
    before = world.text()
    with pytest.raises(StateConflict, match=f"{meant}: {named} goes to it, whose users would get errors"):
        take(world)
    assert world.text() == before
    assert take(world, force=True)
    assert world.cluster.get("Deployment", "churn-v2") is None
    assert any("users of route" in warning for warning in world.warnings)


@pytest.mark.parametrize("how", GOES_ELSEWHERE)
def test_a_route_that_does_not_go_there_is_in_nobodys_way(how: str) -> None:
    world = idle()
    world.cluster.apply(copy.deepcopy(GOES_ELSEWHERE[how]))
    assert removal.delete(world.context, "churn-v2")


@pytest.mark.parametrize("taking", TAKEN)
@pytest.mark.parametrize(
    "copied",
    [{"mirrors": [{"destination": V2}]}, {"mirror": V2}],
    ids=["mirrors", "mirror"],
)
def test_copies_are_warned_about(copied: Object, taking: str) -> None:
    world = idle()
    world.cluster.apply(theirs(route=[{"destination": {"host": "web"}}], **copied))
    assert TAKEN[taking][0](world)
    assert any("copies of route 'main' of VirtualService 'shop' go" in warning for warning in world.warnings)


def test_a_foreign_route_in_the_object_that_carries_the_endpoint_counts() -> None:
    world = with_shop(deployed=("churn-v1", "churn-v2"))

    def added(obj: Object) -> None:
        obj["spec"]["http"].insert(
            0, {"name": "inner", "match": [{"uri": {"prefix": "/in"}}], "route": [{"destination": V2}]}
        )

    edit(world, "VirtualService", added, "shop")
    for take, meant in TAKEN.values():
        with pytest.raises(StateConflict, match=f"{meant}: route 'inner' of VirtualService 'shop' goes to it"):
            take(world)
    assert removal.delete_endpoint(world.context, "churn", force=True)


def test_an_endpoints_own_route_that_somebody_bent_to_a_deployment_counts() -> None:
    world = with_canary()
    policy.set_rule(world.context, "churn", CustomRoute(name="staff", deployment="churn-v2", match=STAFF.match))

    def bent(obj: Object) -> None:
        route(obj, ".rule.staff")["route"][0]["destination"]["subset"] = "churn-v3"

    edit(world, "VirtualService", bent)
    named = "route 'mlflow-istio.churn.rule.staff' of VirtualService 'churn'"
    with pytest.raises(StateConflict, match=f"deployment 'churn-v3' of endpoint 'churn' can't be deleted: {named}"):
        removal.delete(world.context, "churn-v3")
    with pytest.raises(StateConflict, match="can't be scaled to 0 replicas"):
        deployments.update(world.context, "churn-v3", replicas=0)
    shifting.abort(world.context, "churn")  # with which the route goes
    assert removal.delete(world.context, "churn-v3")


def test_an_endpoint_whose_stable_is_another_endpoint_counts() -> None:
    """Endpoint forest was adopted where a route goes to the Service of endpoint churn."""
    world = idle()
    world.cluster.apply(beside({"destination": {"host": "churn"}}))
    adopt(world.context, "forest", virtual_service="shop", route="main")
    with pytest.raises(StateConflict, match="endpoint 'churn' can't be deleted: route 'main' of VirtualService 'shop'"):
        removal.delete_endpoint(world.context, "churn")
    assert removal.delete(world.context, "churn-v2"), "any other of its pods answers there"


def test_a_copy_of_the_endpoints_own_object_under_another_name_counts() -> None:
    world = with_canary()
    found = copy.deepcopy(world.cluster.get("VirtualService", "churn"))
    assert found is not None
    found["metadata"]["name"] = "kept"
    found["spec"]["hosts"] = ["kept.example"]
    world.cluster.apply(found)
    shifting.abort(world.context, "churn")
    with pytest.raises(StateConflict, match="route 'mlflow-istio.churn.(pin.churn-v2|split)' of VirtualService 'kept'"):
        removal.delete(world.context, "churn-v2")


def test_a_replaced_version_that_is_still_needed_elsewhere_stays_when_its_time_is_over() -> None:
    world = with_canary()
    world.cluster.apply(beside({"destination": {"host": "churn", "subset": "churn-v1"}}))
    shifting.promote(world.context, "churn", keep_old=timedelta(0))
    (swept,) = sweep(world.context)
    assert "route 'main' of VirtualService 'shop' goes to it" in swept.problem
    assert world.cluster.get("Deployment", "churn-v1") is not None
    world.cluster.delete("VirtualService", "shop")
    assert [one.problem for one in sweep(world.context)] == [""]
    assert world.cluster.get("Deployment", "churn-v1") is None


def test_scaling_to_0_asks_the_same() -> None:
    world = idle()
    world.cluster.apply(beside({"destination": V2}))
    with pytest.raises(
        StateConflict, match="deployment 'churn-v2' of endpoint 'churn' can't be scaled to 0 replicas: route 'main'"
    ):
        deployments.update(world.context, "churn-v2", replicas=0)
