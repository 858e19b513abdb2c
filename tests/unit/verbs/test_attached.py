"""``attach`` as users give it: create, release, plan, dry run, and what means nothing beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_istio.core.mesh.manifests import runtime_of_deployment
from mlflow_istio.errors import InvalidInput, StateConflict
from tests.support.in_memory import World
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs, everything
from tests.unit.releases.deploying.test_attach import PREDICTOR, untouched, with_theirs

ATTACH = {"attach": "inferenceservice/rank"}


def create(world: World, name: str = "churn-v2", **options: Any) -> Any:
    return InMemoryVerbs(world, target=CLUSTER).create(name, "models:/churn/2", None, "churn", {**ATTACH, **options})


def test_its_protocol_is_mlflows_unless_a_runtime_says_another() -> None:
    world = with_theirs()
    view = create(world).view
    assert (view["attached"], view["runtime"]) == ("inferenceservice/rank", "attached")
    runtime = runtime_of_deployment(world.cluster.get("Deployment", "churn-v2") or {})
    assert (runtime.readiness, runtime.scoring, runtime.names_version) == ("/ping", "/invocations", False)
    world = with_theirs()
    create(world, runtime="mlserver", scoring="/v2/models/churn/infer")
    runtime = runtime_of_deployment(world.cluster.get("Deployment", "churn-v2") or {})
    assert (runtime.body, runtime.readiness, runtime.scoring) == ("v2", "/v2/health/ready", "/v2/models/churn/infer")
    assert (runtime.command, runtime.env) == ((), {}), "what it runs is its owner's"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replicas", 3),
        ("resources", {"limits": {"cpu": "1"}}),
        ("env", {"A": "b"}),
        ("image", "other"),
        ("command", ["serve"]),
        ("drain", 60),
        ("wait", False),
        ("hardened", False),
    ],
)
def test_what_is_said_of_pods_of_ours_is_refused(name: str, value: Any) -> None:
    world = with_theirs("churn-v1")
    before = everything(world)
    with pytest.raises(InvalidInput, match=f"option '{name}' has no effect with attach=inferenceservice/rank"):
        create(world, **{name: value})
    with pytest.raises(InvalidInput, match=f"option '{name}' has no effect with attach=inferenceservice/rank"):
        InMemoryVerbs(world, target=CLUSTER).release("churn", "models:/churn/2", {**ATTACH, name: value})
    assert everything(world) == before


def test_an_address_is_refused_on_a_cluster() -> None:
    with pytest.raises(InvalidInput, match="on a cluster, which has no way to this machine"):
        create(with_theirs("churn-v1"), attach="http://127.0.0.1:5001")


def test_shadows_are_refused_since_nobody_records() -> None:
    world = with_theirs("churn-v1")
    before = everything(world)
    with pytest.raises(
        InvalidInput, match="strategy shadow compares recorded answers, and runtime 'attached' records none"
    ):
        create(world, strategy="shadow")
    assert everything(world) == before


def test_one_that_is_asked_elsewhere_is_refused() -> None:
    with pytest.raises(StateConflict, match="is asked at /score, but callers of endpoint 'churn' ask at /invocations"):
        create(with_theirs("churn-v1"), scoring="/score")


def test_a_dry_run_shows_what_would_lead_to_it_and_writes_nothing() -> None:
    world = with_theirs("churn-v1")
    before = everything(world)
    result = create(world, strategy="canary", weight=10, dry_run=True)
    assert result.difference is not None
    assert "churn-v2-attached" in result.difference
    assert PREDICTOR in result.difference
    assert everything(world) == before


def test_a_plan_is_applied_as_it_was_made() -> None:
    world = with_theirs("churn-v1")
    verbs = InMemoryVerbs(world, target=CLUSTER)
    options = {**ATTACH, "strategy": "canary", "weight": 10}
    made = json.loads(json.dumps(verbs.plan("churn", options, name="churn-v2", model_uri="models:/churn/2")))
    assert world.endpoint().attached == ()
    verbs.apply_plan(made)
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert untouched(world)
