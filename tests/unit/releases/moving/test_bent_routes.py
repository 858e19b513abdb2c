"""A route of ours that its owner made match or answer otherwise is never put back on a version that could not answer.

What an owner does to a route is seen in argo-rollouts 849 (another destination) and istio 36621 (another match).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import CustomRoute, Fault, PolicyRequest
from mlflow_istio.errors import MlflowIstioError, NotReady, StateConflict
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import mending, removal
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.releases.reading.doctor import examine
from tests.support.endpoint_values import TIME
from tests.support.foreign_edits import edit, route
from tests.support.in_memory import World, a_world, with_canary
from tests.unit.releases.moving.test_whoever_gains import STAFF

LATER = TIME + timedelta(days=1000)
TO_V1 = {"route": [{"destination": {"host": "churn", "subset": "churn-v1"}}]}


def elsewhere(found: Object) -> None:
    found["route"] = copy.deepcopy(TO_V1["route"])


def to_theirs(found: Object) -> None:
    found["route"] = [{"destination": {"host": "theirs"}}]


def shared_out(found: Object) -> None:
    found["route"] = [
        {**found["route"][0], "weight": 0},
        {"destination": {"host": "churn", "subset": "churn-v1"}, "weight": 100},
    ]


def answered(found: Object) -> None:
    del found["route"]
    found["directResponse"] = {"status": 503}


def moved(found: Object) -> None:
    del found["route"]
    found["redirect"] = {"uri": "/new"}


def broken(found: Object) -> None:
    found["fault"] = {"abort": {"httpStatus": 503, "percentage": {"value": 100}}}


def narrower(found: Object) -> None:
    for match in found["match"]:
        match.setdefault("headers", {})["x-team"] = {"exact": "a"}


def another_match(found: Object) -> None:
    found["match"] = [{"headers": {"x-never": {"exact": "sent"}}}]


BENT: dict[str, Callable[[Object], None]] = {
    one.__name__: one for one in (elsewhere, to_theirs, shared_out, answered, moved, broken, narrower, another_match)
}


def bend(world: World, end: str, change: Callable[[Object], None]) -> Object:
    """Somebody edits a route of ours; the route as it stands then."""
    edit(world, "VirtualService", lambda obj: change(route(obj, end)))
    return standing(world, end)


def standing(world: World, end: str) -> Object:
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    return route(found, end)


def with_rule() -> World:
    """churn-v1 is stable, churn-v2 a canary, and staff get churn-v3."""
    world = with_canary()
    policy.set_rule(world.context, "churn", CustomRoute(name="staff", deployment="churn-v3", match=STAFF.match))
    return world


def with_arm() -> World:
    """churn-v1 is stable, churn-v3 waits, and churn-v2 is a canary that staff get."""
    return a_world(
        "churn-v1",
        "churn-v3",
        "churn-v2",
        strategy="canary",
        traffic_request=TrafficRequest(weight=0, match=STAFF.match),
    )


def unready(world: World, name: str) -> None:
    world.cluster.unready.add(name)


def gone(world: World, name: str) -> None:
    world.cluster.delete("Deployment", name)


DEAD = {"not ready": unready, "gone": gone}


def mended(context: Context) -> None:
    problems = [one.problem for one in mending.mend(context, examine(context, "churn")) if one.problem]
    if problems:
        raise StateConflict("; ".join(problems))


def faulty(context: Context) -> Any:
    return policy.start_fault(context, "churn", Fault(abort=503, until=LATER))


OTHER_VERBS: dict[str, Callable[[Context], Any]] = {
    "shift": lambda context: shifting.shift(context, "churn", TrafficRequest(weight=40)),
    "promote": lambda context: shifting.promote(context, "churn"),
    "abort": lambda context: shifting.abort(context, "churn"),
    "rollback": lambda context: shifting.rollback(context, "churn"),
    "pause": lambda context: shifting.pause(context, "churn"),
    "setting": lambda context: policy.set_policy(context, "churn", PolicyRequest(changes={"timeout": "2s"})),
    "fault": faulty,
    "another route": lambda context: policy.set_rule(
        context,
        "churn",
        CustomRoute(name="guests", deployment="churn-v2", match=({"headers": {"x-user": {"exact": "guest"}}},)),
    ),
}


@pytest.mark.parametrize("verb", OTHER_VERBS)
@pytest.mark.parametrize("how", BENT)
def test_a_bent_route_of_its_own_stays_as_its_owner_has_it_whatever_else_is_asked_for(how: str, verb: str) -> None:
    world = with_rule()
    bent = bend(world, "churn.rule.staff", BENT[how])
    gone(world, "churn-v3")
    OTHER_VERBS[verb](world.context)
    assert standing(world, "churn.rule.staff") == bent
    found = world.cluster.get("VirtualService", "churn")
    copies = [one for one in found["spec"]["http"] if one["name"].endswith(".fault.rule.staff")]  # type: ignore[index]
    assert all(one["route"] == bent["route"] for one in copies)
    assert len(copies) == (verb == "fault" and "route" in bent and "fault" not in bent)
    assert verb == "pause" or any("rule.staff' of VirtualService 'churn' stays as" in one for one in world.warnings)


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("how", BENT)
def test_a_bent_route_of_its_own_is_written_again_for_who_asks_and_only_where_somebody_answers(
    how: str, dead: str
) -> None:
    commands: tuple[Callable[[Context], Any], ...] = (
        lambda context: policy.set_rule(
            context, "churn", CustomRoute(name="staff", deployment="churn-v3", match=STAFF.match)
        ),
        lambda context: policy.set_policy(context, "churn", PolicyRequest(changes={"timeout": "2s"}, route="staff")),
        mended,
    )
    for command in commands:
        world = with_rule()
        before = standing(world, "churn.rule.staff")
        bent = bend(world, "churn.rule.staff", BENT[how])
        DEAD[dead](world, "churn-v3")
        with pytest.raises(MlflowIstioError, match="deployment 'churn-v3' (has no ready replica|is gone)"):
            command(world.context)
        assert standing(world, "churn.rule.staff") == bent
        if dead == "not ready":
            world.cluster.unready.clear()
            command(world.context)
            written = standing(world, "churn.rule.staff")
            assert {**written, "timeout": ""} == {**before, "timeout": ""}


@pytest.mark.parametrize("verb", ["pause", "setting", "fault", "another route", "abort"])
@pytest.mark.parametrize("how", BENT)
def test_a_bent_arm_stays_as_its_owner_has_it(how: str, verb: str) -> None:
    world = with_arm()
    bent = bend(world, "churn.arm.churn-v2", BENT[how])
    unready(world, "churn-v2")
    if verb == "another route":
        world.cluster.unready.clear()
    OTHER_VERBS[verb](world.context)
    if verb == "abort":
        assert world.endpoint().traffic.arms == ()
        return
    found = standing(world, "churn.arm.churn-v2")
    if how in ("narrower", "another_match"):  # which requests an arm gets is what its route says
        found.pop("timeout", None)
    assert found == bent


@pytest.mark.parametrize("how", ["elsewhere", "to_theirs", "answered"])
def test_a_bent_arm_is_written_again_for_who_asks_and_only_where_somebody_answers(how: str) -> None:
    world = with_arm()
    before = standing(world, "churn.arm.churn-v2")
    bent = bend(world, "churn.arm.churn-v2", BENT[how])
    unready(world, "churn-v2")
    for command in (lambda context: shifting.shift(context, "churn", TrafficRequest(match=STAFF.match)), mended):
        with pytest.raises((NotReady, StateConflict), match="'churn-v2' has no ready replica"):
            command(world.context)
        assert standing(world, "churn.arm.churn-v2") == bent
    world.cluster.unready.clear()
    assert shifting.shift(world.context, "churn", TrafficRequest(match=STAFF.match)).changed
    assert standing(world, "churn.arm.churn-v2") == before


@pytest.mark.parametrize("how", BENT)
def test_a_bent_header_route_is_written_again_before_it_is_asked(how: str) -> None:
    world = with_canary()
    before = standing(world, "churn.pin.churn-v2")
    bend(world, "churn.pin.churn-v2", BENT[how])
    assert world.endpoint().missing == ("pin.churn-v2",)
    shifting.promote(world.context, "churn")
    assert standing(world, "churn.pin.churn-v2") == before


@pytest.mark.parametrize("how", ["elsewhere", "answered", "another_match"])
def test_the_users_of_a_bent_copy_with_a_fault_go_nowhere_dead(how: str) -> None:
    """The copy leads to the living churn-v1, and what it copies to churn-v3, which is dead."""
    world = with_rule()
    faulty(world.context)
    bent = bend(world, "churn.fault.rule.staff", BENT[how])
    unready(world, "churn-v3")
    for command in (OTHER_VERBS["setting"], lambda context: policy.end_fault(context, "churn"), mended):
        with pytest.raises((NotReady, StateConflict), match="'churn-v3' has no ready replica"):
            command(world.context)
        assert standing(world, "churn.fault.rule.staff") == bent
    shifting.pause(world.context, "churn")
    assert standing(world, "churn.fault.rule.staff") == bent
    world.cluster.unready.clear()
    policy.end_fault(world.context, "churn")
    assert world.endpoint().bent == {}


def test_a_copy_of_the_split_that_leads_elsewhere_goes_nowhere_dead() -> None:
    world = with_canary(50)
    faulty(world.context)
    bent = bend(world, "churn.fault.split", elsewhere)
    unready(world, "churn-v2")
    with pytest.raises(NotReady, match="'churn-v2' has no ready replica"):
        OTHER_VERBS["setting"](world.context)
    assert standing(world, "churn.fault.split") == bent
    shifting.abort(world.context, "churn")  # churn-v1 has all of them anyway
    assert world.endpoint().bent == {}


def test_routes_whose_order_somebody_changed_come_back_only_where_somebody_answers() -> None:
    world = with_rule()
    other = CustomRoute(name="all", deployment="churn-v2", match=({"headers": {"x-all": {"exact": "1"}}},))
    policy.set_rule(world.context, "churn", other)

    def turn(obj: Object) -> None:
        http = obj["spec"]["http"]
        one, two = (http.index(route(obj, f"churn.rule.{name}")) for name in ("staff", "all"))
        http[one], http[two] = http[two], http[one]

    edit(world, "VirtualService", turn)
    assert world.endpoint().order == ("rule.all", "rule.staff")
    unready(world, "churn-v3")
    with pytest.raises(NotReady, match="'churn-v3' has no ready replica"):
        OTHER_VERBS["setting"](world.context)
    world.cluster.unready.clear()
    OTHER_VERBS["setting"](world.context)
    assert world.endpoint().order == ()


def test_a_route_of_ours_that_nothing_asks_for_any_more_sends_its_users_nowhere_dead() -> None:
    """Somebody brings a route back that was removed, so that staff have a living version where the split's is dead."""
    world = with_rule()
    kept = standing(world, "churn.rule.staff")
    shifting.promote(world.context, "churn")
    policy.remove_rule(world.context, "churn", "staff")
    edit(world, "VirtualService", lambda obj: obj["spec"]["http"].insert(3, kept))
    unready(world, "churn-v2")
    with pytest.raises(NotReady, match="'churn-v2' has no ready replica"):
        OTHER_VERBS["setting"](world.context)
    assert standing(world, "churn.rule.staff") == kept


def test_a_maintenance_that_somebody_ended_comes_back_only_for_who_asks() -> None:
    world = with_canary()
    closed = PolicyRequest(changes={"maintenance": {"status": 503}})
    policy.set_policy(world.context, "churn", closed)
    before = standing(world, "churn.answer")

    def opened(found: Object) -> None:
        del found["directResponse"]
        found.update(copy.deepcopy(TO_V1))

    bent = bend(world, "churn.answer", opened)
    shifting.shift(world.context, "churn", TrafficRequest(weight=20))
    assert standing(world, "churn.answer") == bent
    policy.set_policy(world.context, "churn", closed)
    assert standing(world, "churn.answer") == before
    edit(world, "VirtualService", lambda obj: obj["spec"]["http"].remove(route(obj, "churn.answer")))
    shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    assert world.endpoint().missing == ("answer",)
    policy.set_policy(world.context, "churn", closed)
    assert standing(world, "churn.answer") == before


def test_a_deletion_by_force_ends_whatever_was_bent() -> None:
    world = with_rule()
    bend(world, "churn.rule.staff", elsewhere)
    gone(world, "churn-v3")
    assert removal.delete_endpoint(world.context, "churn", force=True)
    assert world.objects() == []
