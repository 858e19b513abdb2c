"""Every verb goes one way from its options to the ports: it can be tried, planned, and applied on nothing but what was planned on.

The walk is over the methods of ``Verbs``: a verb that is not in the table below fails it.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, get_args

import pytest

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.inspection.fingerprint import digest
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import Fault
from mlflow_istio.errors import ClusterError, InvalidInput, StateConflict
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.verbs import Verbs
from mlflow_istio.verbs.plans import PlannedVerb
from tests.support.in_memory import World, a_world, with_canary, with_shop
from tests.support.in_memory_verbs import InMemoryVerbs, everything

Call = Callable[[InMemoryVerbs, Mapping[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A verb in a world in which it does its work.

    Attributes:
        world: Makes the world.
        call: Calls the verb with further options.
        plan: Arguments of ``plan`` for the same; the verb's name is added.
        reads: Whether it changes nothing in the mesh.
    """

    world: Callable[[], World] = with_canary
    call: Call
    plan: Mapping[str, Any] = field(default_factory=dict)
    reads: bool = False


def idle() -> World:
    """churn-v1 is stable, churn-v2 waits."""
    return a_world("churn-v1", "churn-v2")


def by_header() -> World:
    return a_world("churn-v1", "churn-v2", strategy="ab", traffic_request=TrafficRequest(header="x-arm"))


def overdue() -> World:
    world = idle()
    past = datetime(2025, 1, 1, tzinfo=timezone.utc)
    policy.start_fault(world.context, "churn", Fault(abort=503, until=past))
    return world


def without_rule() -> World:
    world = idle()
    world.cluster.delete("DestinationRule", "churn")
    return world


def paused() -> World:
    world = with_canary()
    shifting.pause(world.context, "churn")
    return world


def opened(**options: Any) -> World:
    """A release of churn-v2 that goes on by itself is open, and nobody drives it."""
    world = a_world("churn-v1")
    given = {"analysis": "none", "hold": 0, "warmup": 0, "min_requests": 0, "detach": True}
    InMemoryVerbs(world).release("churn", "models:/churn/2", {**given, **options})
    return world


def asking() -> World:
    """An open release waits for an answer before its promotion."""

    class Enough(Exception):
        pass

    def watch(seen: Any) -> None:
        if seen.progress.question is not None:
            watch.times = getattr(watch, "times", 0) + 1  # type: ignore[attr-defined]
            if watch.times > 1:  # type: ignore[attr-defined]
                raise Enough

    world = opened(approval="promotion")
    with pytest.raises(Enough):
        InMemoryVerbs(world).resume_release("churn", watch=watch)
    return world


def kept_figures() -> World:
    world = with_canary()
    release = world.endpoint().release
    assert release is not None
    assert release.run is not None
    world.runs.keep(release.run, figures={"looks": 1.0})
    return world


def tagged() -> World:
    world = World()
    world.runs.tags["churn/1"] = {"approved": "yes"}
    return world


def predict(verbs: InMemoryVerbs, _options: Mapping[str, Any]) -> None:
    with pytest.raises(ClusterError):  # nobody serves at an in-memory address
        verbs.predict([[1.0]], endpoint="churn", timeout=1.0)


def predict_stream(verbs: InMemoryVerbs, _options: Mapping[str, Any]) -> None:
    with pytest.raises(ClusterError):
        verbs.predict_stream({"messages": []}, endpoint="churn", timeout=1.0)


def new_version(verbs: InMemoryVerbs, options: Mapping[str, Any]) -> Any:
    given = {"strategy": "canary", "weight": 10, "release_id": "r-1"}
    return verbs.create("churn-v2", "models:/churn/2", None, "churn", {**given, **options})


def answered(steps: int) -> list[Reading]:
    """Readings ten seconds apart of a deployment that answers 600 requests in between, 6 with an error."""
    growth = {"requests": 600.0, "errors": 6.0, "le/50": 400.0, "le/100": 540.0, "le/+Inf": 600.0}
    return [{"pod": {series: number * value for series, value in growth.items()}} for number in range(steps + 1)]


def rehearse(verbs: InMemoryVerbs, options: Mapping[str, Any]) -> Any:
    verbs.around.metrics.past["churn-v1"] = answered(720)
    return verbs.rehearse("churn", {"runs": 1, "horizon": 300, "phase": 0, **options})


