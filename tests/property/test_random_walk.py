"""What holds after any commands in any order, with deaths at any call, on in-memory ports.

Each command runs the real use-case; a death ends it between two calls of a port. Nothing is repaired between the steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import name_of, ready_replicas
from mlflow_istio.core.endpoint.endpoint import Endpoint, has_endpoint
from mlflow_istio.core.endpoint.registry_state import nothing_stands, registry_state_of
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.mesh.destination_rule import subsets_of
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves.strategies import STRATEGIES, TrafficRequest
from mlflow_istio.errors import MlflowIstioError
from mlflow_istio.releases import ledger
from mlflow_istio.releases.context import Context, Outcome, deployments_of, versions_of
from mlflow_istio.releases.deploying import deployments, removal
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import Fate, Killed, World, a_request, a_world, mortal, with_canary

NAMES = ("churn-v1", "churn-v2", "churn-v3")
Command = tuple[str, Callable[[Context], Any]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, and what befalls it.

    Attributes:
        text: What a failing example is told by.
        command: The use-case.
        death: Which call of a port is its last, and whether that call took effect; None: it lives.
        registry_down: Whether the registry is down meanwhile.
    """

    text: str
    command: Callable[[Context], Any]
    death: tuple[int, bool] | None = None
    registry_down: bool = False

    def __repr__(self) -> str:
        death = f", dies {'after' if self.death[1] else 'before'} call {self.death[0]}" if self.death else ""
        return f"<{self.text}{death}{', registry down' if self.registry_down else ''}>"


def _wish(strategy: str, weight: int) -> TrafficRequest:
    if strategy == "shadow":
        return TrafficRequest(mirror=float(max(1, weight)))
    if strategy == "ab":
        return TrafficRequest(cookie="arm", weight=weight)
    return TrafficRequest(weight=100 if strategy == "blue-green" and weight else weight)


def _deploy(name: str) -> Command:
    return f"deploy {name}", lambda context: deployments.deploy(context, a_request(name))


def _deploy_as(name: str, strategy: str, weight: int, supersede: bool) -> Command:
    request = a_request(name, strategy=strategy, traffic_request=_wish(strategy, weight), supersede=supersede)
    return f"deploy {name} as {strategy} {weight}", lambda context: deployments.deploy(context, request)


def _start(name: str, strategy: str, weight: int, supersede: bool) -> Command:
    options: dict[str, Any] = {"strategy": strategy, "candidates": (name,), "traffic_request": _wish(strategy, weight)}
    return f"start {strategy} {weight} of {name}", lambda context: shifting.start(
        context, "churn", supersede=supersede, **options
    )


def _shift(weight: int) -> Command:
    return f"shift to {weight}", lambda context: shifting.shift(context, "churn", TrafficRequest(weight=weight))


def _end(verb: str) -> Command:
    return verb, lambda context: getattr(shifting, verb)(context, "churn")


def _rollback_to(number: int) -> Command:
    return f"rollback to {number}", lambda context: rollback_to(context, "churn", str(number), as_request=_as_request)


def _as_request(name: str, uri: str) -> DeployRequest:
    return replace(a_request(name), model_uri=uri, endpoint="churn")


def _scale(name: str, replicas: int) -> Command:
    return f"scale {name} to {replicas}", lambda context: deployments.update(
        context, name, replicas=replicas, wait=False
    )


def _delete(name: str) -> Command:
    return f"delete {name}", lambda context: removal.delete(context, name)


def _delete_endpoint(force: bool) -> Command:
    text = "delete endpoint" + (" by force" if force else "")
    return text, lambda context: removal.delete_endpoint(context, "churn", force=force)


ANY_NAME, STRATEGY, WEIGHT = st.sampled_from(NAMES), st.sampled_from(STRATEGIES), st.sampled_from((0, 1, 50, 100))
DELETE = st.builds(_delete, ANY_NAME)
COMMANDS = st.one_of(
    DELETE,
    st.builds(_deploy, ANY_NAME),
    st.builds(_deploy_as, ANY_NAME, STRATEGY, WEIGHT, st.booleans()),
    st.builds(_start, ANY_NAME, STRATEGY, WEIGHT, st.booleans()),
    st.builds(_shift, WEIGHT),
    st.builds(_end, st.sampled_from(("promote", "rollback", "abort", "pause", "resume"))),
    st.builds(_end, st.just("promote")),
    st.builds(_rollback_to, st.integers(1, 9)),
    st.builds(_scale, ANY_NAME, st.sampled_from((0, 1, 2))),
    st.builds(_delete_endpoint, st.booleans()),
    DELETE,
)


