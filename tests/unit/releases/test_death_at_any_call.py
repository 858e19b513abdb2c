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

from mlflow_istio.core.mesh.attached import parse_attach
from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import CustomRoute, Fault, PolicyRequest
from mlflow_istio.core.runtime.profiles import ATTACHED
from mlflow_istio.errors import MlflowIstioError, NotReady
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import deployments, removal
from mlflow_istio.releases.deploying.adoption import adopt, adopt_and_deploy
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.deploying.sharing import HostShare
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.moving import policy, shifting
from tests.support.in_memory import Fate, Killed, World, a_request, a_world, mortal, with_canary, with_shop
from tests.unit.releases.deploying.test_attach import PREDICTOR, theirs


@dataclass(frozen=True, kw_only=True)
class Case:
    """A world as it is before, and a command.

    Attributes:
        world: Makes the world.
        command: What is killed and given again.
        refusal: The error with which even an undisturbed run ends.
    """

    world: Callable[[], World]
    command: Callable[[Context], Any]
    refusal: type[MlflowIstioError] | None = None


def start(context: Context, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "strategy": "canary",
        "candidates": ("churn-v2",),
        "traffic_request": TrafficRequest(weight=10),
    }
    return shifting.start(context, "churn", **{**options, **changes})


def promoted() -> World:
    world = with_canary()
    shifting.promote(world.context, "churn")
    return world


def owing() -> World:
    """Three changes were made while the registry was down."""
    world = with_canary()
    world.registry.down = True
    for weight in (20, 30):
        shifting.shift(world.context, "churn", TrafficRequest(weight=weight))
    shifting.promote(world.context, "churn")
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
    removal.delete(world.context, "churn-v1")
    return world


def back(context: Context, to: int) -> Any:
    return rollback_to(
        context,
        "churn",
        str(to),
        as_request=lambda name, uri: replace(a_request(name), model_uri=uri, endpoint="churn"),
    )


def overdue() -> World:
    """A fault and a kept version whose time is over."""
    world = with_canary()
    shifting.promote(world.context, "churn", keep_old=timedelta(seconds=-1))
    policy.start_fault(world.context, "churn", Fault(abort=503, until=world.context.clock.now()))
    return world


SETTINGS = PolicyRequest(changes={"timeout": "2s", "connection_pool": {"tcp": {"maxConnections": 1}}})
STAFF = CustomRoute(name="staff", deployment="churn-v2", match=({"headers": {"x-user": {"exact": "staff"}}},))
UNDER = HostShare(under="models", claim=Claim(path="/api"))


def under_a_host() -> World:
    world = World()
    world.deploy("churn-v1", share=UNDER)
    return world


def theirs_alone() -> World:
    world = World()
    world.cluster.apply(theirs())
    return world


def beside_theirs() -> World:
    world = a_world("churn-v1")
    world.cluster.apply(theirs())
    return world


def attach(context: Context, **options: Any) -> Any:
    asked = a_request("churn-v2", attach=parse_attach(f"deployment/{PREDICTOR}"), runtime=ATTACHED, **options)
    return deployments.deploy(context, asked)


def attached_beside() -> World:
    world = beside_theirs()
    attach(world.context)
    return world