CASES: Mapping[str, Case] = {
    "adopt": Case(
        world=with_shop,
        call=lambda verbs, options: verbs.adopt("churn", {"virtual_service": "shop", "route": "main", **options}),
        plan={"config": {"virtual_service": "shop", "route": "main"}},
    ),
    "analyse": Case(world=by_header, call=lambda verbs, options: verbs.analyse("churn", options), reads=True),
    "approve": Case(world=asking, call=lambda verbs, options: verbs.approve("churn", options)),
    "assign": Case(world=by_header, call=lambda verbs, _: verbs.assign("churn", "u"), reads=True),
    "chaos": Case(
        world=idle, call=lambda verbs, options: verbs.chaos("churn", {"abort": 503, "duration": "1s", **options})
    ),
    "compare": Case(
        world=lambda: a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=100)),
        call=lambda verbs, options: verbs.compare("churn", options),
        reads=True,
    ),
    "create": Case(
        world=lambda: a_world("churn-v1"),
        call=new_version,
        plan={
            "config": {"strategy": "canary", "weight": 10, "release_id": "r-1"},
            "name": "churn-v2",
            "model_uri": "models:/churn/2",
        },
    ),
    "declare": Case(
        world=by_header,
        call=lambda verbs, options: verbs.declare("churn", {"winner": "churn-v2", "force": True, **options}),
    ),
    "delete": Case(
        world=idle,
        call=lambda verbs, options: verbs.delete("churn-v2", "churn", options),
        plan={"name": "churn-v2"},
    ),
    "delete_endpoint": Case(
        world=idle, call=lambda verbs, options: verbs.delete_endpoint("churn", options), plan={"config": {}}
    ),
    "deployment": Case(call=lambda verbs, _: verbs.deployment("churn-v1"), reads=True),
    "deployments": Case(call=lambda verbs, _: verbs.deployments(), reads=True),
    "doctor": Case(world=without_rule, call=lambda verbs, options: verbs.doctor("churn", fix=True, config=options)),
    "endpoint": Case(call=lambda verbs, _: verbs.endpoint("churn"), reads=True),
    "endpoints": Case(call=lambda verbs, _: verbs.endpoints(), reads=True),
    "explain_route": Case(call=lambda verbs, _: verbs.explain_route("churn"), reads=True),
    "export": Case(call=lambda verbs, _: verbs.export("churn"), reads=True),
    "fault": Case(
        world=idle,
        call=lambda verbs, options: verbs.fault("churn", {"abort": 503, **options}),
        plan={"config": {"abort": 503}},
    ),
    "goes_on_by_itself": Case(call=lambda verbs, _: verbs.goes_on_by_itself("churn"), reads=True),
    "history": Case(call=lambda verbs, options: verbs.history("churn", options), reads=True),
    "last_figures": Case(world=kept_figures, call=lambda verbs, _: verbs.last_figures("churn", "id1"), reads=True),
    "pins": Case(call=lambda verbs, options: verbs.pins("churn", {"pins": "new", **options})),
    "policy": Case(
        call=lambda verbs, options: verbs.policy("churn", {"timeout": "2s", **options}),
        plan={"config": {"timeout": "2s"}},
    ),
    "predict": Case(call=predict, reads=True),
    "predict_stream": Case(call=predict_stream, reads=True),
    "rehearse": Case(world=idle, call=rehearse, reads=True),
    "reject": Case(world=asking, call=lambda verbs, options: verbs.reject("churn", options)),
    "release": Case(
        world=lambda: a_world("churn-v1"),
        call=lambda verbs, options: verbs.release(
            "churn", "models:/churn/2", {"detach": True, "analysis": "none", **options}
        ),
    ),
    "report": Case(call=lambda verbs, options: verbs.report("churn", config=options), reads=True),
    "resume_release": Case(world=opened, call=lambda verbs, options: verbs.resume_release("churn", options)),
    "route": Case(
        call=lambda verbs, options: verbs.route(
            "churn", {"to": "churn-v3", "match": {"headers": {"x-user": "staff"}}, **options}
        ),
        plan={"config": {"to": "churn-v3", "match": {"headers": {"x-user": "staff"}}}},
    ),
    "sweep": Case(world=overdue, call=lambda verbs, options: verbs.sweep(options)),
    "unpause": Case(world=paused, call=lambda verbs, options: verbs.unpause("churn", options)),
    "update": Case(
        world=idle, call=lambda verbs, options: verbs.update("churn-v2", None, None, {"replicas": 3, **options})
    ),
    "update_endpoint": Case(
        call=lambda verbs, options: verbs.update_endpoint("churn", {"weight": 50, **options}),
        plan={"config": {"weight": 50}},
    ),
    "version_tag": Case(world=tagged, call=lambda verbs, _: verbs.version_tag("churn/1", "approved"), reads=True),
}
CHANGES = {name: case for name, case in CASES.items() if not case.reads}
ONLY_DONE = {"approve": "approve", "chaos": "chaos", "doctor": "fix", "reject": "reject", "resume_release": "resume"}
"""Verbs that can't be tried, and the word under which they refuse it."""
WITHOUT_DIFFERENCE = {"sweep"}
"""It says what it would end."""
PLANNED = {name: case for name, case in CASES.items() if case.plan}


