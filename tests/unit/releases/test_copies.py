"""A copy of the object that carries an endpoint is named by doctor and by every change, never taken silently."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import PolicyRequest
from mlflow_istio.errors import NotFound, StateConflict
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.releases.reading.doctor import examine
from tests.support.in_memory import World, a_shop, with_canary, with_shop

VERBS: dict[str, Callable[[Context], Any]] = {
    "shift": lambda context: shifting.shift(context, "churn", TrafficRequest(weight=40)),
    "promote": lambda context: shifting.promote(context, "churn"),
    "pause": lambda context: shifting.pause(context, "churn"),
    "setting": lambda context: policy.set_policy(context, "churn", PolicyRequest(changes={"timeout": "2s"})),
    "removal": lambda context: removal.delete(context, "churn-v3"),
}
WAYS_BACK: dict[str, Callable[[Context], Any]] = {
    "abort": lambda context: shifting.abort(context, "churn"),
    "rollback": lambda context: shifting.rollback(context, "churn"),
    "promotion by force": lambda context: shifting.promote(context, "churn", force=True),
    "deletion by force": lambda context: removal.delete_endpoint(context, "churn", force=True),
}


def copied(world: World, name: str, to: str, *hosts: str) -> None:
    """Somebody applies a copy under another name."""
    found = copy.deepcopy(world.cluster.get("VirtualService", name))
    assert found is not None
    found["metadata"]["name"] = to
    found["spec"]["hosts"] = list(hosts)
    world.cluster.apply(found)


def copied_away() -> World:
    world = with_canary()
    copied(world, "churn", "kept", "kept.example")
    return world


def twice() -> World:
    """An endpoint was deleted and adopted elsewhere under its name; then somebody applies its first object from Git once more."""
    world = with_canary()
    older = copy.deepcopy(world.cluster.get("VirtualService", "churn"))
    assert older is not None
    removal.delete_endpoint(world.context, "churn", force=True)
    world.cluster.apply(a_shop())
    adopt(world.context, "churn", virtual_service="shop", route="main")
    for name in ("churn-v1", "churn-v3", "churn-v2"):
        world.deploy(name)
    world.cluster.apply(older)
    world.warnings.clear()
    return world


TWO = "2 VirtualServices carry endpoint 'churn', 'churn' and 'shop': somebody applied an older one, or a copy; delete the one that"


@pytest.mark.parametrize("verb", VERBS)
def test_two_objects_that_carry_an_endpoint_are_refused_by_name(verb: str) -> None:
    world = twice()
    before = world.objects()
    with pytest.raises(StateConflict, match=TWO):
        VERBS[verb](world.context)
    assert world.objects() == before


@pytest.mark.parametrize("verb", WAYS_BACK)
def test_a_way_back_and_force_go_on_and_name_them(verb: str) -> None:
    world = twice()
    WAYS_BACK[verb](world.context)
    assert any(warning.startswith(TWO) for warning in world.warnings)


def test_a_deletion_by_force_given_until_nothing_is_left_ends() -> None:
    world = twice()
    assert removal.delete_endpoint(world.context, "churn", force=True)
    assert removal.delete_endpoint(world.context, "churn", force=True)
    left = world.objects()
    assert [obj["metadata"]["name"] for obj in left] == ["shop"]
    assert "annotations" not in left[0]["metadata"]


COPY = (
    "VirtualService 'kept' is a copy of one that carries endpoint 'churn': no change reaches its routes; delete it, or take its "
    "annotations '*.churn' and its routes 'mlflow-istio.churn.*' away"
)


@pytest.mark.parametrize("verb", [*(verb for verb in VERBS if verb != "removal"), "abort", "rollback"])
def test_a_copy_under_another_name_is_named_by_every_change(verb: str) -> None:
    world = copied_away()
    {**VERBS, **WAYS_BACK}[verb](world.context)
    assert world.warnings.count(COPY) == 1
    assert world.history()


def test_a_copy_is_named_to_whoever_makes_an_endpoint_of_its_name() -> None:
    world = copied_away()
    world.cluster.delete("VirtualService", "churn")
    with pytest.raises(NotFound, match="VirtualService 'kept' is a copy of one that carries endpoint 'churn'"):
        shifting.promote(world.context, "churn")
    world.deploy("churn-v1")
    assert COPY in world.warnings
    shop = with_shop(deployed=("churn-v1",))
    copied(shop, "shop", "kept", "kept.example")
    shop.deploy("churn-v2")
    assert COPY in shop.warnings


def test_doctor_names_both_kinds() -> None:
    (finding,) = [one for one in examine(copied_away().context, "churn") if one.code == "copied-state"]
    assert (finding.severity, finding.text) == ("warning", COPY)
    (finding,) = [one for one in examine(twice().context, "churn") if one.code == "several-carriers"]
    assert finding.severity == "error"
    assert finding.text.startswith(TWO)
    clean = with_canary()
    assert not [one for one in examine(clean.context) if one.code in ("copied-state", "several-carriers")]
