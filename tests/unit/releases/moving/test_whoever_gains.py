"""Whoever gains users by any verb is there, ready, reachable and asked first, whatever of our routes others have left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object, is_own_route
from mlflow_istio.core.matching.probe import Probe
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import CustomRoute, PolicyRequest
from mlflow_istio.errors import MlflowIstioError, NotReady, NotRouted, StateConflict
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import mending
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.releases.reading.doctor import examine
from tests.support.foreign_edits import edit
from tests.support.in_memory import World, a_request, a_world, with_canary, with_shop

STAFF = CustomRoute(name="staff", deployment="churn-v2", match=({"headers": {"x-user": {"exact": "staff"}}},))


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb by which a deployment gains users.

    Attributes:
        world: Makes the world.
        command: What is done.
        gains: Who gains.
    """

    world: Callable[[], World]
    command: Callable[[Context], Any]
    gains: str = "churn-v2"


def two() -> World:
    return a_world("churn-v1", "churn-v2")


def shopping(weight: int = 10) -> World:
    """churn-v2 is a canary behind a route that somebody else owns."""
    world = with_shop(deployed=("churn-v2",))
    start(world.context, traffic_request=TrafficRequest(weight=weight))
    return world


def promoted() -> World:
    world = with_canary()
    shifting.promote(world.context, "churn")
    return world


def ruled(world: World) -> World:
    policy.set_rule(world.context, "churn", STAFF)
    return world


def closed() -> World:
    world = with_canary(50)
    policy.set_policy(world.context, "churn", PolicyRequest(changes={"maintenance": {"status": 503}}))
    return world


def shadowed() -> World:
    return a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=5))


def start(context: Context, **changes: Any) -> Any:
    options = {"strategy": "canary", "candidates": ("churn-v2",), "traffic_request": TrafficRequest(weight=10)}
    return shifting.start(context, "churn", **{**options, **changes})


def back(context: Context, to: int) -> Any:
    return rollback_to(
        context,
        "churn",
        str(to),
        as_request=lambda name, uri: replace(a_request(name), model_uri=uri, endpoint="churn", ready_timeout=1),
    )


def mended(context: Context) -> None:
    problems = [one.problem for one in mending.mend(context, examine(context, "churn")) if one.problem]
    if problems:
        raise StateConflict("; ".join(problems))


def without_rule() -> World:
    """A route of its own that somebody took away."""
    world = ruled(two())
    edit(world, "VirtualService", lambda obj: _without(obj, "rule.staff"))
    return world


VERBS = {
    "start of a canary": Verb(world=two, command=start),
    "start of an A/B test": Verb(
        world=two,
        command=lambda context: start(context, strategy="ab", traffic_request=TrafficRequest(header="x-arm")),
    ),
    "start of a blue-green": Verb(
        world=two,
        command=lambda context: start(context, strategy="blue-green", traffic_request=TrafficRequest(weight=100)),
    ),
    "start of a shadow": Verb(
        world=two, command=lambda context: start(context, strategy="shadow", traffic_request=TrafficRequest(mirror=5))
    ),
    "start that supersedes": Verb(
        world=with_canary,
        command=lambda context: start(context, candidates=("churn-v3",), supersede=True),
        gains="churn-v3",
    ),
    "shift": Verb(
        world=with_canary, command=lambda context: shifting.shift(context, "churn", TrafficRequest(weight=40))
    ),
    "shift behind an adopted route": Verb(
        world=shopping, command=lambda context: shifting.shift(context, "churn", TrafficRequest(weight=40))
    ),
    "requests of its own": Verb(
        world=with_canary,
        command=lambda context: shifting.shift(context, "churn", TrafficRequest(match=STAFF.match)),
    ),
    "more copies": Verb(
        world=shadowed, command=lambda context: shifting.shift(context, "churn", TrafficRequest(mirror=50))
    ),
    "promote": Verb(world=with_canary, command=lambda context: shifting.promote(context, "churn")),
    "promote behind an adopted route": Verb(world=shopping, command=lambda context: shifting.promote(context, "churn")),
    "abort": Verb(world=with_canary, command=lambda context: shifting.abort(context, "churn"), gains="churn-v1"),
    "rollback of a promotion": Verb(
        world=promoted, command=lambda context: shifting.rollback(context, "churn"), gains="churn-v1"
    ),
    "rollback to an earlier change": Verb(world=promoted, command=lambda context: back(context, 4), gains="churn-v1"),
    "route of its own": Verb(world=two, command=lambda context: policy.set_rule(context, "churn", STAFF)),
    "end of a maintenance": Verb(
        world=closed,
        command=lambda context: policy.set_policy(context, "churn", PolicyRequest(changes={"maintenance": None})),
    ),
    "mending of a route of its own": Verb(world=without_rule, command=mended),
}
DEPLOYS_AGAIN = ("rollback to an earlier change",)
"""What brings up whoever is gone, or has no replica, before it asks."""


