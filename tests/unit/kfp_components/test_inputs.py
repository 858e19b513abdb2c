"""What a pipeline's author is told at compile time, and what a step hands to a verb."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl

import kfp_components as components
from kfp_components.checked import IMAGE, is_constant
from kfp_components.inputs import create_config, given, traffic_config
from kfp_components.steps import as_markdown
from mlflow_istio.errors import InvalidInput

DEPLOY = {"target": "istio-local", "endpoint": "churn", "name": "churn-v1", "model_uri": "models:/churn/1"}
MOVE = {"target": "istio:/models", "endpoint": "churn"}

WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (components.deploy_version, {**DEPLOY, "target": "istio_local"}, "istio-local"),
    (components.deploy_version, {**DEPLOY, "endpoint": "Churn"}, "endpoint name 'Churn'"),
    (components.deploy_version, {**DEPLOY, "name": "churn v1"}, "deployment name 'churn v1'"),
    (components.deploy_version, {**DEPLOY, "model_uri": "runs:/1/model"}, "models:/"),
    (components.deploy_version, {**DEPLOY, "options": {"replicas": 0}}, "option 'replicas'"),
    (components.deploy_version, {**DEPLOY, "options": {"replica": 2}}, "unknown option 'replica'"),
    (components.deploy_version, {**DEPLOY, "options": {"weight": 5}}, "option 'weight' moves traffic"),
    (components.deploy_version, {**DEPLOY, "options": {"image": "x"}}, "no effect on target istio-local"),
    (components.set_traffic, {**MOVE, "weight": 101}, "option 'weight' can't be 101"),
    (components.set_traffic, {**MOVE, "mirror": 0.0}, "option 'mirror'"),
    (components.set_traffic, {**MOVE, "strategy": "cannary"}, "did you mean 'canary'"),
    (components.set_traffic, {**MOVE, "release_id": "a b"}, "release id"),
    (components.set_traffic, {**MOVE, "weight": 5, "options": {"weight": 6}}, "given twice"),
    (components.set_traffic, {**MOVE, "options": {"action": "promote"}}, "promote_candidate"),
    (components.promote_candidate, {**MOVE, "candidate": "B"}, "deployment name 'B'"),
    (components.analyse_release, {**MOVE, "options": {"delta": -1}}, "option 'delta'"),
    (components.analyse_release, {**MOVE, "options": {"kpis": {}}}, "unknown option 'kpis'"),
    (components.analyse_release, {**MOVE, "wait_minutes": -1.0}, "wait_minutes must be 0 or above"),
    (components.compare_shadow, {**MOVE, "options": {"final": True}}, "option 'final' is the step's own"),
    (components.compare_shadow, {**MOVE, "options": {"answers": "number"}}, "did you mean 'numbers'"),
    (components.compare_shadow, {**MOVE, "poll_seconds": 0.0}, "poll_seconds must be above 0"),
    (components.declare_winner, {**MOVE, "winner": "B"}, "deployment name 'B'"),
    (components.declare_winner, {**MOVE, "winner": "b", "options": {"winner": "c"}}, "given twice"),
    (components.delete_deployment, {**MOVE, "name": "b", "options": {"forced": True}}, "unknown option 'forced'"),
    (components.delete_endpoint, {**MOVE, "options": {"forced": True}}, "unknown option 'forced'"),
    (components.read_ledger, {**MOVE, "target": "seldon"}, "unknown target 'seldon'"),
    (components.roll_back_release, {**MOVE, "release_id": "x" * 64}, "release id"),
    (components.deploy_version, {**DEPLOY, "options": '{"replicas": 2}'}, "it must be a dict itself, not its JSON"),
    (components.deploy_version, {**DEPLOY, "model_uri": 7}, "'model_uri' can't be 7: it must be a text"),
    (components.deploy_version, {**DEPLOY, "options": None}, "'options' is None: leave it out"),
    (
        components.set_traffic,
        {**MOVE, "options": [{"weight": 5}]},
        "'options' can't be [{'weight': 5}]: it must be a dict itself",
    ),
    (components.set_traffic, {**MOVE, "release_id": 5.0}, "'release_id' can't be 5.0: it must be a text"),
    (components.set_traffic, {**MOVE, "weight": "10"}, "'weight' can't be '10': it must be a whole number"),
    (components.set_traffic, {**MOVE, "weight": True}, "'weight' can't be True: it must be a whole number"),
    (components.set_traffic, {**MOVE, "mirror": 10}, "'mirror' can't be 10: it must be a number with a point"),
    (components.declare_winner, {**MOVE, "counts": "churn-v1"}, "'counts' can't be 'churn-v1': it must be a dict"),
    (components.promote_candidate, {"target": 1, "endpoint": "churn"}, "'target' can't be 1: it must be a text"),
]


@pytest.mark.parametrize(("component", "arguments", "message"), WRONG)
def test_a_wrong_constant_fails_when_the_pipeline_is_compiled(
    component: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="^[a-z-]+: ") as raised:

        @dsl.pipeline
        def pipeline() -> None:
            component(**arguments)

    assert message in str(raised.value)


def test_what_is_only_known_later_is_left_to_the_step() -> None:
    @dsl.pipeline
    def pipeline(weight: int, name: str) -> None:
        deployed = components.deploy_version(
            target="istio-local", endpoint="churn", name=name, model_uri=f"models:/churn/{weight}"
        )
        components.set_traffic(
            target="istio-local",
            endpoint="churn",
            candidate=deployed.outputs["name"],
            weight=weight,
            release_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        )

    tasks = pipeline.pipeline_spec.root.dag.tasks
    assert not any(task.caching_options.enable_cache for task in tasks.values())


def test_an_endpoint_with_an_open_release_can_be_deleted_by_a_pipeline(tmp_path: Path) -> None:
    @dsl.pipeline(name="clean-up")
    def clean_up() -> None:
        components.delete_endpoint(target="istio:/models", endpoint="churn", options={"force": True})

    compiler.Compiler().compile(clean_up, str(tmp_path / "pipeline.yaml"))
    assert "force: true" in (tmp_path / "pipeline.yaml").read_text(encoding="utf-8")


def test_a_wrong_type_fails_when_the_pipeline_is_compiled() -> None:
    with pytest.raises((TypeError, ValueError)):

        @dsl.pipeline
        def pipeline() -> None:
            components.set_traffic(**MOVE, weight="ten")


@pytest.mark.parametrize(
    ("value", "constant"),
    [
        ("churn", True),
        (dsl.PIPELINE_JOB_ID_PLACEHOLDER, False),
        ({"a": [1, "b"]}, True),
        ({"a": [dsl.PIPELINE_JOB_ID_PLACEHOLDER]}, False),
        (-1, True),
    ],
)
def test_placeholders_are_no_constants(value: Any, constant: bool) -> None:
    assert is_constant(value) is constant


def test_what_is_not_given_does_not_reach_the_verb() -> None:
    assert given(a="", b=-1, c=None, d=0, e=-1.0, f="x", g=False) == {"d": 0, "f": "x", "g": False}
    assert traffic_config(weight=0, strategy="", mirror=-1.0, options={"header": "x-arm"}) == {
        "weight": 0,
        "header": "x-arm",
    }


def test_a_deployment_step_moves_no_traffic() -> None:
    with pytest.raises(InvalidInput, match="moves traffic"):
        create_config(options={"strategy": "canary"})


def test_the_image_is_the_packages_version() -> None:
    from importlib.metadata import version

    assert IMAGE.rpartition(":")[2] == version("mlflow-istio")


def test_the_ledgers_table_survives_a_reason_with_a_bar_in_it() -> None:
    change = {
        "sequence": 1,
        "time": "2026-11-25T01:02:03+00:00",
        "action": "start",
        "after": {"churn-v1": 90, "churn-v2": 10},
        "mirrors": {},
        "added": [],
        "removed": [],
        "who": "ada",
        "reason": "a|b\nc",
    }
    (row,) = [line for line in as_markdown("churn", [change]).splitlines() if line.startswith("| 1 ")]
    assert row == "| 1 | 2026-11-25 01:02:03 | start | churn-v1 90%, churn-v2 10% | ada | a\\|b c |"


def test_without_kfp_the_components_name_the_extra_and_the_verbs_work() -> None:
    code = """
import sys
sys.modules["kfp"] = None
import mlflow_istio.verbs
try:
    import kfp_components
except ImportError as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "kfp_components needs Kubeflow Pipelines: pip install 'mlflow-istio[kfp]'"
