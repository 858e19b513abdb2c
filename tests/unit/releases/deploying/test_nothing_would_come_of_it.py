"""What has no effect on an endpoint that is there already is refused, and what an owner's destination has alone is told of."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.inspection.diagnosis import Finding
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import PolicyRequest
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.releases.context import Outcome
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.deploying.removal import delete_endpoint
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.releases.reading.doctor import examine
from tests.support.in_memory import World, a_shop, a_world, with_shop
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs


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


RULES = {"response": {"set": {"x-shop": "yes"}, "remove": ["server"]}}


def shop_with(rules: Object, **route: Any) -> World:
    """A shop whose destination ``web`` has these header rules."""
    obj = copy.deepcopy(a_shop())
    obj["spec"]["http"][0] |= route
    obj["spec"]["http"][0]["route"][0]["headers"] = rules
    return with_shop(obj)


def found_in(world: World) -> list[Finding]:
    """What the doctor finds of headers and routes."""
    return [one for one in examine(world.context, "churn") if one.code in ("edited-routes", "header-conflict")]


def headers_of(world: World, route: str = "main") -> dict[str, Any]:
    """Header rules of each destination of a route of the shop."""
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    (one,) = [http for http in found["spec"]["http"] if http["name"] == route]
    return {
        entry["destination"].get("subset", entry["destination"]["host"]): entry.get("headers") for entry in one["route"]
    }


def canary(world: World, weight: int = 5) -> Outcome:
    return shifting.start(
        world.context,
        "churn",
        strategy="canary",
        candidates=("churn-v1",),
        traffic_request=TrafficRequest(weight=weight),
    )


def test_headers_at_an_owners_destination_go_along_wherever_its_users_are_sent() -> None:
    world = shop_with(RULES)
    assert adopt(world.context, "churn", virtual_service="shop", route="main").warnings == ()
    world.deploy("churn-v1")
    assert headers_of(world, "mlflow-istio.churn.pin.churn-v1") == {"churn-v1": RULES}
    assert canary(world).warnings == ()
    assert headers_of(world) == {"web": RULES, "churn-v1": RULES}
    assert shifting.promote(world.context, "churn").warnings == ()
    assert headers_of(world) == {"web": RULES, "churn-v1": RULES}
    shifting.rollback(world.context, "churn")
    assert headers_of(world)["web"] == RULES
    assert found_in(world) == []
    delete_endpoint(world.context, "churn")
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    assert headers_of(world) == {"web": RULES}
    assert "annotations" not in found["metadata"]


def test_what_the_owner_changes_at_the_destination_goes_along_with_the_next_change() -> None:
    world = shop_with(RULES)
    adopt(world.context, "churn", virtual_service="shop", route="main")
    world.deploy("churn-v1")
    canary(world)
    changed: Object = {"request": {"add": {"X-Shop": "no"}}}

    def edit(rules: Object | None) -> None:
        obj = world.cluster.get("VirtualService", "shop")
        assert obj is not None
        (entry,) = [
            one
            for http in obj["spec"]["http"]
            if http["name"] == "main"
            for one in http["route"]
            if one["destination"]["host"] == "web"
        ]
        entry.pop("headers", None)
        if rules:
            entry["headers"] = rules
        world.cluster.apply(obj)

    edit(changed)
    assert [one.code for one in found_in(world)] == ["edited-routes"]
    shifting.shift(world.context, "churn", TrafficRequest(weight=20))
    assert headers_of(world) == {"web": changed, "churn-v1": changed}
    assert found_in(world) == []
    edit(None)
    shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    assert headers_of(world) == {"web": None, "churn-v1": None}


def test_a_deployments_own_rule_counts_before_the_owners_and_what_somebody_wrote_by_hand_stays() -> None:
    world = shop_with(RULES)
    adopt(world.context, "churn", virtual_service="shop", route="main")
    world.deploy("churn-v1")
    canary(world)
    own = {"response": {"set": {"x-shop": "ours"}}}
    policy.set_policy(world.context, "churn", PolicyRequest(changes={"headers": own}, subset="churn-v1"))
    assert headers_of(world)["churn-v1"] == {"response": {"set": {"x-shop": "ours"}, "remove": ["server"]}}
    policy.set_policy(world.context, "churn", PolicyRequest(changes={"headers": None}, subset="churn-v1"))
    assert headers_of(world) == {"web": RULES, "churn-v1": RULES}
    obj = world.cluster.get("VirtualService", "shop")
    assert obj is not None
    by_hand = {"response": {"set": {"X-Shop": "by hand"}, "remove": ["server"]}}
    for http in obj["spec"]["http"]:
        if http["name"] == "main":
            http["route"][1]["headers"] = by_hand
    world.cluster.apply(obj)
    shifting.shift(world.context, "churn", TrafficRequest(weight=20))
    assert headers_of(world) == {"web": RULES, "churn-v1": by_hand}
    shifting.abort(world.context, "churn")


def test_a_cookie_of_the_owners_gives_way_to_the_one_that_keeps_users_at_their_arm() -> None:
    cookie = {"response": {"add": {"set-cookie": "shop=1"}, "set": {"x-shop": "yes"}}}
    world = shop_with(cookie)
    adopt(world.context, "churn", virtual_service="shop", route="main")
    world.deploy("churn-v1")
    canary(world)
    shifting.promote(world.context, "churn")
    assert headers_of(world)["churn-v1"] == cookie
    world.deploy("churn-v2")
    started = shifting.start(
        world.context,
        "churn",
        strategy="ab",
        candidates=("churn-v2",),
        traffic_request=TrafficRequest(cookie="arm", weight=50),
    )
    (told,) = started.warnings
    assert "destination 'web' of route 'main' has headers of its own (response add set-cookie), which users" in told
    assert "arm=" in headers_of(world)["churn-v1"]["response"]["add"]["set-cookie"]
    assert headers_of(world)["churn-v2"]["response"]["set"] == {"x-shop": "yes"}
    shifting.abort(world.context, "churn")
    assert headers_of(world)["churn-v1"] == cookie
    assert headers_of(world)["web"] == cookie
    assert found_in(world) == []


def test_the_host_by_which_the_owners_destination_is_asked_is_not_carried_over_and_told_of() -> None:
    world = shop_with({"request": {"set": {"Host": "web.example"}}})
    told = (
        "destination 'web' of route 'main' has headers of its own (request set Host), which users of endpoint 'churn' don't get "
        "from a deployment: write them at the route, whose headers are for all of its users"
    )
    assert adopt(world.context, "churn", virtual_service="shop", route="main").warnings == (told,)
    assert world.deploy("churn-v1").warnings == ()
    assert canary(world).warnings == (told,)
    assert shifting.shift(world.context, "churn", TrafficRequest(weight=50)).warnings == ()
    assert headers_of(world) == {"web": {"request": {"set": {"Host": "web.example"}}}, "churn-v1": None}
    assert shifting.promote(world.context, "churn").warnings == (told,)
    assert shifting.rollback(world.context, "churn").warnings == ()


def test_a_header_that_the_owner_treats_at_the_route_and_at_the_destination_is_told_of() -> None:
    """Alone, the destination's counts; beside a candidate the route's does (``tests/corpus``)."""
    world = shop_with({"response": {"set": {"X-Tenant": "b"}}}, headers={"response": {"set": {"x-tenant": "a"}}})
    (told,) = adopt(world.context, "churn", virtual_service="shop", route="main").warnings
    assert told.startswith(
        "response header 'x-tenant': the route says set x-tenant: 'a', and its destination 'web' set X-Tenant"
    )
    world.deploy("churn-v1")
    assert canary(world).warnings == (told,)
    found = found_in(world)
    assert [(one.severity, one.safe, one.text) for one in found] == [("warning", False, told)]


@pytest.mark.parametrize("operation", ["set", "add", "remove"])
def test_a_setting_of_the_route_that_meets_a_rule_at_the_owners_destination_is_refused_by_name(operation: str) -> None:
    world = shop_with({"request": {"set": {"X-Tenant": "theirs"}}})
    adopt(world.context, "churn", virtual_service="shop", route="main")
    before = world.objects(), world.history()
    rules = {"request": {operation: ["x-tenant"] if operation == "remove" else {"x-tenant": "ours"}}}
    with pytest.raises(
        StateConflict, match="request header 'x-tenant': the route says .* and its destination 'web' set X-Tenant"
    ):
        policy.set_policy(world.context, "churn", PolicyRequest(changes={"headers": rules}))
    assert (world.objects(), world.history()) == before
    outcome = policy.set_policy(world.context, "churn", PolicyRequest(changes={"headers": rules}, replace=True))
    assert ["request header 'x-tenant'" in one for one in outcome.warnings] == [True]
    assert headers_of(world) == {"web": {"request": {"set": {"X-Tenant": "theirs"}}}}
    assert [one.code for one in found_in(world)] == ["header-conflict"]


def test_a_plan_names_the_header_and_a_deployment_is_not_brought_up_for_a_setting_that_is_refused() -> None:
    world = shop_with({"request": {"set": {"X-Tenant": "theirs"}}})
    adopt(world.context, "churn", virtual_service="shop", route="main")
    verbs = InMemoryVerbs(world, target=CLUSTER)
    rules = {"request": {"set": {"x-tenant": "ours"}}}
    with pytest.raises(StateConflict, match="request header 'x-tenant'"):
        verbs.plan("churn", {"headers": rules}, verb="policy")
    assert not any("x-tenant" in one for one in verbs.warned)
    verbs.plan("churn", {"headers": rules, "replace": True}, verb="policy")
    assert [one for one in verbs.warned if one.startswith("request header 'x-tenant': the route says")]
    with pytest.raises(StateConflict, match="request header 'x-tenant'"):
        verbs.create("churn-v1", "models:/churn/1", None, "churn", {"headers": rules})
    assert world.cluster.get("Deployment", "churn-v1") is None


def test_settings_of_the_endpoint_and_of_a_deployment_meet_too_before_it_has_traffic() -> None:
    world = a_world("churn-v1", "churn-v2")
    policy.set_policy(
        world.context, "churn", PolicyRequest(changes={"headers": {"response": {"set": {"x-team": "all"}}}})
    )
    mine = {"response": {"set": {"X-Team": "two"}}}
    with pytest.raises(
        StateConflict, match="response header 'x-team': the route says set x-team: 'all', and .* 'churn-v2'"
    ):
        policy.set_policy(world.context, "churn", PolicyRequest(changes={"headers": mine}, subset="churn-v2"))
    other = {"response": {"set": {"x-other": "two"}}}
    assert policy.set_policy(
        world.context, "churn", PolicyRequest(changes={"headers": other}, subset="churn-v2")
    ).changed


@pytest.mark.parametrize("where", ["route", "destination"])
def test_the_doctor_finds_what_an_owner_says_later_of_a_header_that_a_setting_treats(where: str) -> None:
    world = shop_with({})
    adopt(world.context, "churn", virtual_service="shop", route="main")
    ours = {"request": {"set": {"x-tenant": "ours"}}}
    policy.set_policy(world.context, "churn", PolicyRequest(changes={"headers": ours}))
    assert found_in(world) == []
    obj = world.cluster.get("VirtualService", "shop")
    assert obj is not None
    for http in obj["spec"]["http"]:
        if http["name"] == "main" and where == "route":
            http["headers"]["request"]["remove"] = ["X-Tenant"]
        elif http["name"] == "main":
            http["route"][0]["headers"] = {"request": {"set": {"X-Tenant": "theirs"}}}
    world.cluster.apply(obj)
    found = [one.text for one in found_in(world)]
    assert found == [
        "route 'main' has headers.request.remove.X-Tenant beside our rule for that header, and proxies carry out both"
        if where == "route"
        else "request header 'x-tenant': the route says set x-tenant: 'ours', and its destination 'web' set X-Tenant: 'theirs'; "
        "Envoy goes by the destination where it is the only one, and by the route where there are several"
    ]


def test_where_no_destination_has_headers_of_its_own_there_is_nothing_to_tell() -> None:
    world = with_shop()
    assert adopt(world.context, "churn", virtual_service="shop", route="main").warnings == ()