def _without(obj: Object, *ends: str) -> None:
    http = obj["spec"]["http"]
    obj["spec"]["http"] = [route for route in http if not str(route.get("name")).endswith(ends)]


def carrier(world: World) -> str:
    return world.endpoint().virtual_service


def no_pins(world: World, name: str) -> None:
    edit(world, "VirtualService", lambda obj: _without(obj, f".pin.{name}"), carrier(world))


def bent_pin(world: World, name: str) -> None:
    def bend(obj: Object) -> None:
        (route,) = [one for one in obj["spec"]["http"] if str(one.get("name")).endswith(f".pin.{name}")]
        route["route"][0]["destination"]["subset"] = "another"

    edit(world, "VirtualService", bend, carrier(world))


def unready(world: World, name: str) -> None:
    world.cluster.unready.add(name)


def no_replicas(world: World, name: str) -> None:
    def scale(obj: Object) -> None:
        obj["spec"]["replicas"] = 0

    edit(world, "Deployment", scale, name)


def gone(world: World, name: str) -> None:
    world.cluster.delete("Deployment", name)


def no_subset(world: World, name: str) -> None:
    def drop(obj: Object) -> None:
        obj["spec"]["subsets"] = [one for one in obj["spec"]["subsets"] if one["name"] != name]

    edit(world, "DestinationRule", drop)


def bent_subset(world: World, name: str) -> None:
    def bend(obj: Object) -> None:
        for subset in obj["spec"]["subsets"]:
            if subset["name"] == name:
                subset["labels"] = {"version": "another"}

    edit(world, "DestinationRule", bend)


def no_rule(world: World, _name: str) -> None:
    world.cluster.delete("DestinationRule", "churn")


def no_service(world: World, _name: str) -> None:
    world.cluster.delete("Service", "churn")


def both(*damages: Callable[[World, str], None]) -> Callable[[World, str], None]:
    def act(world: World, name: str) -> None:
        for damage in damages:
            damage(world, name)

    return act


FATAL: dict[str, tuple[Callable[[World, str], None], type[MlflowIstioError]]] = {
    "no ready replica": (unready, NotReady),
    "scaled to 0": (no_replicas, NotReady),
    "deployment gone": (gone, StateConflict),
    "subset selects others": (bent_subset, StateConflict),
    "header route gone, no ready replica": (both(no_pins, unready), NotReady),
    "header route gone, deployment gone": (both(no_pins, gone), StateConflict),
    "header route gone, subset selects others": (both(no_pins, bent_subset), StateConflict),
}
MENDED = {
    "header route gone": no_pins,
    "header route leads elsewhere": bent_pin,
    "Service gone": no_service,
}
MENDED_ON_THE_WAY_BACK = {
    "subset gone": no_subset,
    "DestinationRule gone": no_rule,
    "all of them gone": both(no_pins, no_rule, no_service),
}
WAYS_BACK = ("abort", "rollback of a promotion", "rollback to an earlier change")


def traffic(world: World) -> tuple[Any, ...]:
    endpoint = world.endpoint()
    return (
        endpoint.traffic.split,
        endpoint.traffic.arms,
        endpoint.traffic.mirrors,
        endpoint.traffic.policy,
        endpoint.release,
    )


@pytest.mark.parametrize("damage", FATAL)
@pytest.mark.parametrize("verb", VERBS)
def test_nobody_gains_who_could_not_answer(verb: str, damage: str) -> None:
    case, (act, error) = VERBS[verb], FATAL[damage]
    if verb in DEPLOYS_AGAIN and error is not StateConflict:
        error = NotReady
    world = case.world()
    act(world, case.gains)
    before, recorded = traffic(world), world.history()
    if verb in DEPLOYS_AGAIN and damage.endswith(("deployment gone", "scaled to 0")):
        case.command(world.context)  # it is brought back, and asked then
        assert world.cluster.get("Deployment", case.gains)["status"]["readyReplicas"] == 1  # type: ignore[index]
        return
    with pytest.raises((error, StateConflict) if verb.startswith("mending") else error, match=case.gains):
        case.command(world.context)
    assert (traffic(world), world.history()) == (before, recorded)


@pytest.mark.parametrize("damage", MENDED_ON_THE_WAY_BACK)
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in WAYS_BACK and not verb.startswith("mending")])
def test_nobody_gains_whose_subset_somebody_took_away_but_on_the_way_back(verb: str, damage: str) -> None:
    """Argo Rollouts 4612: a canary sized for 5% got 70%, because the subset came late."""
    case = VERBS[verb]
    world = case.world()
    MENDED_ON_THE_WAY_BACK[damage](world, case.gains)
    before, recorded = traffic(world), world.history()
    with pytest.raises(NotRouted, match=r"deployment 'churn-v\d' gets no traffic: its subset is gone"):
        case.command(world.context)
    assert (traffic(world), world.history()) == (before, recorded)