DEATH = st.tuples(st.sampled_from(range(1, 21)), st.booleans())


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """A command that dies as often as it lives; one that is forced to lose changes never meets a dead registry."""
    text, command = draw(COMMANDS)
    death = draw(st.none() | DEATH)
    down = "by force" not in text and draw(st.sampled_from((False, False, False, True)))
    return Step(text=text, command=command, death=death, registry_down=down)


def carry_out(world: World, step: Step) -> Any:
    """Run a step; its result, or None when it was refused or died."""
    world.registry.down = step.registry_down
    fate = Fate(call=step.death[0] if step.death else 0, replied=bool(step.death and step.death[1]))
    try:
        return step.command(mortal(world.context, fate))
    except (MlflowIstioError, Killed):
        return None
    finally:
        world.registry.down = False


def the_endpoint(world: World) -> Endpoint | None:
    found = world.cluster.get("VirtualService", "churn")
    return read_endpoint(found, "churn") if found and has_endpoint(found, "churn") else None


def check_weights(world: World) -> None:
    """Weights sum to 100, and whatever gets live traffic has its subset and a ready pod."""
    virtual_service = world.cluster.get("VirtualService", "churn")
    if virtual_service is None:
        return
    subsets = subsets_of(world.cluster.get("DestinationRule", "churn") or {})
    ready = {name_of(obj) for obj in world.cluster.list("Deployment", {}) if ready_replicas(obj)}
    for route in virtual_service["spec"]["http"]:
        shares = route.get("route", [])
        if len(shares) > 1:
            assert sum(share["weight"] for share in shares) == 100
        if ".pin." in route["name"]:
            continue
        for share in (*shares, *route.get("mirrors", ())):
            if share.get("weight", 100) > 0:
                assert share["destination"]["subset"] in subsets
                assert share["destination"]["subset"] in ready


def check_ledger(world: World) -> None:
    """What is recorded and what waits on the object tell one story: every change once, in order, without a gap."""
    endpoint = the_endpoint(world)
    recorded = list(world.registry.history("prod", "churn"))
    waiting = [change for change in (endpoint.outbox if endpoint else ()) if change.id not in ids(recorded)]
    story = [*recorded, *waiting]
    assert [change.sequence for change in story] == list(range(1, len(story) + 1))
    assert len(set(ids(story))) == len(story)
    before = None
    for change in story:
        assert change.before == before, f"change {change.sequence} ({change.action}) starts from other traffic"
        before = change.after
    if endpoint is None:
        assert before is None, "the endpoint is gone, but no change says so"
    else:
        assert endpoint.sequence == len(story)
        assert endpoint.change == story[-1].id
        assert before == (None if endpoint.deleting else endpoint.traffic)


def ids(changes: list[RoutingChange]) -> list[str]:
    return [change.id for change in changes]


def check_tags(world: World) -> None:
    """Tags and aliases say what stands now, and nothing else."""
    endpoint = the_endpoint(world)
    versions = versions_of(deployments_of(world.cluster, "churn"))
    standing = registry_state_of(endpoint, "prod", versions) if endpoint else nothing_stands("prod", "churn", {}, ())
    wanted = {served.version: served.tags("prod", "churn") for served in standing.served}
    assert {label: tags for label, tags in world.registry.tags.items() if tags} == wanted
    pointing = {key: version for key, version in standing.aliases.items() if version is not None}
    assert world.registry.aliases == pointing


def _promoted() -> World:
    world = with_canary()
    shifting.promote(world.context, "churn")
    return world


BEGINNINGS: dict[str, World] = {
    "two deployments": a_world("churn-v1", "churn-v2"),
    "an open canary": with_canary(),
    "a promotion": _promoted(),
}


@st.composite
def walks(draw: st.DrawFn) -> list[Step]:
    """Steps in any order; in half of the walks a deletion of the endpoint dies somewhere among them."""
    walk = draw(st.lists(steps(), min_size=1, max_size=5))
    if draw(st.booleans()):
        text, command = _delete_endpoint(draw(st.booleans()))
        walk.append(Step(text=text, command=command, death=draw(DEATH)))
    return [*walk, *draw(st.lists(steps(), min_size=3, max_size=8))]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(beginning=st.sampled_from(sorted(BEGINNINGS)), walk=walks())
def test_any_walk_keeps_weights_ledger_and_tags(beginning: str, walk: list[Step]) -> None:
    world = copy.deepcopy(BEGINNINGS[beginning])
    for step in walk:
        outcome = carry_out(world, step)
        check_weights(world)
        check_ledger(world)
        done = outcome is True or (isinstance(outcome, Outcome) and outcome.endpoint is not None)
        if done and not step.registry_down:
            check_tags(world)
    if the_endpoint(world) is not None:
        assert ledger.flush_outbox(world.context, "churn") == ()
        endpoint = the_endpoint(world)
        assert endpoint is not None
        assert endpoint.outbox == ()
        check_ledger(world)
        check_tags(world)
