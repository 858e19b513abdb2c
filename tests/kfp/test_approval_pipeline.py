"""A pipeline made of the compiled YAML, run twice by KFP's own local runner with its cache on: the second is asked again."""

from __future__ import annotations

import pytest

from tests.kfp.conftest import Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PIPELINE = """
import sys
from pathlib import Path

import kfp_components
from kfp import components, dsl, local

folder = Path(kfp_components.__file__).parent / "compiled"
ask = components.load_component_from_file(str(folder / "wait_for_approval.yaml"))


@dsl.component(base_image="python", install_kfp_package=False)
def tell(approved: bool, answer: str):
    print(f"TOLD approved={approved}")


@dsl.pipeline(name="ask")
def asking(release_id: str = "night"):
    asked = ask(
        target="istio-local",
        endpoint="churn",
        candidate="churn-v1",
        release_id=release_id,
        timeout_minutes=0.02,
        poll_seconds=0.5,
    )
    tell(approved=asked.outputs["approved"], answer=asked.outputs["answer"]).set_caching_options(False)


local.init(local.SubprocessRunner(use_venv=False), pipeline_root="asked", enable_caching=True)
asking()
"""


def test_an_approval_that_is_gone_lets_no_second_run_through(workshop: Workshop) -> None:
    """pipelines 11797: the step was served from the cache of the run before."""
    from mlflow import MlflowClient

    (workshop.folder / "asking.py").write_text(PIPELINE, encoding="utf-8")
    registry = MlflowClient()
    registry.set_model_version_tag("churn", "1", "istio.approval.night", "approved")
    assert "TOLD approved=True" in workshop.run("python", "asking.py")
    registry.delete_model_version_tag("churn", "1", "istio.approval.night")
    assert "TOLD approved=False" in workshop.run("python", "asking.py")
