"""A Service of the owner's that was deleted gets nobody, by any verb; a host outside of the cluster never had one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import StateConflict
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reading.doctor import examine
from tests.support.foreign_edits import edit
from tests.support.in_memory import World, a_shop, with_shop


def a_service(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}


def canary(host: str = "web", *, service: str = "web") -> World:
    """churn-v2 has 10% behind the owner's route, whose Service stands where one is named."""
    shop = a_shop()
    shop["spec"]["http"][0]["route"][0]["destination"]["host"] = host
    world = World()
    world.cluster.apply(shop)
    if service:
        world.cluster.apply(a_service(service))
    adopt(world.context, "churn", virtual_service="shop", route="main")
    world.deploy("churn-v2")
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v2",), traffic_request=TrafficRequest(weight=10)
    )
    return world


def promoted(host: str = "web", *, service: str = "web") -> World:
    world = canary(host, service=service)
    shifting.promote(world.context, "churn")
    return world


VERBS: dict[str, tuple[Callable[..., World], Callable[..., Any]]] = {
    "rollback of a promotion": (promoted, shifting.rollback),
    "abort": (canary, shifting.abort),
    "rollback of a release": (canary, shifting.rollback),
    "less weight": (
        canary,
        lambda context, name, **_: shifting.shift(context, name, TrafficRequest(weight=5)),
    ),
    "deletion": (promoted, removal.delete_endpoint),
}
FORCED = tuple(verb for verb in VERBS if verb != "less weight")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("host", ["web", "web.in-memory", "web.in-memory.svc.cluster.local"])
def test_nobody_goes_back_to_a_service_that_its_owner_has_deleted(host: str, verb: str) -> None:
    make, command = VERBS[verb]
    world = make(host)
    world.cluster.delete("Service", "web")
    before, recorded = world.endpoint().traffic, world.history()
    with pytest.raises(
        StateConflict,
        match=f"'{host}', which users of endpoint 'churn' had, gets no traffic: Service 'web' was deleted since route 'main' was",
    ):
        command(world.context, "churn")
    assert (world.endpoint().traffic, world.history()) == (before, recorded)
    assert not world.endpoint().deleting
    world.cluster.apply(a_service("web"))
    command(world.context, "churn")


@pytest.mark.parametrize("verb", FORCED)
def test_force_goes_on(verb: str) -> None:
    make, command = VERBS[verb]
    world = make()
    world.cluster.delete("Service", "web")
    command(world.context, "churn", force=True)
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    assert {one["destination"]["host"]: one.get("weight", 100) for one in found["spec"]["http"][-2]["route"]}[
        "web"
    ] == 100


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("host", ["web", "models.example.com", "web.elsewhere", "web.elsewhere.svc.cluster.local"])
def test_a_host_that_never_had_a_service_here_is_taken_at_its_word(host: str, verb: str) -> None:
    make, command = VERBS[verb]
    world = make(host, service="")
    command(world.context, "churn")
    assert not [one for one in examine(world.context) if one.code == "gone-service"]


def test_what_its_owner_has_put_there_since_is_remembered_by_the_next_change() -> None:
    world = canary()

    def renamed(obj: Object) -> None:
        for route in obj["spec"]["http"]:
            for entry in route.get("route") or []:
                if entry["destination"]["host"] == "web":
                    entry["destination"]["host"] = "web2"

    edit(world, "VirtualService", renamed, "shop")
    world.cluster.apply(a_service("web2"))
    shifting.promote(world.context, "churn")
    assert world.endpoint().adopted.services == ("web", "web2")  # type: ignore[union-attr]
    world.cluster.delete("Service", "web2")
    with pytest.raises(StateConflict, match="'web2', which users of endpoint 'churn' had, gets no traffic"):
        shifting.rollback(world.context, "churn")


def test_doctor_names_it() -> None:
    world = promoted()
    world.cluster.delete("Service", "web")
    (finding,) = [one for one in examine(world.context, "churn") if one.code == "gone-service"]
    assert (finding.severity, finding.what) == ("warning", "web")
    assert finding.text == "'web', which users had before, is gone: Service 'web' was deleted"
    world = canary()
    world.cluster.delete("Service", "web")
    (finding,) = [one for one in examine(world.context, "churn") if one.code == "gone-service"]
    assert finding.severity == "error"
    assert finding.text == "90% of requests go to 'web', which is gone: Service 'web' was deleted"


def test_an_endpoint_adopted_by_an_earlier_version_remembers_nothing_and_goes_back() -> None:
    world = with_shop(deployed=("churn-v2",))
    world.cluster.apply(a_service("web"))
    assert world.endpoint().adopted.services == ()  # type: ignore[union-attr]
    older = copy.deepcopy(world.cluster.get("VirtualService", "shop"))
    assert older is not None
    assert '"services"' not in older["metadata"]["annotations"]["mlflow-istio.org/state.churn"]
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v2",), traffic_request=TrafficRequest(weight=10)
    )
    assert world.endpoint().adopted.services == ("web",)  # type: ignore[union-attr]