WAYS = [
    *((verb, damage) for verb in VERBS for damage in MENDED),
    *((verb, damage) for verb in WAYS_BACK for damage in MENDED_ON_THE_WAY_BACK),
]


@pytest.mark.parametrize(("verb", "damage"), WAYS)
def test_what_leads_to_whoever_gains_is_written_again_and_proved_before_anybody_is_sent_there(
    verb: str, damage: str
) -> None:
    case = VERBS[verb]
    world = case.world()
    {**MENDED, **MENDED_ON_THE_WAY_BACK}[damage](world, case.gains)
    proved, traffic_then = [], []
    wait_routed = world.cluster.wait_routed

    def asking(probe: Probe, timeout: float) -> Sequence[str]:
        answer = wait_routed(probe, timeout)
        if probe.expected_headers and probe.headers["x-mlflow-deployment"] == case.gains:
            proved.append(probe.purpose)
            traffic_then.append(world.endpoint().traffic.weights.get(case.gains, 0))
        return answer

    world.cluster.wait_routed = asking  # type: ignore[method-assign]
    before = world.endpoint().traffic.weights.get(case.gains, 0)
    case.command(world.context)
    assert proved
    assert traffic_then[0] == before
    assert world.endpoint().missing == ()
    rule = world.cluster.get("DestinationRule", "churn")
    assert rule is not None
    assert {"name": case.gains, "labels": {"version": case.gains}} in rule["spec"]["subsets"]
    assert world.cluster.get("Service", "churn") is not None


def self_heal(world: World) -> None:
    """Git's ``spec.http`` comes back; annotations stay."""

    def heal(obj: Object) -> None:
        obj["spec"]["http"] = [route for route in obj["spec"]["http"] if not is_own_route(route)]
        obj["spec"]["http"][0]["route"] = [{"destination": {"host": "web"}}]

    edit(world, "VirtualService", heal, "shop")


HEALED: dict[str, tuple[Callable[[Context], Any], dict[str, int]]] = {
    "promote": (lambda context: shifting.promote(context, "churn"), {"churn-v2": 100, "web": 0}),
    "shift": (
        lambda context: shifting.shift(context, "churn", TrafficRequest(weight=30)),
        {"web": 70, "churn-v2": 30},
    ),
}


@pytest.mark.parametrize("verb", HEALED)
@pytest.mark.parametrize("damage", FATAL)
def test_after_a_self_heal_nobody_is_sent_to_a_dead_candidate(verb: str, damage: str) -> None:
    if damage.startswith("header route"):
        damage = "no ready replica"  # they are all gone
    world, (act, error) = shopping(), FATAL[damage]
    self_heal(world)
    act(world, "churn-v2")
    before = traffic(world)
    with pytest.raises(error, match="churn-v2"):
        HEALED[verb][0](world.context)
    assert traffic(world) == before


@pytest.mark.parametrize("verb", HEALED)
def test_after_a_self_heal_a_living_candidate_is_asked_and_gets_its_traffic(verb: str) -> None:
    world = shopping()
    self_heal(world)
    command, weights = HEALED[verb]
    command(world.context)
    assert (world.endpoint().traffic.weights, world.endpoint().missing) == (weights, ())


def test_one_that_is_gone_gets_nothing_even_by_force() -> None:
    world = with_canary()
    gone(world, "churn-v2")
    with pytest.raises(StateConflict, match="deployment 'churn-v2' is gone, so it can't get traffic"):
        shifting.promote(world.context, "churn", force=True)


def test_who_comes_to_gain_between_asking_and_writing_is_asked_too() -> None:
    """Planned on an object where churn-v2 has everything; then an older copy comes, by which promoting makes it gain."""
    world = with_canary()

    def all_to_it(obj: Object) -> None:
        entries = obj["spec"]["http"][-1]["route"]
        entries[0]["weight"], entries[1]["weight"] = 0, 100

    edit(world, "VirtualService", all_to_it)
    unready(world, "churn-v2")

    def back_again(kind: str, _name: str) -> None:
        world.cluster.before_write = lambda _kind, _name: None
        if kind == "VirtualService":

            def older(obj: Object) -> None:
                entries = obj["spec"]["http"][-1]["route"]
                entries[0]["weight"], entries[1]["weight"] = 100, 0

            edit(world, "VirtualService", older)

    world.cluster.before_write = back_again
    with pytest.raises(NotReady, match="churn-v2"):
        shifting.promote(world.context, "churn")
    assert world.endpoint().traffic.weights == {"churn-v1": 100, "churn-v2": 0}


def test_a_proxy_that_does_not_answer_holds_back_who_gains() -> None:
    world = with_canary()
    world.cluster.unroutable = True
    with pytest.raises(NotRouted, match="deployment 'churn-v2' gets no traffic"):
        shifting.promote(world.context, "churn")
