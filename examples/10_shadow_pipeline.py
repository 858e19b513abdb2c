"""A shadow as a pipeline: the candidate gets copies of the live requests, and goes live only if its answers agree.

    python examples/10_shadow_pipeline.py compile                # shadow_pipeline.yaml, for a Kubeflow cluster
    python examples/10_shadow_pipeline.py run models:/churn/2    # the same pipeline, here, on the local mesh

The endpoint needs live requests, and the version in use must record its answers, as the candidate does:
the same 'env' (see RECORDING), when it is deployed or with 'mlflow deployments update'.
"""

import argparse
import json

from kfp import compiler, dsl, local

from kfp_components import (
    compare_shadow,
    configure_steps,
    deploy_version,
    promote_candidate,
    roll_back_release,
    roll_back_unless_succeeded,
    set_traffic,
)

RECORDING = {"env": {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": "/tmp/records"}}


@dsl.pipeline(name="shadow")
def shadow_pipeline(
    model_uri: str,
    name: str,
    target: str = "istio-local",
    endpoint: str = "churn",
    mirror: float = 100.0,
    wait_minutes: float = 60.0,
    poll_seconds: float = 30.0,
    deployment: dict = RECORDING,
    options: dict = {},  # noqa: B006
):
    """Deploy a version that records, copy requests to it, compare the answers, and act on the verdict."""
    release = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    undo = roll_back_unless_succeeded(target=target, endpoint=endpoint, release_id=release)
    with dsl.ExitHandler(undo, name="whatever fails"):
        deployed = deploy_version(
            target=target,
            endpoint=endpoint,
            name=name,
            model_uri=model_uri,
            release_id=release,
            options=deployment,
        )
        opened = set_traffic(
            target=target,
            endpoint=endpoint,
            strategy="shadow",
            candidate=deployed.outputs["name"],
            mirror=mirror,
            release_id=release,
        )
        compared = compare_shadow(
            target=target,
            endpoint=endpoint,
            release_id=release,
            wait_minutes=wait_minutes,
            poll_seconds=poll_seconds,
            options=options,
        ).after(opened)
        with dsl.If(compared.outputs["verdict"] == "advance", name="the answers agree"):
            promote_candidate(target=target, endpoint=endpoint, release_id=release, reason=compared.outputs["reason"])
        with dsl.Else(name="they do not"):
            roll_back_release(target=target, endpoint=endpoint, release_id=release, reason=compared.outputs["reason"])
    configure_steps(secret="mlflow")


def main() -> None:
    """Compile the pipeline, or run it here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "run"])
    parser.add_argument("model", nargs="?", help="run: the candidate, such as models:/churn/2")
    parser.add_argument("--name", default="churn-shadow", help="name of its deployment")
    parser.add_argument("--wait-minutes", type=float, default=60.0)
    parser.add_argument("--poll-seconds", type=float, default=30.0)
    parser.add_argument(
        "--deployment", default=RECORDING, type=json.loads, help="JSON, options of 'mlflow deployments create'"
    )
    parser.add_argument("--options", default={}, type=json.loads, help="JSON, options of 'mlflow-istio compare'")
    given = parser.parse_args()
    if given.what == "compile":
        compiler.Compiler().compile(shadow_pipeline, "shadow_pipeline.yaml")
        print("shadow_pipeline.yaml")
        return
    if not given.model:
        parser.error("run needs the candidate, such as models:/churn/2")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="pipeline_outputs")
    shadow_pipeline(
        model_uri=given.model,
        name=given.name,
        wait_minutes=given.wait_minutes,
        poll_seconds=given.poll_seconds,
        options=given.options,
        deployment=given.deployment,
    )


if __name__ == "__main__":
    main()
