"""On an endpoint that is there already, every option either does something to it or is refused, or warned about, by its name.

Which connection a verb works with is no effect on the endpoint: what counts is what is stored, recorded, waited for or answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError
from mlflow_istio.options import base, release
from mlflow_istio.options.combinations import IDLE_IN_REDEPLOY
from tests.support.in_memory import World, a_shop, a_world, with_shop
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs, Surroundings, everything
from tests.support.option_effects import CHANGE, PODS, SETTINGS, Noting, Try
from tests.support.option_worlds import canary_that_left

WHERE = ("scope", "tracking_uri", "registry_uri", "gateway_url", "take_over")
"""Where a verb works and whose ledger that is: another registry is another ledger, an address another way to the same proxies."""
ELSEWHERE: Mapping[str, Any] = {
    "gateway": "infra/other",
    "host": "other.example",
    "foreign_host": Try(value=True, given={"host": "shop.web.svc.cluster.local"}),
    "export_to": "elsewhere",
    "pins": "guarded",
    "under": "models",
    "path": Try(value="/other", given={"under": "models"}),
    "match_header": Try(value="x-other=1", given={"under": "models"}),
    "virtual_service": Try(value="shop", given={"route": "main"}),
    "route": Try(value="main", given={"virtual_service": "shop"}),
    "stable": Try(value="rest", given={"virtual_service": "shop", "route": "main"}),
    "champion_alias": "best",
    "challenger_alias": "next",
    "subset": Try(value="churn-v1", given={"connection_pool": SETTINGS["connection_pool"]}),
    "replace": Try(value=True, given={"timeout": "2s"}),
}
STAFF = {"headers": {"x-user": "staff"}}
TRAFFIC: Mapping[str, Any] = {
    "strategy": "blue-green",
    "weight": 20,
    "weights": {"churn-v1": 60, "churn-v2": 40},
    "mirror": Try(value=50, given={"strategy": "shadow"}),
    "header": Try(value="x-arm", given={"strategy": "ab"}),
    "cookie": Try(value="own", given={"strategy": "ab"}),
    "values": Try(value={"churn-v1": "a", "churn-v2": "b"}, given={"strategy": "ab", "header": "x-arm"}),
    "match": STAFF,
    "arms": Try(value={"churn-v2": STAFF}, given={"strategy": "ab"}),
    "release_id": Try(value="r-9", given={"strategy": "canary"}),
    "supersede": Try(value=True, given={"strategy": "blue-green"}),
    "confirm_timeout": 1,
    "wait": False,
}


@dataclass(frozen=True)
class Standing:
    """An endpoint that is there, and a call about it.

    Attributes:
        model: What checks the options.
        world: Makes the world.
        call: Calls the verb.
        others: Options whose values or worlds are others than usual; None: an option that is meant for something else.
    """

    model: type[base.ConnectionOptions]
    world: Callable[[], World]
    call: Callable[[InMemoryVerbs, Mapping[str, Any]], Any]
    others: Mapping[str, Any] = field(default_factory=dict)


def creates(name: str, **given: Any) -> Callable[[InMemoryVerbs, Mapping[str, Any]], Any]:
    uri = f"models:/churn/{name[-1]}"
    return lambda verbs, options: verbs.create(name, uri, None, "churn", {**given, **options})


def shared() -> World:
    world = World()
    InMemoryVerbs(world).create("churn-v1", "models:/churn/1", None, "churn", {"under": "models", "path": "/churn"})
    return world


def canary() -> World:
    return a_world("churn-v1", "churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=5))


def adopted() -> World:
    shop = a_shop()
    shop["spec"]["http"][0] |= {"timeout": "9s"}
    world = with_shop(shop)
    InMemoryVerbs(world).adopt("churn", {"virtual_service": "shop", "route": "main"})
    return world


STANDING: dict[str, Standing] = {
    "create another deployment": Standing(base.CreateOptions, lambda: a_world("churn-v1"), creates("churn-v2")),
    "create the stable deployment again": Standing(
        base.CreateOptions, lambda: a_world("churn-v1"), creates("churn-v1")
    ),
    "create the candidate again": Standing(base.CreateOptions, canary, creates("churn-v2")),
    "create under a shared host": Standing(
        base.CreateOptions,
        shared,
        creates("churn-v2"),
        {"under": "others", "path": Try(value="/x", given={"under": "models"})},
    ),
    "create behind an adopted route": Standing(
        base.CreateOptions,
        adopted,
        creates("churn-v2"),
        {"route": Try(value="rest", given={"virtual_service": "shop"})},
    ),
    "create behind an adopted route, said again": Standing(
        base.CreateOptions,
        adopted,
        creates("churn-v2", virtual_service="shop", route="main"),
        {"virtual_service": "shelf", "route": "rest", "stable": "rest"},
    ),
    "adopt again": Standing(
        base.AdoptOptions,
        adopted,
        lambda verbs, options: verbs.adopt("churn", {"virtual_service": "shop", "route": "main", **options}),
        {"virtual_service": "shelf", "route": "rest", "stable": "rest"},
    ),
    "release": Standing(
        release.ReleaseOptions,
        lambda: a_world("churn-v1"),
        lambda verbs, options: verbs.release("churn", "models:/churn/2", {"detach": True, **options}),
    ),
}
VALUES: Mapping[str, Any] = {**CHANGE, **SETTINGS, **PODS, **TRAFFIC, **ELSEWHERE}


def tries(standing: Standing) -> dict[str, Try]:
    known = {**VALUES, **standing.others}
    names = [name for name in standing.model.model_fields if name in known and name not in WHERE]
    return {name: known[name] if isinstance(known[name], Try) else Try(value=known[name]) for name in names}


def left_behind(standing: Standing, options: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a call stores, records, waits for and answers; why it was refused; and what it warned of."""
    around = Surroundings(world=standing.world())
    around.world.warnings.clear()
    waits: list[Any] = []
    cluster: Any = Noting(around.world.cluster, waits)
    around = replace(around, world=replace(around.world, cluster=cluster))
    verbs, refused, result = InMemoryVerbs(around, target=CLUSTER), "", ""
    try:
        result = repr(standing.call(verbs, options))
    except MlflowIstioError as exc:
        refused = exc.message
    return "\n".join([result, repr(waits), everything(around.world)]), refused, "\n".join(verbs.warned)


