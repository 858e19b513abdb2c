"""Any process can die at any point; the same command run again finishes the work.

Each command is killed at each single call of a port, before and after the call took effect, and given again. What is then
in the cluster and in the registry must be what an undisturbed run leaves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.core.moves.strategies import Wish
from mlflow_istio.core.policy.settings import Fault, PolicyWish, Rule
from mlflow_istio.errors import MlflowIstioError, NotReady
from mlflow_istio.releases.context import Desk
from mlflow_istio.releases.deploying import deployments, removal
from mlflow_istio.releases.deploying.adoption import adopt, adopt_and_deploy
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.deploying.sharing import HostShare
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.moving import policy, shifting
from tests.support.in_memory import Fate, Killed, World, a_request, a_world, mortal, with_canary, with_shop


@dataclass(frozen=True, kw_only=True)
class Case:
    """A world as it is before, and a command.

    Attributes:
        world: Makes the world.
        command: What is killed and given again.
        refusal: The error with which even an undisturbed run ends.
    """

    world: Callable[[], World]
    command: Callable[[Desk], Any]
    refusal: type[MlflowIstioError] | None = None


def start(desk: Desk, **changes: Any) -> Any:
    options: dict[str, Any] = {"strategy": "canary", "candidates": ("churn-v2",), "wish": Wish(weight=10)}
    return shifting.start(desk, "churn", **{**options, **changes})


def promoted() -> World:
    world = with_canary()
    shifting.promote(world.desk, "churn")
    return world


def owing() -> World:
    """Three changes were made while the registry was down."""
    world = with_canary()
    world.registry.down = True
    for weight in (20, 30):
        shifting.shift(world.desk, "churn", Wish(weight=weight))
    shifting.promote(world.desk, "churn")
    world.registry.down = False
    return world


def never_ready() -> World:
    world = a_world("churn-v1")
    world.cluster.unready.add("churn-v2")
    return world


def nothing_ready() -> World:
    world = World()
    world.cluster.unready.add("churn-v1")
    return world


def two() -> World:
    return a_world("churn-v1", "churn-v2")


def without_the_first() -> World:
    world = promoted()
    removal.delete(world.desk, "churn-v1")
    return world


def back(desk: Desk, to: int) -> Any:
    return rollback_to(
        desk, "churn", str(to), as_request=lambda name, uri: replace(a_request(name), model_uri=uri, endpoint="churn")
    )


def overdue() -> World:
    """A fault and a kept version whose time is over."""
    world = with_canary()
    shifting.promote(world.desk, "churn", keep_old=timedelta(seconds=-1))
    policy.start_fault(world.desk, "churn", Fault(abort=503, until=world.desk.clock.now()))
    return world


SETTINGS = PolicyWish(changes={"timeout": "2s", "connection_pool": {"tcp": {"maxConnections": 1}}})
STAFF = Rule(name="staff", deployment="churn-v2", match=({"headers": {"x-user": {"exact": "staff"}}},))
UNDER = HostShare(under="models", claim=Claim(path="/api"))


def under_a_host() -> World:
    world = World()
    world.deploy("churn-v1", share=UNDER)
    return world


CANARY = {"strategy": "canary", "wish": Wish(weight=10)}
CASES = {
    "first deployment": Case(world=World, command=lambda desk: deployments.deploy(desk, a_request("churn-v1"))),
    "first deployment that does not come up": Case(
        world=nothing_ready, command=lambda desk: deployments.deploy(desk, a_request("churn-v1")), refusal=NotReady
    ),
    "second deployment": Case(
        world=lambda: a_world("churn-v1"), command=lambda desk: deployments.deploy(desk, a_request("churn-v2"))
    ),
    "second deployment that does not come up": Case(
        world=never_ready, command=lambda desk: deployments.deploy(desk, a_request("churn-v2")), refusal=NotReady
    ),
    "deployment of a canary": Case(
        world=lambda: a_world("churn-v1"),
        command=lambda desk: deployments.deploy(desk, a_request("churn-v2", **CANARY)),
    ),
    "deployment of another model's challenger": Case(
        world=lambda: a_world("churn-v1"),
        command=lambda desk: deployments.deploy(
            desk, a_request("forest-v1", endpoint="churn", strategy="shadow", wish=Wish(mirror=5))
        ),
    ),
    "deployment that supersedes": Case(
        world=lambda: a_world("churn-v1", "churn-v2", **CANARY),
        command=lambda desk: deployments.deploy(desk, a_request("churn-v3", supersede=True, **CANARY)),
    ),
    "more replicas": Case(world=two, command=lambda desk: deployments.update(desk, "churn-v2", replicas=3)),
    "canary": Case(world=two, command=start),
    "canary with an id": Case(world=two, command=lambda desk: start(desk, release_id="job-7")),
    "A/B": Case(world=two, command=lambda desk: start(desk, strategy="ab", wish=Wish(cookie="arm", weight=50))),
    "shadow": Case(world=two, command=lambda desk: start(desk, strategy="shadow", wish=Wish())),
    "superseding release": Case(
        world=with_canary, command=lambda desk: start(desk, candidates=("churn-v3",), supersede=True)
    ),
    "shift": Case(world=with_canary, command=lambda desk: shifting.shift(desk, "churn", Wish(weight=50))),
    "promote": Case(world=with_canary, command=lambda desk: shifting.promote(desk, "churn")),
    "rollback of an open release": Case(world=with_canary, command=lambda desk: shifting.rollback(desk, "churn")),
    "rollback of a promotion": Case(world=promoted, command=lambda desk: shifting.rollback(desk, "churn")),
    "rollback to an earlier change": Case(world=promoted, command=lambda desk: back(desk, 4)),
    "rollback to an earlier change whose deployment is gone": Case(
        world=without_the_first, command=lambda desk: back(desk, 1)
    ),
    "abort": Case(world=with_canary, command=lambda desk: shifting.abort(desk, "churn")),
    "pause": Case(world=with_canary, command=lambda desk: shifting.pause(desk, "churn")),
    "rollback with changes that the registry lacks": Case(
        world=owing, command=lambda desk: shifting.rollback(desk, "churn")
    ),
    "removal of a deployment": Case(world=with_canary, command=lambda desk: removal.delete(desk, "churn-v3")),
    "removal of a deployment, with changes that the registry lacks": Case(
        world=owing, command=lambda desk: removal.delete(desk, "churn-v3")
    ),
    "removal of the version that was replaced": Case(
        world=promoted, command=lambda desk: removal.delete(desk, "churn-v1")
    ),
    "deletion of an endpoint": Case(world=two, command=lambda desk: removal.delete_endpoint(desk, "churn")),
    "deletion of an endpoint, with changes that the registry lacks": Case(
        world=owing, command=lambda desk: removal.delete_endpoint(desk, "churn")
    ),
    "settings on both objects": Case(world=two, command=lambda desk: policy.set_policy(desk, "churn", SETTINGS)),
    "route of its own": Case(world=two, command=lambda desk: policy.set_rule(desk, "churn", STAFF)),
    "fault": Case(
        world=two,
        command=lambda desk: policy.start_fault(desk, "churn", Fault(abort=503, until=desk.clock.now())),
    ),
    "sweep of what is over": Case(world=overdue, command=sweep),
    "adoption": Case(world=with_shop, command=lambda desk: adopt(desk, "churn", virtual_service="shop", route="main")),
    "adoption with a canary": Case(
        world=with_shop,
        command=lambda desk: adopt_and_deploy(
            desk, a_request("churn-v1", **CANARY), virtual_service="shop", route="main"
        ),
    ),
    "promotion over a foreign stable": Case(
        world=lambda: with_shop(deployed=("churn-v1",)),
        command=lambda desk: start(desk, candidates=("churn-v1",), wish=Wish(weight=100)),
    ),
    "deletion of an adopted endpoint": Case(
        world=lambda: with_shop(deployed=("churn-v1",)), command=lambda desk: removal.delete_endpoint(desk, "churn")
    ),
    "first deployment under a shared host": Case(
        world=World, command=lambda desk: deployments.deploy(desk, a_request("churn-v1", share=UNDER))
    ),
    "deletion of an endpoint under a shared host": Case(
        world=under_a_host, command=lambda desk: removal.delete_endpoint(desk, "churn")
    ),
    "forced deletion of an endpoint with a release": Case(
        world=with_canary, command=lambda desk: removal.delete_endpoint(desk, "churn", force=True)
    ),
}


def carry_out(case: Case, desk: Desk) -> None:
    if case.refusal is None:
        case.command(desk)
    else:
        with pytest.raises(case.refusal):
            case.command(desk)


def undisturbed(case: Case) -> tuple[str, int]:
    """What an undisturbed run leaves, and how many calls it makes."""
    world, fate = case.world(), Fate(call=0, replied=False)
    carry_out(case, mortal(world.desk, fate))
    return world.text(), fate.calls


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_killed_at_any_call_and_given_again_a_command_leaves_what_it_would_have(case: Case, replied: bool) -> None:
    expected, calls = undisturbed(case)
    assert calls >= 3
    before = case.world()
    for call in range(1, calls + 1):
        world = copy.deepcopy(before)
        with pytest.raises(Killed):
            carry_out(case, mortal(world.desk, Fate(call=call, replied=replied)))
        carry_out(case, world.desk)
        assert world.text() == expected, f"killed at call {call} of {calls}"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_given_twice_a_command_leaves_what_it_leaves_once(case: Case) -> None:
    expected, _ = undisturbed(case)
    world = case.world()
    for _ in range(2):
        carry_out(case, world.desk)
    assert world.text() == expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_killed_twice_at_the_same_call_it_still_finishes(case: Case) -> None:
    expected, calls = undisturbed(case)
    before = case.world()
    for call in range(1, calls + 1):
        world = copy.deepcopy(before)
        for _ in range(2):
            try:
                carry_out(case, mortal(world.desk, Fate(call=call, replied=True)))
            except Killed:
                continue
        carry_out(case, world.desk)
        assert world.text() == expected, f"killed twice at call {call} of {calls}"
