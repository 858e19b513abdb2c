"""Damage by hand on a real target: ``mlflow-istio doctor`` finds each, and the command it prints mends it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.deployments.cli import commands as mlflow_deployments

from mlflow_istio.cli import main
from mlflow_istio.core.basics.objects import Object
from tests.scenarios.place import Place

SPLIT, PIN = "mlflow-istio.m.split", "mlflow-istio.m.pin.m-v3"


def edited(place: Place, kind: str, change: Callable[[Object], None]) -> None:
    """An edit as somebody with kubectl, or with the mesh's files, makes it: behind the back of everything."""
    cluster = place.client._verbs._read().cluster

    def edit(found: Object | None) -> Object:
        assert found is not None
        obj = json.loads(json.dumps(found))
        change(obj)
        return obj

    cluster.edit(kind, "m", edit)


def run(command: str) -> tuple[int, str]:
    """Run a printed command in this process."""
    name, *arguments = shlex.split(command)
    if name == "mlflow":
        assert arguments.pop(0) == "deployments"
    entry: Any = {"mlflow-istio": main, "mlflow": mlflow_deployments}[name]
    result = CliRunner().invoke(entry, arguments)
    return result.exit_code, result.output


def doctor(place: Place, *more: str) -> dict[str, Any]:
    code, output = run(f"mlflow-istio doctor m -t {place.target} --json {' '.join(more)}")
    view: dict[str, Any] = json.loads(output[output.index("{") :])
    assert code == (0 if view["healthy"] else 2)
    return view


def weights(obj: Object) -> None:
    (split,) = [route for route in obj["spec"]["http"] if route["name"] == SPLIT]
    split["route"][0]["weight"], split["route"][1]["weight"] = 10, 90


def no_pin(obj: Object) -> None:
    obj["spec"]["http"] = [route for route in obj["spec"]["http"] if route["name"] != PIN]


def pin_elsewhere(obj: Object) -> None:
    (pin,) = [route for route in obj["spec"]["http"] if route["name"] == PIN]
    pin["route"][0]["destination"]["subset"] = "m-v1"


def no_subset(obj: Object) -> None:
    obj["spec"]["subsets"] = [subset for subset in obj["spec"]["subsets"] if subset["name"] != "m-v3"]


def extra_subset(obj: Object) -> None:
    obj["spec"]["subsets"].append({"name": "gone", "labels": {"version": "gone"}})


def no_state(obj: Object) -> None:
    obj["metadata"]["annotations"]["mlflow-istio.org/state.m"] = "{broken"


def wrong_tags(place: Place) -> None:
    client = MlflowClient(place.tracking_uri, place.tracking_uri)
    (key,) = [key for key in client.get_model_version("m", "1").tags if key.endswith(".m.weight")]
    client.set_model_version_tag("m", "1", key, "12")
    client.set_registered_model_alias("m", "champion", "3")


DAMAGES: dict[str, tuple[Callable[[Place], None], str]] = {
    "weights": (lambda place: edited(place, "VirtualService", weights), "edited-traffic"),
    "a header route gone": (lambda place: edited(place, "VirtualService", no_pin), "edited-routes"),
    "a header route changed": (lambda place: edited(place, "VirtualService", pin_elsewhere), "edited-routes"),
    "a subset gone": (lambda place: edited(place, "DestinationRule", no_subset), "wrong-subset"),
    "a subset without a deployment": (lambda place: edited(place, "DestinationRule", extra_subset), "empty-subset"),
    "an annotation damaged": (lambda place: edited(place, "VirtualService", no_state), "damaged"),
    "tags and aliases": (wrong_tags, "registry-drift"),
}


@pytest.fixture
def canary(settled: Place) -> Place:
    settled.do(strategy="canary", candidate="m-v2", weight=20)
    return settled


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_found_and_the_printed_command_mends_it(canary: Place, damage: str) -> None:
    assert [one for one in doctor(canary)["findings"] if one["severity"] != "info"] == []
    act, code = DAMAGES[damage]
    act(canary)
    (finding, *_) = [one for one in doctor(canary)["findings"] if one["code"] == code]
    before = canary.client.history("m") if code != "damaged" else []
    status, output = run(finding["command"])
    assert status in (0, 2), output
    left = doctor(canary, "--fix")
    assert left["healthy"], left
    assert canary.client.get_endpoint("m")["traffic"] == {"m-v1": 80, "m-v2": 20}
    assert canary.ask({"x-mlflow-deployment": "m-v3"}).headers["x-mlflow-model-version"] == "m/3"
    if before and code == "edited-traffic":
        last = canary.client.history("m")[-1]
        assert (last["action"], last["sequence"]) == ("rollback", before[-1]["sequence"] + 1)


def test_changes_that_wait_are_found_and_recorded_by_the_printed_command(canary: Place) -> None:
    dead = {"tracking_uri": "http://127.0.0.1:9", "registry_uri": "http://127.0.0.1:9"}
    canary.do(weight=35, **dead)
    (finding,) = [one for one in doctor(canary)["findings"] if one["code"] == "unrecorded"]
    assert run(finding["command"])[0] == 0
    assert doctor(canary, "--fix")["healthy"]
    assert canary.tags(2)["weight"] == "35"


def test_people_read_what_is_wrong_and_what_mends_it(canary: Place) -> None:
    edited(canary, "DestinationRule", extra_subset)
    code, output = run(f"mlflow-istio doctor m -t {canary.target}")
    assert code == 2
    lines = output.splitlines()
    start = lines.index("warning: m: subset 'gone' of the DestinationRule has no deployment")
    assert lines[start + 1] == f"  mlflow-istio doctor m -t {canary.target} --fix"
    code, output = run(f"mlflow-istio doctor m -t {canary.target} --fix")
    assert "mended: m: subset 'gone' of the DestinationRule has no deployment" in output
    assert code == 0
    assert "nothing is wrong" in output
