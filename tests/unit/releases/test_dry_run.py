"""A dry run writes nothing, asks for no proof, and shows exactly what the real run then writes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import MlflowIstioError, NotReady, StateConflict
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import deployments, removal
from mlflow_istio.releases.dry_run import DryCluster, DryRegistry, difference
from mlflow_istio.releases.moving import shifting
from tests.support.endpoint_values import a_release
from tests.support.in_memory import KINDS, World, a_request, a_world, with_canary

COMMANDS: dict[str, tuple[Callable[[], World], Callable[[Context], Any]]] = {
    "first deployment": (World, lambda context: deployments.deploy(context, a_request("churn-v1"))),
    "canary": (
        lambda: a_world("churn-v1"),
        lambda context: deployments.deploy(
            context, a_request("churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=10))
        ),
    ),
    "more replicas": (with_canary, lambda context: deployments.update(context, "churn-v2", replicas=3)),
    "shift": (with_canary, lambda context: shifting.shift(context, "churn", TrafficRequest(weight=50))),
    "pause": (with_canary, lambda context: shifting.pause(context, "churn")),
    "promote": (with_canary, lambda context: shifting.promote(context, "churn")),
    "rollback": (with_canary, lambda context: shifting.rollback(context, "churn")),
    "supersede": (
        with_canary,
        lambda context: shifting.start(
            context,
            "churn",
            strategy="shadow",
            candidates=("churn-v3",),
            traffic_request=TrafficRequest(mirror=5),
            supersede=True,
        ),
    ),
    "removal": (with_canary, lambda context: removal.delete(context, "churn-v3")),
    "deletion": (with_canary, lambda context: removal.delete_endpoint(context, "churn", force=True)),
    "nothing to do": (with_canary, lambda context: shifting.resume(context, "churn")),
}


def dry(context: Context) -> tuple[DryCluster, Context]:
    cluster = DryCluster(context.cluster)
    return cluster, replace(context, cluster=cluster, registry=DryRegistry(context.registry))


@pytest.mark.parametrize(("make", "command"), COMMANDS.values(), ids=COMMANDS)
def test_a_dry_run_writes_nothing_and_shows_what_the_real_run_writes(
    make: Callable[[], World], command: Callable[[Context], Any]
) -> None:
    world = make()
    rehearsed = copy.deepcopy(world)
    before = world.text()
    writes, runs = len(world.cluster.writes), dict(world.registry.runs)
    cluster, context = dry(rehearsed.context)
    command(context)
    assert rehearsed.text() == before
    assert (len(rehearsed.cluster.writes), rehearsed.registry.runs) == (writes, runs)

    objects = {(kind, obj["metadata"]["name"]): obj for kind in KINDS for obj in world.cluster.list(kind, {})}
    command(world.context)
    assert rehearsed.warnings == world.warnings
    after = {(kind, obj["metadata"]["name"]): obj for kind in KINDS for obj in world.cluster.list(kind, {})}
    real = {key: difference(*key, objects.get(key), after.get(key)) for key in objects.keys() | after.keys()}
    shown = cluster.difference().replace("(dry run of ", "run-prod-churn-").replace(')"', '"')
    assert sorted(shown.splitlines()) == sorted("\n".join(part for part in real.values() if part).splitlines())


def test_nothing_to_change_shows_nothing() -> None:
    cluster, context = dry(with_canary().context)
    shifting.resume(context, "churn")
    assert cluster.difference() == ""


def test_a_difference_reads_as_one_of_files() -> None:
    cluster, context = dry(with_canary().context)
    shifting.shift(context, "churn", TrafficRequest(weight=50))
    lines = cluster.difference().splitlines()
    assert lines[:2] == ["--- VirtualService/churn", "+++ VirtualService/churn"]
    assert {"-      weight: 90", "+      weight: 50"} <= set(lines)
    assert not any("resourceVersion:" in line for line in lines)
    assert not any("&id0" in line or "*id0" in line for line in lines), "YAML wrote what two routes share as an alias"


def test_what_comes_and_what_goes_is_shown_whole() -> None:
    obj = {"kind": "Service", "metadata": {"name": "a"}, "spec": {"x": 1}, "status": {"seen": True}}
    assert difference("Service", "a", None, obj).splitlines()[:2] == ["--- (none)", "+++ Service/a"]
    assert difference("Service", "a", obj, None).splitlines()[:2] == ["--- Service/a", "+++ (none)"]
    assert difference("Service", "a", obj, {**obj, "status": {}}) == ""


@pytest.mark.parametrize(
    ("unready", "command", "error"),
    [
        ((), lambda context: removal.delete(context, "churn-v1"), StateConflict),
        (("churn-v2",), lambda context: shifting.promote(context, "churn"), NotReady),
        ((), lambda context: deployments.deploy(context, a_request("churn-v9")), MlflowIstioError),
    ],
)
def test_a_dry_run_is_refused_as_the_real_run_would_be(
    unready: tuple[str, ...], command: Callable[[Context], Any], error: type[MlflowIstioError]
) -> None:
    world = with_canary()
    world.cluster.unready.update(unready)
    for context in (dry(world.context)[1], world.context):
        with pytest.raises(error):
            command(context)


def test_later_reads_see_what_was_written_before_them() -> None:
    world = a_world("churn-v1", "churn-v2")
    cluster, _ = dry(world.context)
    found = cluster.get("Deployment", "churn-v2")
    assert found is not None
    cluster.apply({**found, "spec": {**found["spec"], "replicas": 5}})
    changed = cluster.get("Deployment", "churn-v2")
    assert changed is not None
    assert changed["status"] == {"replicas": 5, "readyReplicas": 5}
    assert cluster.delete("Deployment", "churn-v1")
    assert not cluster.delete("Deployment", "churn-v1")
    assert cluster.get("Deployment", "churn-v1") is None
    assert [obj["metadata"]["name"] for obj in cluster.list("Deployment", {})] == ["churn-v2"]
    assert cluster.list("Deployment", {"mlflow-istio.org/endpoint": "other"}) == []
    assert cluster.scope == "in-memory"
    assert world.cluster.get("Deployment", "churn-v1") is not None


def test_what_is_handed_out_is_not_shared() -> None:
    cluster, _ = dry(a_world("churn-v1").context)
    found = cluster.get("Service", "churn")
    assert found is not None
    stored = cluster.apply({**found, "spec": {"mine": []}})
    stored["spec"]["mine"].append(1)
    again = cluster.get("Service", "churn")
    assert again is not None
    assert again["spec"]["mine"] == []


def test_an_address_is_the_real_one_or_says_when_it_will_be_known() -> None:
    world = a_world("churn-v1")
    cluster, _ = dry(world.context)
    assert cluster.address("churn") == world.cluster.address("churn")
    assert cluster.address("other").url == "(known once the endpoint exists)"


def test_a_registry_is_only_read() -> None:
    world = with_canary()
    registry = DryRegistry(world.registry)
    release: Release = a_release()
    assert registry.open_run("prod", "churn", release) == "(dry run of r1)"
    assert registry.open_run("prod", "churn", None) == "(dry run of the standing run)"
    registry.close_run("x", "promoted")
    assert registry.history("prod", "churn") == world.registry.history("prod", "churn")
    assert "r1" not in str(world.registry.runs)
    assert "x" not in world.registry.runs
