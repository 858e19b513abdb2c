"""Somebody edits the objects at any moment of any verb; DESIGN.md's invariants hold all the same.

Each run is made from its seed alone: ``run(seed)`` plays it again, and a failure prints what happened in it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import name_of
from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import CustomRoute, Fault, PolicyRequest
from mlflow_istio.errors import MlflowIstioError, NotFound
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import deployments, mending, removal
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.deploying.sharing import HostShare
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.driving.drive import DriverDependencies
from mlflow_istio.releases.driving.opening import open_release
from mlflow_istio.releases.driving.progressive import drive
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.releases.reading.doctor import examine
from mlflow_istio.testing import InMemoryMetrics, StillClock
from tests.support.endpoint_values import TIME
from tests.support.in_memory import World, a_request, a_shop, a_world
from tests.support.sabotages import SABOTAGES, a_service, carrier_name
from tests.support.saboteur import Broken, Watched, ended, flow
from tests.support.simulated_users import ERRORS, a_release_request

RUNS, BLOCKS, DRIVES = 2160, 12, 360
NAMES = ("churn-v1", "churn-v2", "churn-v3")
STAFF = ({"headers": {"x-user": {"exact": "staff"}}},)
Verb = Callable[[Context, random.Random], Any]


def _start(context: Context, chance: random.Random) -> Any:
    strategy, request = chance.choice(
        (
            ("canary", TrafficRequest(weight=chance.choice((0, 10, 50)))),
            ("canary", TrafficRequest(weight=5, match=STAFF)),
            ("blue-green", TrafficRequest()),
            ("shadow", TrafficRequest(mirror=50)),
            (
                "ab",
                TrafficRequest(header="x-arm", weight=20, values={"churn-v1": "a", "churn-v2": "b", "churn-v3": "c"}),
            ),
        )
    )
    candidate = chance.choice(("churn-v1", "churn-v2", "churn-v3"))
    if request.values:
        stable = next((name for name in ("churn-v1", "churn-v2", "churn-v3") if name != candidate), "")
        request = replace(request, values={candidate: "b", stable: "a"})
    return shifting.start(
        context,
        "churn",
        strategy=strategy,
        candidates=(candidate,),
        traffic_request=request,
        supersede=chance.random() < 0.5,
    )


def _shift(context: Context, chance: random.Random) -> Any:
    request = chance.choice(
        (TrafficRequest(weight=chance.choice((0, 20, 70, 100))), TrafficRequest(mirror=80), TrafficRequest(match=STAFF))
    )
    return shifting.shift(context, "churn", request)


def _back(context: Context, chance: random.Random) -> Any:
    return rollback_to(
        context,
        "churn",
        str(chance.randint(1, 6)),
        as_request=lambda name, uri: replace(a_request(name), model_uri=uri, endpoint="churn"),
    )


def _policy(context: Context, chance: random.Random) -> Any:
    changes = chance.choice(({"timeout": "2s"}, {"maintenance": {"status": 503}}, {"maintenance": None}))
    return policy.set_policy(context, "churn", PolicyRequest(changes=changes))


PATIENT = 150
"""How often a driver sleeps before somebody looks why it does not end."""


class Impatient(StillClock):
    """A clock during whose sleeps users send requests where routes lead; whoever drives a paused release is interrupted at last."""

    def __init__(self, world: World, chance: random.Random) -> None:
        super().__init__()
        self.world, self.metrics, self.slept = world, InMemoryMetrics(), 0
        self.errors = {name: chance.choice((0.0, 0.01, 0.3)) for name in NAMES}

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.slept += seconds >= 1
        found = self.world.cluster.get("VirtualService", carrier_name(self.world))
        for (host, subset), share in flow(found, {}).items():
            requests = round(seconds * share)
            name = subset or host
            self.metrics.serve(name, requests, errors=round(requests * self.errors.get(name, 0.0)))
        if self.slept > PATIENT:
            raise Interrupted("nobody ends it")


class Interrupted(KeyboardInterrupt):
    """Somebody gives up waiting for a driver."""


def _drive(context: Context, chance: random.Random, release: str | None = None) -> Any:
    clock = context.clock
    assert isinstance(clock, Impatient)
    clock.slept = 0
    dependencies = DriverDependencies(metrics=clock.metrics)
    try:
        return drive(context, dependencies, "churn", release=release, take_over=chance.random() < 0.3)
    except Interrupted:
        if (endpoint := clock.world.endpoint()).release is None or endpoint.release.state != "paused":
            raise Broken("a drive does not end") from None
        return None


def _release(context: Context, chance: random.Random) -> Any:
    """Open a progressive release and drive it to its end."""
    candidate = chance.choice(NAMES)
    strategy, steps, guards = chance.choice(
        (
            ("canary", (10, 50), ()),
            ("canary", (10, 50), ERRORS),
            ("canary", (100,), ERRORS),
            ("blue-green", (0, 100), ERRORS),
            ("shadow", (50,), ()),
        )
    )
    request = a_release_request(
        {
            "candidates": (candidate,),
            "deployments": (a_request(candidate),),
            "supersede": chance.random() < 0.5,
            "traffic_request": TrafficRequest(match=STAFF)
            if strategy == "canary" and chance.random() < 0.3
            else TrafficRequest(),
        },
        strategy=strategy,
        candidates=(candidate,),
        steps=steps,
        guards=guards,
        hold=10.0,
        min_requests=50,
        deadline=chance.choice((30.0, 300.0)),
        undecided=chance.choice(("rollback", "hold")),
        promote=chance.random() < 0.8,
        watch=40.0 if guards and chance.random() < 0.4 else 0.0,
    )
    return _drive(context, chance, open_release(context, DriverDependencies(), request))


def _resume(context: Context, chance: random.Random) -> Any:
    shifting.resume(context, "churn")
    return _drive(context, chance)


DRIVING: dict[str, Verb] = {"release": _release, "drive": _resume}
VERBS: dict[str, Verb] = {
    "deploy": lambda context, chance: deployments.deploy(context, a_request(f"churn-v{chance.randint(1, 3)}")),
    "start": _start,
    "shift": _shift,
    "promote": lambda context, _chance: shifting.promote(context, "churn"),
    "abort": lambda context, _chance: shifting.abort(context, "churn"),
    "rollback": lambda context, _chance: shifting.rollback(context, "churn"),
    "rollback to": _back,
    "pause": lambda context, _chance: shifting.pause(context, "churn"),
    "resume": lambda context, _chance: shifting.resume(context, "churn"),
    "route": lambda context, chance: policy.set_rule(
        context, "churn", CustomRoute(name="staff", deployment=f"churn-v{chance.randint(1, 3)}", match=STAFF)
    ),
    "no route": lambda context, _chance: policy.remove_rule(context, "churn", "staff"),
    "policy": _policy,
    "fault": lambda context, _chance: policy.start_fault(context, "churn", Fault(abort=503, until=TIME)),
    "end of a fault": lambda context, _chance: policy.end_fault(context, "churn"),
    "delete": lambda context, chance: removal.delete(context, f"churn-v{chance.randint(1, 3)}"),
    "sweep": lambda context, _chance: sweep(context),
    "doctor": lambda context, _chance: mending.mend(context, examine(context, "churn")),
    "more replicas": lambda context, chance: deployments.update(
        context, f"churn-v{chance.randint(1, 3)}", replicas=chance.randint(0, 2)
    ),
    "delete endpoint": lambda context, _chance: removal.delete_endpoint(context, "churn"),
    "adopt": lambda context, _chance: adopt(context, "churn", virtual_service="shop", route="main"),
}
FORCED: dict[str, Verb] = {
    "delete": lambda context, chance: removal.delete(context, f"churn-v{chance.randint(1, 3)}", force=True),
    "promote": lambda context, _chance: shifting.promote(context, "churn", force=True),
    "rollback": lambda context, _chance: shifting.rollback(context, "churn", force=True),
    "abort": lambda context, _chance: shifting.abort(context, "churn", force=True),
}
OFTEN = ("start", "start", "shift", "shift", "promote", "promote", "abort", "rollback", "rollback")


def own() -> World:
    return a_world("churn-v1", "churn-v2", "churn-v3")


def shopping() -> World:
    world = World()
    world.cluster.apply(a_shop())
    world.cluster.apply(a_service("web"))
    adopt(world.context, "churn", virtual_service="shop", route="main")
    for name in ("churn-v1", "churn-v2"):
        world.deploy(name)
    return world


def shared() -> World:
    world = World()
    for name in ("churn-v1", "churn-v2"):
        world.deploy(name, share=HostShare(under="models", claim=Claim(path="/api")))
    return world


_WORLDS = (own, shopping, shopping, shared)
_MADE: dict[str, World] = {}


def _world(make: Callable[[], World]) -> World:
    if make.__name__ not in _MADE:
        _MADE[make.__name__] = make()
    return copy.deepcopy(_MADE[make.__name__])


def run(seed: int, *, driven: bool = False) -> Watched:
    """Play one run; raises with what happened in it where an invariant does not hold.

    Args:
        seed: Decides everything.
        driven: Whether releases that go on by themselves are among the commands, and somebody edits objects between their looks.
    """
    chance = random.Random(seed)
    world = _world(chance.choice(_WORLDS))
    names = [chance.choice((*VERBS, *OFTEN)) for _ in range(chance.randint(2, 6))]
    calls = 18 * len(names)
    if driven:
        names = [
            *names[: chance.randint(0, 2)],
            *chance.choice((("release",), ("release", "release"), ("release", "drive"))),
        ]
        calls = 60 * len(names)
    plan = {chance.randint(1, calls): chance.choice(list(SABOTAGES)) for _ in range(chance.randint(1, 4))}
    watched = Watched(world=world, plan=plan, chance=random.Random(seed + 1))
    watched.times.originals += [a_shop()] if carrier_name(world) == "shop" else []
    watched.times.carriers += [obj for obj in world.cluster.list("VirtualService", {}) if name_of(obj) != "models"]
    watched.times.rules += world.cluster.list("DestinationRule", {})
    clock = Impatient(world, random.Random(seed + 2))

    def said(line: str) -> None:
        watched.log.append(f"  ({line})")

    context = replace(world.context, cluster=watched, clock=clock, warn=said)
    try:
        for name in names:
            forced = name in FORCED and chance.random() < 0.2
            watched.begin(
                name + (" by force" if forced else ""),
                forced=forced,
                deleting=name == "delete endpoint",
                driving=name in DRIVING,
            )
            try:
                ({**VERBS, **DRIVING} if not forced else FORCED)[name](context, chance)
            except MlflowIstioError as exc:
                watched.log.append(f"  {type(exc).__name__}: {exc.message}")
                watched.end(whole=False)
            else:
                watched.end(whole=True)
        watched.plan.clear()
        _check_ledger(watched, context)
        _check_end(watched, context)
    except Exception as exc:
        raise Broken(
            f"seed {seed}{', driven' if driven else ''}: {type(exc).__name__}: {exc}\n" + "\n".join(watched.log)
        ) from exc
    return watched


def _check_ledger(watched: Watched, context: Context) -> None:
    """Every change that was stored is recorded, once, under a number of its own."""
    world = watched.world
    world.registry.down = False
    watched.begin("history")
    try:
        flush_outbox(context, "churn")
    except MlflowIstioError as exc:
        watched.log.append(f"  {type(exc).__name__}: {exc.message}")
        return  # the endpoint is gone, or can't be read any more
    recorded = world.registry.history("prod", "churn")
    lost = watched.stored - watched.undone - {change.id for change in recorded}
    if lost:
        raise Broken(f"changes {sorted(lost)} were stored and never recorded")
    numbers = [change.sequence for change in world.registry._changes[("prod", "churn")].values()]  # as they came
    if numbers != sorted(set(numbers)):
        raise Broken(f"the numbers of changes fall, or two have the same: {numbers}")


def _check_end(watched: Watched, context: Context) -> None:
    """A deletion by force ends, whatever was done before, and gives back what was taken."""
    watched.begin("delete endpoint by force", forced=True, deleting=True)
    try:
        while removal.delete_endpoint(context, "churn", force=True):
            pass  # an older copy may have brought it back in a second place
    except NotFound as exc:
        watched.log.append(f"  NotFound: {exc.message}")
    left = list(ended(watched.world))
    if left:
        raise Broken(f"a deletion left {', '.join(left)}")


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_somebody_edits_between_two_looks_of_a_driver_the_invariants_hold(block: int) -> None:
    per = DRIVES // BLOCKS
    for seed in range(block * per, (block + 1) * per):
        run(seed, driven=True)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_somebody_edits_at_any_moment_the_invariants_hold(block: int) -> None:
    per = RUNS // BLOCKS
    for seed in range(block * per, (block + 1) * per):
        run(seed)


def test_each_sabotage_is_done_somewhere_in_these_runs() -> None:
    done = {line.partition("] ")[2] for seed in range(400) for line in run(seed).log if line.startswith("  [")}
    assert done == set(SABOTAGES)
