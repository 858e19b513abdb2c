"""Worlds in which single options make a difference (``option_effects``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from mlflow_istio.core.basics.model_card import Column, ModelCard
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.releases.deploying.removal import delete
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import World, a_shop, a_world, with_canary, with_shop
from tests.support.in_memory_verbs import InMemoryVerbs, Surroundings
from tests.unit.verbs.test_every_verb import opened

STAFF = {"headers": {"x-user": "staff"}}


def unready(world: World, *names: str) -> World:
    world.cluster.unready.update(names)
    return world


def theirs() -> World:
    """An adopted route that has a timeout and a fault of its owner's, and a DestinationRule's settings are ours."""
    shop = a_shop()
    shop["spec"]["http"][0] |= {"timeout": "9s", "fault": {"abort": {"httpStatus": 500, "percentage": {"value": 1}}}}
    return with_shop(shop, deployed=("churn-v1",))


def two_destinations() -> World:
    shop = a_shop()
    destinations = [{"destination": {"host": host}, "weight": 50} for host in ("web", "next")]
    shop["spec"]["http"][0] = {**shop["spec"]["http"][0], "route": destinations}
    return with_shop(shop)


def canary_that_left() -> World:
    """The traffic of change 4 needs churn-v2, which is gone."""
    world = with_canary()
    shifting.abort(world.context, "churn")
    delete(world.context, "churn-v2")
    return world


def ruled() -> World:
    world = with_canary()
    InMemoryVerbs(world).route("churn", {"to": "churn-v3", "match": STAFF, "name": "staff"})
    return world


def routed_to() -> World:
    """churn-v2 waits, and somebody's route goes to it all the same."""
    world = a_world("churn-v1", "churn-v2")
    shop = a_shop()
    shop["spec"]["http"][0]["route"] = [{"destination": {"host": "churn", "subset": "churn-v2"}}]
    world.cluster.apply(shop)
    return world


def three() -> World:
    return a_world("churn-v1", "churn-v2", "churn-v3")


def ab(**traffic_request: Any) -> World:
    return a_world(
        "churn-v1",
        "churn-v2",
        strategy="ab",
        traffic_request=TrafficRequest(**(traffic_request or {"weight": 50, "cookie": "arm"})),
    )


def counted() -> Surroundings:
    """An A/B test whose arms have answered, one with more errors."""
    around = Surroundings(world=ab())
    for name in ("churn-v1", "churn-v2"):
        around.metrics.serve(name, 1)
    InMemoryVerbs(around).analyse("churn", {"delta": 1.5, "alpha": 0.04, "phi": 1.2, "randomised": False})
    around.world.runs.texts.clear()
    around.world.runs.kept.clear()
    around.metrics.count("churn-v1", {"kpi/sold/n": 1, "kpi/sold/events": 1})
    for name, errors in (("churn-v1", 30), ("churn-v2", 3)):
        around.metrics.serve(name, 400, errors=errors)
    around.asked.clear()
    return around


def recorded() -> Surroundings:
    """A shadow whose answers differ a little."""
    return recording(
        a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=100)), 1.0, 1.05
    )


def recorded_few() -> Surroundings:
    return recording(
        a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=100)),
        1.0,
        1.0,
        count=20,
    )


def recorded_many() -> Surroundings:
    return recording(
        a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=100)),
        1.0,
        1.0,
        count=2000,
    )


def half_alike(_one: str, _other: str) -> float:
    return 0.5


def recorded_texts() -> Surroundings:
    world = a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=100))
    return recording(world, "a red fox", "a red box")


def recording(world: World, one: Any, other: Any, count: int = 200) -> Surroundings:
    """Every second answer of churn-v2 is another, it takes half as long again, and some requests never came to it."""
    start = world.context.clock.now().timestamp()

    def record(number: int, output: Any, ms: float) -> dict[str, Any]:
        answer = {"predictions": [output]}
        name = "churn-v1" if ms == 10 else "churn-v2"
        said = {"deployment": name, "status": 200, "ms": ms, "output": answer}
        return {"request_id": str(number), "time": start + 10 + number / 10, **said}

    mine = [record(number, one, 10.0) for number in range(count)]
    others = [record(number, other if number % 2 else one, 15.0) for number in range(count - count // 20)]
    return Surroundings(world=world, recorded={"churn-v1": mine, "churn-v2": others}, later=600)


def shadow_release() -> Surroundings:
    return recording(opened(strategy="shadow", analysis="auto", deadline=900, interval=5), 1.0, 1.05)


def counted_release(**options: Any) -> Callable[[], Surroundings]:
    def make() -> Surroundings:
        world = opened(**{"analysis": "auto", "deadline": 20, "interval": 5, **options})
        return Surroundings(world=world)

    return make


def driven() -> World:
    """Another process drives the release, and shows that it is alive whenever somebody waits for it."""

    class Enough(BaseException):
        pass

    def dies(_seen: Any) -> None:
        raise Enough

    world = opened()
    with contextlib.suppress(Enough):
        InMemoryVerbs(world).resume_release("churn", watch=dies)
    return world


def differing() -> Surroundings:
    cards = {
        "churn/1": ModelCard(inputs=(Column(name="a", type="double"),)),
        "churn/2": ModelCard(inputs=(Column(name="b", type="double"),)),
    }
    return Surroundings(world=a_world("churn-v1"), cards=cards)


def kept_elsewhere(world: World) -> World:
    """Another place of this scope keeps the ledger of endpoint ``churn``."""
    world.registry.place = "here"
    world.registry.keepers[("prod", "churn")] = "elsewhere"
    return world