ALL = [(what, name, one) for what, standing in STANDING.items() for name, one in tries(standing).items()]


@pytest.mark.parametrize("standing", STANDING.values(), ids=list(STANDING))
def test_every_option_of_create_and_adopt_is_walked(standing: Standing) -> None:
    own = set(release.ReleaseOptions.model_fields) - set(base.CreateOptions.model_fields)
    assert {*tries(standing), *WHERE, *own} >= set(standing.model.model_fields)


UNCHANGED = {
    ("create the stable deployment again", "reason"),
    ("create the candidate again", "reason"),
    ("adopt again", "reason"),
    *((what, "supersede") for what in STANDING if what != "create the candidate again"),
}
"""Where nothing changes, the ledger has no entry that could hold a reason; where no release is open, none is superseded."""
SAID: Mapping[str, str] = {
    **dict.fromkeys((*SETTINGS, "subset", "replace"), "settings of the route have no effect on 'release'"),
    **dict.fromkeys(TRAFFIC, "has an open release"),
}
"""What a refusal says instead of an option's name."""


@pytest.mark.parametrize(("what", "name", "one"), ALL, ids=[f"{what}-{name}" for what, name, _ in ALL])
def test_an_option_does_something_to_the_endpoint_or_is_named(what: str, name: str, one: Try) -> None:
    standing = STANDING[what]
    options = {**one.given, name: one.value}
    without, _, _ = left_behind(standing, one.given)
    with_it, refused, warned = left_behind(standing, options)
    if refused:
        words = [f"'{given}'" for given in options] + [f"{given}={value}" for given, value in options.items()]
        words += [name, str(one.value).replace("=", ": "), str(one.value), SAID.get(name, name)]
        assert any(word in refused for word in words), refused
    elif (what, name) not in UNCHANGED:
        assert with_it != without or f"'{name}'" in warned


@pytest.mark.parametrize("verb", ["create", "release", "adopt"])
def test_the_gateway_of_the_environment_is_where_changes_are_proved(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a default for every verb; only what a call says is refused."""
    monkeypatch.setenv("MLFLOW_ISTIO_GATEWAY", "infra/other")
    what = {"create": "create another deployment", "release": "release", "adopt": "adopt again"}[verb]
    _, refused, _ = left_behind(STANDING[what], {})
    assert not refused
    _, refused, _ = left_behind(STANDING[what], {"gateway": "infra/other"})
    assert "option 'gateway' has no effect on the gateways of" in refused
    assert "leave 'infra/other' out, or add it to VirtualService" in refused


def test_a_gateway_that_the_endpoint_has_is_named_in_any_spelling() -> None:
    world = World()
    verbs = InMemoryVerbs(world, target=CLUSTER)
    verbs.create("churn-v1", "models:/churn/1", None, "churn", {"gateway": "infra/front"})
    verbs.create("churn-v2", "models:/churn/2", None, "churn", {"gateway": "infra/front"})
    with pytest.raises(
        InvalidInput, match="with infra/front, mesh: leave 'infra/back' out, or add it to VirtualService 'churn'"
    ):
        verbs.create("churn-v3", "models:/churn/3", None, "churn", {"gateway": "infra/back"})
    assert world.cluster.get("Deployment", "churn-v3") is None


def test_a_gateway_for_the_environment_of_a_plan_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world("churn-v1")
    monkeypatch.setenv("MLFLOW_ISTIO_GATEWAY", "infra/other")
    verbs = InMemoryVerbs(world, target=CLUSTER)
    planned = verbs.plan("churn", {"strategy": "canary", "weight": 5}, name="churn-v2", model_uri="models:/churn/2")
    assert "gateway" not in planned["options"]
    fresh = verbs.plan("forest", {}, name="forest-v1", model_uri="models:/forest/1")
    assert fresh["options"]["gateway"] == "infra/other"


@pytest.mark.parametrize("name", sorted(set(base.CreateOptions.model_fields) & IDLE_IN_REDEPLOY))
def test_what_says_nothing_of_pods_is_refused_in_redeploy(name: str) -> None:
    verbs = InMemoryVerbs(canary_that_left(), target=CLUSTER)
    with pytest.raises(InvalidInput, match=f"option '{name}' has no effect in 'redeploy'"):
        verbs.update_endpoint("churn", {"action": "rollback", "to": 4, "redeploy": {name: "x"}})


@pytest.mark.parametrize("name", sorted(set(base.CreateOptions.model_fields) - IDLE_IN_REDEPLOY - {"flavor"}))
def test_what_says_how_pods_come_back_does_so(name: str) -> None:
    """The rest of what ``create`` takes: each changes what stands there afterwards, or what is waited for."""
    known = {**PODS, **TRAFFIC}
    one = known[name] if isinstance(known[name], Try) else Try(value=known[name])
    back = Standing(
        base.UpdateEndpointOptions,
        canary_that_left,
        lambda verbs, options: verbs.update_endpoint(
            "churn", {"action": "rollback", "to": 4, "redeploy": dict(options)}
        ),
    )
    without, refused, _ = left_behind(back, one.given)
    assert not refused
    with_it, refused, _ = left_behind(back, {**one.given, name: one.value})
    assert refused or with_it != without
