"""Plan now, apply later: the difference first, and a refusal where the endpoint has moved meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException

from mlflow_istio.cli import main
from tests.scenarios.place import Place, inside_bounds


def test_a_plan_changes_nothing_until_it_is_applied_and_can_be_applied_twice(settled: Place) -> None:
    plan = settled.client.plan("m", {"strategy": "canary", "candidate": "m-v2", "weight": 30, "reason": "planned"})
    assert "+      weight: 30" in plan["difference"]
    assert settled.client.get_endpoint("m")["traffic"] == {"m-v1": 100}
    kept = json.loads(json.dumps(plan))
    assert settled.client.apply_plan(kept)["traffic"] == {"m-v1": 70, "m-v2": 30}
    seen = settled.send(500)
    assert not seen.failures
    assert inside_bounds(seen.versions["m/2"], 500, 0.30)
    release = settled.client.get_endpoint("m")["release"]["id"]
    assert plan["options"]["release_id"] == release
    before = len(settled.client.history("m"))
    settled.client.apply_plan(kept)
    assert len(settled.client.history("m")) == before, "given again, it had nothing left to do"


def test_a_plan_is_refused_when_the_endpoint_moved_and_names_what(settled: Place, tmp_path: Path) -> None:
    settled.do(strategy="canary", candidate="m-v2", weight=10)
    file = tmp_path / "plan.json"
    run = CliRunner().invoke(
        main, ["plan", "m", "-t", settled.target, "-C", "weight=50", "--out", str(file)], catch_exceptions=False
    )
    assert run.exit_code == 0, run.output
    assert f"carry it out with 'mlflow-istio apply {file}'" in run.output
    settled.do(weight=20)
    refused = CliRunner().invoke(main, ["apply", str(file)])
    assert refused.exit_code == 1
    assert "its traffic was m-v1 90%, m-v2 10%, is m-v1 80%, m-v2 20%" in refused.output
    assert settled.client.get_endpoint("m")["traffic"] == {"m-v1": 80, "m-v2": 20}
    settled.do(weight=10)  # back to what was planned on
    done = CliRunner().invoke(main, ["apply", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert settled.client.get_endpoint("m")["traffic"] == {"m-v1": 50, "m-v2": 50}


def test_a_plan_that_was_edited_or_is_for_another_place_is_refused(settled: Place) -> None:
    plan = settled.client.plan("m", {"strategy": "canary", "candidate": "m-v2"})
    edited = {**plan, "states": [{**plan["states"][0], "traffic": "m-v1 0%"}]}
    with pytest.raises(MlflowException, match="the plan was edited"):
        settled.client.apply_plan(edited)
    with pytest.raises(MlflowException, match="was made for elsewhere"):
        settled.client.apply_plan({**plan, "scope": "elsewhere"})
    with pytest.raises(MlflowException, match=r"no plan of mlflow-istio \(difference"):
        settled.client.apply_plan({key: value for key, value in plan.items() if key != "difference"})


def test_a_planned_deployment_pins_the_version_its_alias_means_now(settled: Place) -> None:
    plan = settled.client.plan("m", {"strategy": "shadow"}, name="m-v3", model_uri="models:/m@latest")
    assert plan["deployment"]["model_uri"] == "models:/m/3"
