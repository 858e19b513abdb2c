"""What somebody may do to an endpoint behind our back: edits by hand, lost objects, a registry that lacks changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from mlflow_istio.core.basics.objects import Object, annotations_of
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.moving import shifting
from tests.support.endpoint_values import TIME
from tests.support.in_memory import World


def edit(world: World, kind: str, change: Callable[[Object], None], name: str = "churn") -> None:
    """Somebody edits an object by hand."""

    def edited(found: Object | None) -> Object:
        assert found is not None
        obj = copy.deepcopy(found)
        change(obj)
        return obj

    world.cluster.edit(kind, name, edited)


def route(obj: Object, end: str) -> Object:
    (found,) = [one for one in obj["spec"]["http"] if one["name"].endswith(end)]
    return found


def weights(obj: Object) -> None:
    first, second = route(obj, ".split")["route"]
    first["weight"], second["weight"] = 40, 60


def no_pin(obj: Object) -> None:
    obj["spec"]["http"].remove(route(obj, ".pin.churn-v2"))


def pin_elsewhere(obj: Object) -> None:
    route(obj, ".pin.churn-v2")["route"][0]["destination"]["subset"] = "churn-v1"


def no_probe(obj: Object) -> None:
    obj["spec"]["http"].remove(route(obj, ".probe"))


def another_order(obj: Object) -> None:
    first, second, *rest = obj["spec"]["http"]
    obj["spec"]["http"] = [second, first, *rest]


def subset_elsewhere(obj: Object) -> None:
    (found,) = [one for one in obj["spec"]["subsets"] if one["name"] == "churn-v2"]
    found["labels"] = {"version": "churn-v1"}


def no_subset(obj: Object) -> None:
    obj["spec"]["subsets"] = [one for one in obj["spec"]["subsets"] if one["name"] != "churn-v2"]


def another_subset(obj: Object) -> None:
    obj["spec"]["subsets"].append({"name": "gone", "labels": {"version": "gone"}})
    obj["spec"]["subsets"].append({"name": "theirs", "labels": {"app": "theirs"}})


def annotated(part: str, text: str | None) -> Callable[[Object], None]:
    def damage(obj: Object) -> None:
        annotations_of(obj)
        annotations = obj["metadata"]["annotations"]
        if text is None:
            del annotations[f"mlflow-istio.org/{part}.churn"]
        else:
            annotations[f"mlflow-istio.org/{part}.churn"] = text

    return damage


def keep_artifacts(world: World) -> None:
    """The registry's artifacts, where the adapter for runs finds them, too."""
    for change in world.registry.history("prod", "churn"):
        after = world.registry.artifacts[change.id].get("after")
        assert after is not None
        path = f"changes/{change.sequence:06d}-{change.id}/after.json"
        world.runs.keep(str(change.run), texts={path: json.dumps(after)})


def damaged(part: str, text: str | None, *, kept: bool) -> Callable[[World], None]:
    def damage(world: World) -> None:
        if kept:
            keep_artifacts(world)
        edit(world, "VirtualService", annotated(part, text))

    return damage


def unready(name: str) -> Callable[[World], None]:
    return lambda world: world.cluster.unready.add(name)


def with_registry_down(action: Callable[[World], Any]) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.registry.down = True
        action(world)
        world.registry.down = False

    return act


def drift(world: World) -> None:
    world.registry.tags["churn/1"]["istio.prod.churn.weight"] = "1"
    world.registry.aliases[("churn", "champion")] = 3


def left_tags(world: World) -> None:
    """A deployment was removed by hand with its route; its version's tags stay."""
    removal.delete(world.context, "churn-v3")
    world.registry.tags["churn/3"]["istio.prod.churn.role"] = "idle"


def orphan(world: World) -> None:
    release = Release(id="died", strategy="canary", candidates=("churn-v3",), opened=TIME)
    world.registry.open_run("prod", "churn", release)


def lost(world: World) -> None:
    changes = world.registry._changes[("prod", "churn")]
    del changes[next(iter(changes))]


def marked(world: World) -> None:
    shifting.abort(world.context, "churn")
    removal._mark_deleting(world.context, "churn", force=False, reason="", timeout=1)


def two_hosts(world: World) -> None:
    other = copy.deepcopy(world.cluster.get("VirtualService", "churn"))
    assert other is not None
    other["metadata"] = {"name": "theirs"}
    world.cluster.apply(other)


def unpinned(world: World) -> None:
    def take_out(now: Any) -> Any:
        from dataclasses import replace

        return replace(now, traffic=now.traffic.without_pin("churn-v3"))

    shifting.move(world.context, "churn", take_out, action="remove")
