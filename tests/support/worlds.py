"""Three endpoints that know nothing of each other, every verb on one of them, and copies of a world that cost little."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import cache
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import Fault
from mlflow_istio.releases.moving import policy
from mlflow_istio.testing import InMemoryRegistry
from mlflow_istio.verbs import Verbs
from tests.support.in_memory import Numbers, World
from tests.support.in_memory_verbs import InMemoryVerbs

NAMES = ("ash", "birch", "churn")
DETACHED = {"analysis": "none", "hold": 0, "warmup": 0, "min_requests": 0, "deadline": 1800, "detach": True}


@cache
def three_endpoints() -> World:
    """A canary with settings, an A/B test with a fault, and a release that goes on by itself; copy it before use."""
    world = World(registry=InMemoryRegistry({name: [1, 2, 3] for name in NAMES}))
    for name in NAMES:
        world.deploy(f"{name}-v1")
        world.deploy(f"{name}-v3")
    world.deploy("ash-v2", strategy="canary", traffic_request=TrafficRequest(weight=10))
    world.deploy("birch-v2", strategy="ab", traffic_request=TrafficRequest(header="x-arm"))
    verbs = InMemoryVerbs(world)
    verbs.release("churn", "models:/churn/2", DETACHED)
    verbs.policy("ash", {"timeout": "2s"})
    policy.start_fault(world.context, "birch", Fault(abort=503, until=datetime(2035, 1, 1, tzinfo=timezone.utc)))
    verbs.policy("churn", {"retries": {"attempts": 2}, "connection_pool": {"http": {"http1MaxPendingRequests": 9}}})
    return world


def fork(world: World) -> World:
    """A copy that shares what nobody changes in place: objects and changes."""
    return World(cluster=_flat(world.cluster), registry=_flat(world.registry), runs=_flat(world.runs), ids=Numbers(999))


def _flat(port: Any) -> Any:
    copied = copy.copy(port)
    for name, value in vars(port).items():
        setattr(copied, name, _containers(value))
    return copied


def _containers(value: Any) -> Any:
    if isinstance(value, dict):
        is_object = "kind" in value
        return value if is_object else {key: _containers(member) for key, member in value.items()}
    return type(value)(value) if isinstance(value, list | set) else value


def put(world: World, obj: Object, key: tuple[str, str]) -> None:
    """Let somebody's object stand in a world, whatever it holds."""
    world.cluster._objects[key] = obj


Call = Callable[[Verbs], Any]


def calls(name: str) -> Mapping[str, Call]:
    """Every verb on one endpoint (its model and deployments have its name), and those on all."""
    return {
        "abort": lambda verbs: verbs.update_endpoint(name, {"action": "abort"}),
        "adopt": lambda verbs: verbs.adopt(f"{name}-2", {"virtual_service": name, "route": "main"}),
        "analyse": lambda verbs: verbs.analyse(name, {}),
        "approve": lambda verbs: verbs.approve(name, {}),
        "assign": lambda verbs: verbs.assign(name, "u"),
        "chaos": lambda verbs: verbs.chaos(name, {"abort": 503, "duration": "1s", "source": "none"}),
        "compare": lambda verbs: verbs.compare(name, {}),
        "create": lambda verbs: verbs.create(f"{name}-v4", f"models:/{name}/2", None, name, {}),
        "declare": lambda verbs: verbs.declare(name, {"winner": f"{name}-v2", "force": True}),
        "delete": lambda verbs: verbs.delete(f"{name}-v3", name, {}),
        "delete_endpoint": lambda verbs: verbs.delete_endpoint(name, {}),
        "delete_endpoint by force": lambda verbs: verbs.delete_endpoint(name, {"force": True}),
        "deployment": lambda verbs: verbs.deployment(f"{name}-v1"),
        "deployments": lambda verbs: verbs.deployments(),
        "deployments of one": lambda verbs: verbs.deployments(name),
        "doctor": lambda verbs: verbs.doctor(),
        "doctor of one": lambda verbs: verbs.doctor(name),
        "doctor that mends": lambda verbs: verbs.doctor(fix=True),
        "endpoint": lambda verbs: verbs.endpoint(name),
        "endpoints": lambda verbs: verbs.endpoints(),
        "explain_route": lambda verbs: verbs.explain_route(name),
        "export": lambda verbs: verbs.export(name),
        "fault": lambda verbs: verbs.fault(name, {"abort": 503}),
        "goes_on_by_itself": lambda verbs: verbs.goes_on_by_itself(name),
        "history": lambda verbs: verbs.history(name),
        "last_figures": lambda verbs: verbs.last_figures(name, "x"),
        "pause": lambda verbs: verbs.update_endpoint(name, {"action": "pause"}),
        "plan": lambda verbs: verbs.plan(name, {"weight": 50}),
        "policy": lambda verbs: verbs.policy(name, {"timeout": "3s"}),
        "promote": lambda verbs: verbs.update_endpoint(name, {"action": "promote"}),
        "rehearse": lambda verbs: verbs.rehearse(name, {"runs": 1, "horizon": 300, "phase": 0}),
        "reject": lambda verbs: verbs.reject(name, {}),
        "release": lambda verbs: verbs.release(name, f"models:/{name}/3", DETACHED),
        "report": lambda verbs: verbs.report(name),
        "resume_release": lambda verbs: verbs.resume_release(name, {}),
        "rollback": lambda verbs: verbs.update_endpoint(name, {"action": "rollback"}),
        "rollback to 1": lambda verbs: verbs.update_endpoint(name, {"action": "rollback", "to": 1}),
        "route": lambda verbs: verbs.route(name, {"to": f"{name}-v3", "match": {"headers": {"x-u": "s"}}}),
        "sweep": lambda verbs: verbs.sweep({}),
        "unpause": lambda verbs: verbs.unpause(name, {}),
        "update": lambda verbs: verbs.update(f"{name}-v1", None, None, {"replicas": 2}),
        "version_tag": lambda verbs: verbs.version_tag(f"{name}/1", "approved"),
        "weight": lambda verbs: verbs.update_endpoint(name, {"weight": 50}),
    }
