"""The probe route went away after a change was stored: it is written again, proved, and the change recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import NotRouted
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.moving import shifting
from tests.support.foreign_edits import edit, route
from tests.support.in_memory import Fate, Killed, World, a_shop, mortal, with_canary, with_shop

PROBE = "mlflow-istio.churn.probe"


def gone(obj: Object) -> None:
    obj["spec"]["http"] = [one for one in obj["spec"]["http"] if one.get("name") != PROBE]


def of_another_change(obj: Object) -> None:
    route(obj, ".probe")["directResponse"]["body"]["string"] = "an older change"


def self_heal(obj: Object) -> None:
    """The owner's controller puts Git's routes back; the annotations stay."""
    obj["spec"]["http"] = a_shop()["spec"]["http"]


def shop() -> World:
    world = with_shop(deployed=("churn-v1", "churn-v2"))
    shifting.start(
        world.context,
        "churn",
        strategy="canary",
        candidates=("churn-v1",),
        traffic_request=TrafficRequest(weight=10),
    )
    return world


def test_a_promotion_whose_routes_a_self_heal_took_away_is_proved_and_recorded_by_the_next_command() -> None:
    world = shop()
    proved = world.cluster.wait_routed

    def healed_first(probe: Any, timeout: float) -> Any:
        if probe.purpose.startswith("routing change"):
            edit(world, "VirtualService", self_heal, "shop")
        return proved(probe, timeout)

    world.cluster.wait_routed = healed_first  # type: ignore[method-assign]
    with pytest.raises(NotRouted):
        shifting.promote(world.context, "churn")
    world.cluster.wait_routed = proved  # type: ignore[method-assign]
    shifting.promote(world.context, "churn")
    assert (world.history()[-1][1], world.endpoint().outbox) == ("promote", ())
    assert world.endpoint().traffic.weights == {"web": 100}  # no user was moved for the sake of the proof


@pytest.mark.parametrize("damage", [gone, of_another_change])
@pytest.mark.parametrize(
    "again",
    [
        lambda context: shifting.shift(context, "churn", TrafficRequest(weight=10)),
        lambda context: shifting.pause(context, "churn"),
    ],
    ids=["shift", "pause"],
)
def test_a_command_with_nothing_to_do_writes_the_probe_again(
    again: Callable[[Context], Any], damage: Callable[[Object], None]
) -> None:
    world = with_canary()
    again(world.context)
    stood = world.cluster.get("VirtualService", "churn")
    history = world.history()
    edit(world, "VirtualService", damage)
    assert again(world.context).proxies == ("in-memory",)
    now = world.cluster.get("VirtualService", "churn")
    assert stood is not None
    assert now is not None
    assert (now["spec"], world.history(), world.endpoint().missing) == (stood["spec"], history, ())


@pytest.mark.parametrize("damage", [gone, self_heal])
def test_a_deletion_that_died_after_its_mark_ends_without_force(damage: Callable[[Object], None]) -> None:
    for call in range(3, 40):
        world = shop()
        shifting.abort(world.context, "churn")
        with pytest.raises(Killed):
            removal.delete_endpoint(mortal(world.context, Fate(call=call, replied=True)), "churn")
        if world.endpoint().deleting:
            break
    assert world.endpoint().deleting
    edit(world, "VirtualService", damage, "shop")
    assert removal.delete_endpoint(world.context, "churn")
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    assert (found["spec"], "annotations" in found["metadata"]) == (a_shop()["spec"], False)
    assert world.history()[-1][1] == "delete"
