"""Every error text in docs/troubleshooting.md is one that the code still says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_istio.adapters.kubernetes.server_version import check_sidecars
from mlflow_istio.core.endpoint.endpoint import MAX_UNRECORDED
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import MlflowIstioError
from mlflow_istio.options.base import UpdateEndpointOptions, parse_options
from mlflow_istio.releases.context import endpoint_of
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving import shifting
from mlflow_istio.serving.beside import speaker
from mlflow_istio.showing.interruption import LAST_LINE
from tests.support.foreign_edits import annotated, edit, weights
from tests.support.in_memory import World, a_world, with_canary
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs
from tests.unit.releases.deploying.test_restoring import back

TEXT = (Path(__file__).parents[3] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.*)`$", TEXT, re.M)


def no_release() -> None:
    shifting.promote(a_world("churn-v1", "churn-v2").context, "churn")


def second_release() -> None:
    shifting.start(
        with_canary().context,
        "churn",
        strategy="canary",
        candidates=("churn-v3",),
        traffic_request=TrafficRequest(weight=1),
    )


def not_ready() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.cluster.unready.add("churn-v2")
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v2",), traffic_request=TrafficRequest(weight=1)
    )


def does_not_come_up() -> None:
    world = a_world("churn-v1")
    world.cluster.unready.add("churn-v2")
    world.deploy("churn-v2")


def not_routed() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.cluster.unroutable = True
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v2",), traffic_request=TrafficRequest(weight=1)
    )


def race() -> None:
    world = a_world("churn-v1", "churn-v2", "churn-v3", strategy="canary", traffic_request=TrafficRequest(weight=10))

    def first(kind: str, _name: str) -> None:
        if kind == "VirtualService":
            world.cluster.before_write = lambda _kind, _name: None
            shifting.abort(world.context, "churn")
            shifting.start(
                world.context,
                "churn",
                strategy="canary",
                candidates=("churn-v2",),
                traffic_request=TrafficRequest(weight=10),
            )

    world.cluster.before_write = first
    shifting.promote(world.context, "churn")


def nothing_to_roll_back() -> None:
    shifting.rollback(a_world("churn-v1").context, "churn")


def version_gone() -> None:
    world = with_canary()
    shifting.promote(world.context, "churn")
    removal.delete(world.context, "churn-v1")
    world.registry.gone.add("churn/1")
    back(world, 1)


def back_without_registry() -> None:
    world = with_canary()
    world.registry.down = True
    back(world, 1)


def being_deleted() -> None:
    world = a_world("churn-v1", "churn-v2")
    removal._mark_deleting(world.context, "churn", force=False, reason="", timeout=1)
    removal.delete(world.context, "churn-v2")


def delete_without_registry() -> None:
    world = a_world("churn-v1")
    world.registry.down = True
    removal.delete_endpoint(world.context, "churn")


def waiting() -> str:
    world = with_canary()
    world.registry.down = True
    shifting.shift(world.context, "churn", TrafficRequest(weight=20))
    return flush_outbox(world.context, "churn")[0]


def too_many_waiting() -> None:
    world = with_canary()
    world.registry.down = True
    for number in range(MAX_UNRECORDED + 2):
        shifting.shift(world.context, "churn", TrafficRequest(weight=number % 50))


def damaged(change: Callable[[Any], None]) -> Callable[[], None]:
    def look() -> None:
        world = with_canary()
        edit(world, "VirtualService", change)
        endpoint_of(world.cluster, "churn")

    return look


def no_split(obj: Any) -> None:
    obj["spec"]["http"] = [route for route in obj["spec"]["http"] if not route["name"].endswith(".split")]


def odd_weights(obj: Any) -> None:
    weights(obj)
    obj["spec"]["http"][-1]["route"][0]["weight"] = 41


def foreign() -> None:
    world = World()
    world.cluster.apply({"apiVersion": "v1", "kind": "VirtualService", "metadata": {"name": "churn"}, "spec": {}})
    world.deploy("churn-v1")


def version_deleted() -> str:
    world = with_canary()
    world.registry.deleted.add("churn/1")
    return shifting.promote(world.context, "churn").warnings[0]


def run_deleted() -> str:
    world = with_canary()
    for number in (20, 30):
        shifting.shift(world.context, "churn", TrafficRequest(weight=number))
    release = world.endpoint().release
    world.registry.deleted_runs.add((release.run or "") if release else "")
    return shifting.promote(world.context, "churn").warnings[0]


def tag_refused() -> str:
    world = with_canary()
    world.registry.forbidden.add("churn/1")
    return shifting.promote(world.context, "churn").warnings[0]


def pending() -> None:
    world = a_world("churn-v1")
    world.registry.pending.add("churn/2")
    world.deploy("churn-v2")


def not_recorded() -> None:
    theirs = {"runtime": "container", "image": "theirs:1"}
    verbs = InMemoryVerbs(World(), target=CLUSTER)
    verbs.create("churn-v1", "models:/churn/1", None, "churn", theirs)
    verbs.create("churn-v2", "models:/churn/2", None, "churn", {**theirs, "strategy": "shadow"})


def no_sidecars() -> None:
    old: Any = SimpleNamespace(version=lambda: {"major": "1", "minor": "28"})
    pod = {"initContainers": [{"name": "recorder", "restartPolicy": "Always"}]}
    check_sidecars(old, {"metadata": {"name": "churn-v2"}, "spec": {"template": {"spec": pod}}})


def no_hpack() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "hpack", None)
        patch.delitem(sys.modules, "mlflow_istio.serving.grpc_passage", raising=False)
        speaker(True)


PRODUCERS: dict[str, Callable[[], Any]] = {
    "has no open release": no_release,
    "has an open release": second_release,
    "has no ready replica": not_ready,
    "was not ready within": does_not_come_up,
    "gets no traffic: …": not_routed,
    "was changed by somebody else": race,
    "has nothing to roll back": nothing_to_roll_back,
    "which can't be brought back": version_gone,
    "is not on the endpoint itself any more": back_without_registry,
    "has traffic (weight 10)": lambda: removal.delete(with_canary().context, "churn-v2"),
    "is stable: promote another": lambda: removal.delete(with_canary().context, "churn-v1"),
    "is being deleted": being_deleted,
    "can't be deleted while the registry": delete_without_registry,
    "until the registry takes it": waiting,
    "is gone from the registry": version_deleted,
    "is in its standing run": run_deleted,
    "the rest is written": tag_refused,
    "its status in the registry": pending,
    "that the MLflow registry does not have yet": too_many_waiting,
    "is not JSON": damaged(annotated("state", "{")),
    "has no http route named": damaged(no_split),
    "something no split can be": damaged(odd_weights),
    "exists and is not ours": foreign,
    "records none": not_recorded,
    "needs hpack": no_hpack,
    "is a native sidecar": no_sidecars,
    "there is no endpoint": lambda: endpoint_of(with_canary().cluster, "chrun"),
    "interrupted: ": lambda: LAST_LINE,
    "unknown option": lambda: parse_options(UpdateEndpointOptions, {"wieght": 1}, cluster="istio-local"),
}


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_text_is_what_the_code_says(heading: str) -> None:
    ((_, produce),) = [(words, make) for words, make in PRODUCERS.items() if words in heading]
    try:
        said = produce()
    except MlflowIstioError as exc:
        said = exc.message
    pattern = ".*".join(re.escape(part) for part in heading.split("…"))
    assert re.fullmatch(pattern, said), said


def test_every_text_that_is_produced_is_in_the_page() -> None:
    assert [words for words in PRODUCERS if sum(words in heading for heading in HEADINGS) != 1] == []