CANARY = {"strategy": "canary", "traffic_request": TrafficRequest(weight=10)}
CASES = {
    "first deployment": Case(world=World, command=lambda context: deployments.deploy(context, a_request("churn-v1"))),
    "first deployment that does not come up": Case(
        world=nothing_ready,
        command=lambda context: deployments.deploy(context, a_request("churn-v1")),
        refusal=NotReady,
    ),
    "second deployment": Case(
        world=lambda: a_world("churn-v1"), command=lambda context: deployments.deploy(context, a_request("churn-v2"))
    ),
    "second deployment that does not come up": Case(
        world=never_ready, command=lambda context: deployments.deploy(context, a_request("churn-v2")), refusal=NotReady
    ),
    "deployment of a canary": Case(
        world=lambda: a_world("churn-v1"),
        command=lambda context: deployments.deploy(context, a_request("churn-v2", **CANARY)),
    ),
    "deployment of another model's challenger": Case(
        world=lambda: a_world("churn-v1"),
        command=lambda context: deployments.deploy(
            context,
            a_request("forest-v1", endpoint="churn", strategy="shadow", traffic_request=TrafficRequest(mirror=5)),
        ),
    ),
    "deployment that supersedes": Case(
        world=lambda: a_world("churn-v1", "churn-v2", **CANARY),
        command=lambda context: deployments.deploy(context, a_request("churn-v3", supersede=True, **CANARY)),
    ),
    "attaching a workload": Case(world=beside_theirs, command=attach),
    "attaching a canary": Case(world=beside_theirs, command=lambda context: attach(context, **CANARY)),
    "attaching an endpoint's first": Case(world=theirs_alone, command=attach),
    "removal of what is attached": Case(
        world=attached_beside, command=lambda context: removal.delete(context, "churn-v2")
    ),
    "deletion of an endpoint with what is attached": Case(
        world=attached_beside, command=lambda context: removal.delete_endpoint(context, "churn")
    ),
    "more replicas": Case(world=two, command=lambda context: deployments.update(context, "churn-v2", replicas=3)),
    "canary": Case(world=two, command=start),
    "canary with an id": Case(world=two, command=lambda context: start(context, release_id="job-7")),
    "A/B": Case(
        world=two,
        command=lambda context: start(context, strategy="ab", traffic_request=TrafficRequest(cookie="arm", weight=50)),
    ),
    "shadow": Case(
        world=two, command=lambda context: start(context, strategy="shadow", traffic_request=TrafficRequest())
    ),
    "superseding release": Case(
        world=with_canary, command=lambda context: start(context, candidates=("churn-v3",), supersede=True)
    ),
    "shift": Case(
        world=with_canary, command=lambda context: shifting.shift(context, "churn", TrafficRequest(weight=50))
    ),
    "promote": Case(world=with_canary, command=lambda context: shifting.promote(context, "churn")),
    "rollback of an open release": Case(world=with_canary, command=lambda context: shifting.rollback(context, "churn")),
    "rollback of a promotion": Case(world=promoted, command=lambda context: shifting.rollback(context, "churn")),
    "rollback to an earlier change": Case(world=promoted, command=lambda context: back(context, 4)),
    "rollback to an earlier change whose deployment is gone": Case(
        world=without_the_first, command=lambda context: back(context, 1)
    ),
    "abort": Case(world=with_canary, command=lambda context: shifting.abort(context, "churn")),
    "pause": Case(world=with_canary, command=lambda context: shifting.pause(context, "churn")),
    "rollback with changes that the registry lacks": Case(
        world=owing, command=lambda context: shifting.rollback(context, "churn")
    ),
    "removal of a deployment": Case(world=with_canary, command=lambda context: removal.delete(context, "churn-v3")),
    "removal of a deployment, with changes that the registry lacks": Case(
        world=owing, command=lambda context: removal.delete(context, "churn-v3")
    ),
    "removal of the version that was replaced": Case(
        world=promoted, command=lambda context: removal.delete(context, "churn-v1")
    ),
    "deletion of an endpoint": Case(world=two, command=lambda context: removal.delete_endpoint(context, "churn")),
    "deletion of an endpoint, with changes that the registry lacks": Case(
        world=owing, command=lambda context: removal.delete_endpoint(context, "churn")
    ),
    "settings on both objects": Case(world=two, command=lambda context: policy.set_policy(context, "churn", SETTINGS)),
    "route of its own": Case(world=two, command=lambda context: policy.set_rule(context, "churn", STAFF)),
    "fault": Case(
        world=two,
        command=lambda context: policy.start_fault(context, "churn", Fault(abort=503, until=context.clock.now())),
    ),
    "sweep of what is over": Case(world=overdue, command=sweep),
    "adoption": Case(
        world=with_shop, command=lambda context: adopt(context, "churn", virtual_service="shop", route="main")
    ),
    "adoption with a canary": Case(
        world=with_shop,
        command=lambda context: adopt_and_deploy(
            context, a_request("churn-v1", **CANARY), virtual_service="shop", route="main"
        ),
    ),
    "promotion over a foreign stable": Case(
        world=lambda: with_shop(deployed=("churn-v1",)),
        command=lambda context: start(context, candidates=("churn-v1",), traffic_request=TrafficRequest(weight=100)),
    ),
    "deletion of an adopted endpoint": Case(
        world=lambda: with_shop(deployed=("churn-v1",)),
        command=lambda context: removal.delete_endpoint(context, "churn"),
    ),
    "first deployment under a shared host": Case(
        world=World, command=lambda context: deployments.deploy(context, a_request("churn-v1", share=UNDER))
    ),
    "deletion of an endpoint under a shared host": Case(
        world=under_a_host, command=lambda context: removal.delete_endpoint(context, "churn")
    ),
    "forced deletion of an endpoint with a release": Case(
        world=with_canary, command=lambda context: removal.delete_endpoint(context, "churn", force=True)
    ),
}


def carry_out(case: Case, context: Context) -> None:
    if case.refusal is None:
        case.command(context)
    else:
        with pytest.raises(case.refusal):
            case.command(context)


def undisturbed(case: Case) -> tuple[str, int]:
    """What an undisturbed run leaves, and how many calls it makes."""
    world, fate = case.world(), Fate(call=0, replied=False)
    carry_out(case, mortal(world.context, fate))
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
            carry_out(case, mortal(world.context, Fate(call=call, replied=replied)))
        carry_out(case, world.context)
        assert world.text() == expected, f"killed at call {call} of {calls}"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_given_twice_a_command_leaves_what_it_leaves_once(case: Case) -> None:
    expected, _ = undisturbed(case)
    world = case.world()
    for _ in range(2):
        carry_out(case, world.context)
    assert world.text() == expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_killed_twice_at_the_same_call_it_still_finishes(case: Case) -> None:
    expected, calls = undisturbed(case)
    before = case.world()
    for call in range(1, calls + 1):
        world = copy.deepcopy(before)
        for _ in range(2):
            try:
                carry_out(case, mortal(world.context, Fate(call=call, replied=True)))
            except Killed:
                continue
        carry_out(case, world.context)
        assert world.text() == expected, f"killed twice at call {call} of {calls}"