def public(verbs: type[Verbs]) -> set[str]:
    return {name for name, _ in inspect.getmembers(verbs, inspect.isfunction) if not name.startswith("_")}


def by_name(name: str) -> str:
    return name.replace("_", "-")


def test_the_table_has_every_verb() -> None:
    assert set(CASES) == public(Verbs) - {"plan", "apply_plan"}


@pytest.mark.parametrize("name", CASES)
def test_a_verb_is_known_to_read_or_to_change(name: str) -> None:
    case = CASES[name]
    world = case.world()
    world.cluster.writes.clear()
    case.call(InMemoryVerbs(world), {})
    assert bool(world.cluster.writes) is not case.reads


@pytest.mark.parametrize("name", CHANGES)
def test_a_dry_run_writes_nothing_or_is_refused_by_name(name: str) -> None:
    world = CHANGES[name].world()
    before = everything(world)
    if name in ONLY_DONE:
        with pytest.raises(InvalidInput, match=f"option 'dry_run' has no effect with {ONLY_DONE[name]}, which"):
            CHANGES[name].call(InMemoryVerbs(world), {"dry_run": True})
    else:
        result = CHANGES[name].call(InMemoryVerbs(world), {"dry_run": True})
        assert getattr(result, "difference", None) or name in WITHOUT_DIFFERENCE
    assert everything(world) == before


