"""What can't end well is refused in one line, before anything is applied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import (
    InvalidInput,
    MlflowIstioError,
    NotFound,
    NotRouted,
    RegistryError,
    StateConflict,
)
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.deployments import deploy
from mlflow_istio.testing import InMemoryRegistry
from tests.support.in_memory import World, a_request, a_world, with_canary

CANARY: dict[str, Any] = {"strategy": "canary", "traffic_request": TrafficRequest(weight=10)}


def foreign(kind: str) -> World:
    world = World()
    world.cluster.apply({"kind": kind, "metadata": {"name": "churn"}, "spec": {"host": "x"}})
    return world


def owned_elsewhere() -> World:
    world = World()
    world.registry.owners[("churn", "champion")] = "staging/churn"
    return world


def gone() -> World:
    world = a_world("churn-v1")
    world.registry.gone.add("churn/2")
    return world


def down() -> World:
    world = a_world("churn-v1")
    world.registry.down = True
    return world


def deleting() -> World:
    world = a_world("churn-v1")
    world.cluster.unroutable = True
    with pytest.raises(NotRouted):
        removal.delete_endpoint(world.context, "churn")
    world.cluster.unroutable = False
    return world


def host_taken() -> World:
    world = World()
    world.cluster.apply(
        {"kind": "VirtualService", "metadata": {"name": "shop"}, "spec": {"hosts": ["churn.example.com"]}}
    )
    return world


V2 = a_request("churn-v2")
FIRST = a_request("churn-v1")
REFUSED: list[tuple[Any, Any, type[MlflowIstioError], str]] = [
    (World, replace(FIRST, name="Churn"), InvalidInput, "deployment name 'Churn' is not a DNS label"),
    (World, replace(FIRST, endpoint="My Churn"), InvalidInput, "endpoint name 'My Churn' is not a DNS label"),
    (World, replace(FIRST, endpoint="2x"), InvalidInput, "endpoint name '2x' starts with a digit"),
    (World, replace(FIRST, model_uri="runs:/a/b"), InvalidInput, "is not a registered model version"),
    (World, replace(FIRST, model_uri="models:/churn/9"), NotFound, "'churn' has no version"),
    (World, replace(FIRST, model_uri="models:/churn@nobody"), NotFound, "'churn' has no version"),
    (
        World,
        replace(FIRST, flavor="xgboost"),
        InvalidInput,
        "models:/churn/1 has no flavor 'xgboost': it has python_function",
    ),
    (World, replace(FIRST, strategy="cannary"), InvalidInput, "unknown strategy 'cannary'"),
    (World, replace(FIRST, traffic_request=TrafficRequest(weight=5)), InvalidInput, "option 'weight' needs a strategy"),
    (World, replace(FIRST, **CANARY), InvalidInput, "'churn-v1' is the first deployment.*leave 'weight' out"),
    (World, replace(FIRST, strategy="shadow"), InvalidInput, "gets all the traffic: leave 'strategy' out"),
    (
        World,
        replace(FIRST, strategy="ab", traffic_request=TrafficRequest(header="x")),
        InvalidInput,
        "'churn-v1' is the first deployment of endpoint 'churn' and gets all the traffic: leave 'header' out",
    ),
    (World, replace(FIRST, settings={"stable_alias": "x", "candidate_alias": "x"}), InvalidInput, "are both 'x'"),
    (gone, V2, NotFound, "files of models:/churn/2 are gone"),
    (down, V2, RegistryError, "can't be reached"),
    (owned_elsewhere, FIRST, StateConflict, "alias 'champion' of model 'churn' belongs to staging/churn"),
    (lambda: foreign("VirtualService"), FIRST, StateConflict, "VirtualService 'churn' exists and is not ours"),
    (lambda: foreign("Service"), FIRST, StateConflict, "Service 'churn' exists and is not ours"),
    (lambda: foreign("DestinationRule"), FIRST, StateConflict, "DestinationRule 'churn' exists and is not ours"),
    (
        lambda: foreign("Deployment"),
        replace(FIRST, name="churn"),
        StateConflict,
        "deployment 'churn' exists already and serves something that is not ours behind endpoint '\\?': use another name",
    ),
    (
        lambda: a_world("churn-v1"),
        replace(V2, name="churn-v1"),
        StateConflict,
        "deployment 'churn-v1' exists already and serves churn/1 behind endpoint 'churn'",
    ),
    (
        lambda: a_world("churn-v1"),
        replace(FIRST, endpoint="other"),
        StateConflict,
        "exists already and serves churn/1 behind endpoint 'churn'",
    ),
    (
        lambda: a_world("churn-v1"),
        replace(V2, settings={"stable_alias": "prod"}),
        StateConflict,
        "endpoint 'churn' has had its aliases \\('champion' and 'challenger'\\) since it was created",
    ),
    (
        with_canary,
        replace(a_request("churn-v3"), **CANARY),
        StateConflict,
        "has an open release 'id\\d+' \\(canary of churn-v2",
    ),
    (
        lambda: a_world("churn-v1"),
        replace(V2, strategy="shadow", traffic_request=TrafficRequest(weight=5)),
        InvalidInput,
        "'weight' has no effect",
    ),
    (lambda: a_world("churn-v1"), replace(V2, strategy="ab"), InvalidInput, "exactly one of 'header' and 'cookie'"),
    (deleting, V2, StateConflict, "endpoint 'churn' is being deleted: finish with"),
    (
        host_taken,
        replace(FIRST, hosts=("churn.example.com",)),
        StateConflict,
        "host 'churn.example.com' at gateway 'mesh' belongs to VirtualService 'shop' already",
    ),
]


@pytest.mark.parametrize(("world", "request_", "error", "words"), REFUSED, ids=[case[3][:60] for case in REFUSED])
def test_what_can_not_end_well_is_refused_with_nothing_applied(
    world: Any, request_: Any, error: type[MlflowIstioError], words: str
) -> None:
    made = world()
    made.cluster.writes.clear()
    with pytest.raises(error, match=words) as caught:
        deploy(made.context, request_)
    assert "\n" not in caught.value.message
    assert made.cluster.writes == []


class WithoutPyfunc(InMemoryRegistry):
    """Its models have no python_function flavor."""

    def resolve(self, reference: Any) -> Any:
        return replace(super().resolve(reference), flavors=("spark",))


def test_a_model_that_no_server_can_serve_is_refused() -> None:
    world = World(registry=WithoutPyfunc({"churn": [1]}))
    with pytest.raises(InvalidInput, match=r"models:/churn/1 has no python_function flavor \(it has: spark\)"):
        world.deploy("churn-v1")
