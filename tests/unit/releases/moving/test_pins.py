"""Who reaches one version by its header, and who reads records: decided once, kept on the object, shown nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_istio.core.matching.pin_guard import OPEN, is_key
from mlflow_istio.core.mesh.pods import RECORD_TOKEN, variable_of
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import GUARD_KEY, InvalidInput
from mlflow_istio.releases.context import pin_headers
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.moving.pins import set_pins
from mlflow_istio.releases.reading.export import exported
from mlflow_istio.releases.reading.views import deployment_view, endpoint_view
from tests.support.in_memory import World, a_world, with_canary

FRONT = ("infra/front", "mesh")


def at_gateway(**options: Any) -> World:
    world = World()
    world.deploy("churn-v1", gateways=FRONT, **options)
    world.deploy("churn-v2")
    return world


def test_an_endpoint_at_a_gateway_is_guarded_and_one_in_the_mesh_is_open() -> None:
    assert is_key(at_gateway().endpoint().guard)
    assert a_world("churn-v1").endpoint().guard is None
    assert at_gateway(pins="open").endpoint().guard == OPEN
    world = World()
    world.deploy("churn-v1", pins="guarded")
    assert is_key(world.endpoint().guard)


def test_the_key_changes_only_when_somebody_says_so() -> None:
    world = at_gateway()
    first = world.endpoint().guard
    assert not set_pins(world.context, "churn", "guarded").changed
    assert world.endpoint().guard == first
    assert set_pins(world.context, "churn", "new").changed
    second = world.endpoint().guard
    assert is_key(second)
    assert second != first
    assert set_pins(world.context, "churn", "open").changed
    assert pin_headers(world.cluster, "churn", "churn-v1") == {"x-mlflow-deployment": "churn-v1"}
    assert [change.action for change in world.registry.history("prod", "churn")][-2:] == ["pins", "pins"]


def test_an_endpoint_of_before_is_guarded_by_the_next_change_of_any_kind() -> None:
    world = with_canary()
    vs = world.cluster.get("VirtualService", "churn")
    assert vs is not None
    world.cluster.apply({**vs, "spec": {**vs["spec"], "gateways": list(FRONT)}})
    assert world.endpoint().guard is None
    shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    assert is_key(world.endpoint().guard)


def test_a_standing_endpoint_keeps_who_may_pin() -> None:
    world = at_gateway()
    with pytest.raises(
        InvalidInput, match="'pins' has no effect on endpoint 'churn'.*mlflow-istio pins churn --pins open"
    ):
        world.deploy("churn-v3", pins="open")
    world.deploy("churn-v3", pins="guarded")


def test_no_key_and_no_token_stands_in_what_is_shown_kept_or_exported() -> None:
    world = at_gateway(env={"MLFLOW_ISTIO_RECORD": "1"})
    set_pins(world.context, "churn", "new")
    shown = [
        endpoint_view(world.cluster, "churn"),
        deployment_view(world.cluster, "churn-v1"),
        exported(world.cluster, "churn"),
        [dict(objects) for objects in world.registry.artifacts.values()],
        repr(world.endpoint()),
        repr(world.registry.history("prod", "churn")),
    ]
    assert GUARD_KEY.search(json.dumps(shown, default=str)) is None
    assert GUARD_KEY.search(json.dumps(world.cluster.get("VirtualService", "churn"))), "where Envoy needs it"
    assert endpoint_view(world.cluster, "churn")["pins"] == "guarded"


def test_a_recording_deployment_has_a_token_and_keeps_it() -> None:
    def token(name: str = "churn-v1") -> str | None:
        return variable_of(world.cluster.get("Deployment", name) or {}, RECORD_TOKEN)

    world = World()
    recording = {"MLFLOW_ISTIO_RECORD": "1"}
    world.deploy("churn-v1", env=recording)
    first = token()
    assert is_key(first)
    world.deploy("churn-v1", env=recording)
    assert token() == first
    world.deploy("churn-v2", env={**recording, RECORD_TOKEN: "own"})
    assert token("churn-v2") == "own"
    world.deploy("churn-v3")
    assert token("churn-v3") is None