@pytest.mark.parametrize("name", CHANGES)
def test_a_dry_run_that_the_environment_asks_for_writes_nothing_either(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = CHANGES[name].world()
    before = everything(world)
    monkeypatch.setenv("MLFLOW_ISTIO_DRY_RUN", "true")
    with pytest.raises(InvalidInput, match="'dry_run'") if name in ONLY_DONE else nullcontext():
        CHANGES[name].call(InMemoryVerbs(world), {})
    assert everything(world) == before


@pytest.mark.parametrize("name", CASES)
def test_a_verb_can_be_planned_or_is_refused_by_name(name: str) -> None:
    case = CASES[name]
    world = case.world()
    before = everything(world)
    verbs = InMemoryVerbs(world)
    if name not in PLANNED:
        with pytest.raises(InvalidInput, match=f"'{by_name(name)}'") as refused:
            verbs.plan("churn", verb=by_name(name))
        assert "there is no plan of" in refused.value.message or case.reads
        return
    made = verbs.plan("churn", verb=by_name(name), **case.plan)
    assert everything(world) == before
    assert made["verb"] in get_args(PlannedVerb)
    tried = case.call(InMemoryVerbs(case.world()), {"dry_run": True})
    assert made["difference"] == tried.difference != ""


def test_every_verb_that_a_plan_can_hold_is_walked() -> None:
    assert {by_name(name) for name in PLANNED} == set(get_args(PlannedVerb))


FURTHER: Mapping[str, tuple[Callable[[], World], Mapping[str, Any]]] = {
    "start": (idle, {"strategy": "canary", "candidate": "churn-v2", "weight": 10}),
    "promote": (with_canary, {"action": "promote", "keep_old": "1h"}),
    "rollback": (with_canary, {"action": "rollback"}),
    "rollback to": (with_canary, {"action": "rollback", "to": 1}),
    "abort": (with_canary, {"action": "abort"}),
    "pause": (with_canary, {"action": "pause"}),
    "resume": (paused, {"action": "resume"}),
    "supersede": (with_canary, {"strategy": "canary", "candidate": "churn-v3", "supersede": True}),
    "match": (with_canary, {"match": {"headers": {"x-user": "staff"}}}),
    "arms": (idle, {"strategy": "ab", "arms": {"churn-v2": {"headers": {"x-user": "staff"}}}, "candidate": "churn-v2"}),
    "timeout": (with_canary, {"timeout": "2s"}),
    "settings of servers": (with_canary, {"connection_pool": {"http": {"http1MaxPendingRequests": 10}}}),
    "settings of a deployment": (with_canary, {"subset": "churn-v2", "headers": {"response": {"set": {"x-arm": "b"}}}}),
    "add_route": (with_canary, {"add_route": {"to": "churn-v3", "match": {"headers": {"x-user": "staff"}}}}),
    "fault": (idle, {"fault": {"abort": 503, "ttl": "1m"}}),
    "end of a fault": (overdue, {"fault": "none"}),
}

PLANS = {
    **{name: (case.world, {"verb": by_name(name), **case.plan}) for name, case in PLANNED.items()},
    **{f"update_endpoint: {name}": (world, {"config": config}) for name, (world, config) in FURTHER.items()},
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_says_what_its_command_does_and_applied_does_it(name: str) -> None:
    make, arguments = PLANS[name]
    world = make()
    before = everything(world)
    made = json.loads(json.dumps(InMemoryVerbs(world).plan("churn", **arguments)))
    assert made["difference"]
    assert everything(world) == before
    applied, direct = copy.deepcopy(world), copy.deepcopy(world)
    InMemoryVerbs(applied).apply_plan(made)
    case = PLANNED.get(name)
    if case is not None:
        case.call(InMemoryVerbs(direct), {})
    else:
        InMemoryVerbs(direct).update_endpoint("churn", arguments["config"])
    assert applied.text() == direct.text()


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_refused_on_an_endpoint_that_has_moved_and_says_what_moved(name: str) -> None:
    make, arguments = PLANS[name]
    world = make()
    made = InMemoryVerbs(world).plan("churn", **arguments)
    world.deploy("forest-v1", endpoint="churn")
    world.cluster.writes.clear()
    with pytest.raises(StateConflict, match=r"no longer fits endpoint 'churn'.*its (subsets|stable) was .*, is "):
        InMemoryVerbs(world).apply_plan(made)
    assert world.cluster.writes == []


def test_settings_that_somebody_changed_meanwhile_refuse_a_plan() -> None:
    world = with_canary()
    made = InMemoryVerbs(world).plan("churn", {"connection_pool": {"http": {"http1MaxPendingRequests": 10}}})
    InMemoryVerbs(world).policy("churn", {"connection_pool": {"http": {"http1MaxPendingRequests": 20}}})
    with pytest.raises(StateConflict, match="no longer fits endpoint 'churn': its settings were changed: look at it"):
        InMemoryVerbs(world).apply_plan(made)


def test_a_plan_of_the_version_before_which_named_fewer_parts_is_applied() -> None:
    world = with_canary()
    made = InMemoryVerbs(world).plan("churn", {"weight": 50})
    states = [{part: value for part, value in state.items() if part != "settings"} for state in made["states"]]
    InMemoryVerbs(world).apply_plan({**made, "states": states, "hash": digest(states[0])})
    assert world.endpoint().traffic.weights == {"churn-v1": 50, "churn-v2": 50}
    InMemoryVerbs(world).update_endpoint("churn", {"weight": 60})
    with pytest.raises(StateConflict, match="its traffic was"):
        InMemoryVerbs(world).apply_plan({**made, "states": states, "hash": digest(states[0])})


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_given_again_has_nothing_left_to_do(name: str) -> None:
    make, arguments = PLANS[name]
    world = make()
    made = InMemoryVerbs(world).plan("churn", **arguments)
    InMemoryVerbs(world).apply_plan(made)
    done = world.text()
    InMemoryVerbs(world).apply_plan(made)
    assert world.text() == done


def test_an_applied_plan_is_tried_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_canary()
    made = InMemoryVerbs(world).plan("churn", {"weight": 50})
    before = everything(world)
    monkeypatch.setenv("MLFLOW_ISTIO_DRY_RUN", "true")
    assert "+      weight: 50" in str(InMemoryVerbs(world).apply_plan(made).difference)
    assert everything(world) == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"name": "a"}, "give both its name and its model URI"),
        ({"model_uri": "models:/churn/1"}, "give both its name and its model URI"),
        ({"verb": "delete"}, "to plan 'delete' give the deployment's name"),
        ({"verb": "policy", "name": "a"}, "'name' has no effect on a plan of 'policy'"),
        ({"verb": "delete", "name": "a", "flavor": "sklearn"}, "'flavor' has no effect on a plan of 'delete'"),
        ({"verb": "delet"}, "'delet' is no verb that a plan can hold: did you mean 'delete'\\?"),
    ],
)
def test_what_a_plan_lacks_or_can_not_use_is_named(arguments: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        InMemoryVerbs(with_canary()).plan("churn", **arguments)


def test_a_plan_of_a_shared_host_is_guarded_on_the_endpoint_and_not_on_its_root() -> None:
    world = a_world("churn-v1")
    options = {"under": "models", "path": "/forest"}
    made = InMemoryVerbs(world).plan("forest", options, name="forest-v1", model_uri="models:/forest/1")
    InMemoryVerbs(world).apply_plan(made)
    assert world.endpoint("forest").settings["root"] == "models"
    gone = InMemoryVerbs(world).plan("forest", verb="delete-endpoint")
    InMemoryVerbs(world).apply_plan(gone)
    assert [obj for obj in world.objects() if obj["metadata"]["name"] in ("forest", "models", "forest-v1")] == []
