"""Champion against challenger, every night: the newest registered version is released, unless it was found worse before.

    python examples/11_nightly_pipeline.py compile    # nightly_pipeline.yaml; make a recurring run of it on a Kubeflow cluster
    python examples/11_nightly_pipeline.py run        # the same pipeline, here, on the local mesh

The champion is the version that the endpoint's ledger calls stable; a challenger is newer than it and no release here has proved
it worse. A night without one ends at once. A challenger that is worse gives its traffic back, and the run still succeeds: saying
no is the pipeline's work, too.
"""

import argparse
import json
from typing import NamedTuple

from kfp import compiler, dsl, local

from kfp_components import configure_steps, read_ledger, release_version, roll_back_unless_succeeded, step_image


@dsl.component(base_image=step_image(), install_kfp_package=False)
def find_challenger(target: str, endpoint: str, model: str) -> NamedTuple(
    "Challenger", [("found", bool), ("model_uri", str), ("champion", str)]
):
    """The newest registered version, if it is newer than the one in use and was not found worse before."""
    from mlflow import MlflowClient
    from mlflow.deployments import get_deploy_client

    client = get_deploy_client(target)
    view = client.get_endpoint(endpoint)
    serving = {each["name"]: each["model_version"] for each in view["deployments"]}
    champion = serving.get(view["stable"], "")
    proved_worse = {
        label
        for change in client.history(endpoint)
        if change["evidence"].get("word") == "rollback"
        for name, label in change["versions"].items()
        if name != view["stable"]
    }
    versions = MlflowClient().search_model_versions(
        f"name='{model}'", max_results=100, order_by=["version_number DESC"]
    )
    newest = next((each.version for each in versions if each.status == "READY"), None)
    newer = newest is not None and not (
        champion.startswith(f"{model}/") and int(newest) <= int(champion.rpartition("/")[2])
    )
    found = newer and f"{model}/{newest}" not in proved_worse
    print(f"champion {champion}, newest {model}/{newest}: {'a challenger' if found else 'nothing to do'}")
    return (found, f"models:/{model}/{newest}" if found else "", champion)


@dsl.pipeline(name="nightly")
def nightly_pipeline(
    target: str = "istio-local",
    endpoint: str = "churn",
    model: str = "churn",
    steps: str = "10,50",
    options: dict = {},  # noqa: B006
):
    """Find a challenger; if there is one, release it step by step against the champion, else tell the champion's story."""
    release = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    undo = roll_back_unless_succeeded(target=target, endpoint=endpoint, release_id=release)
    with dsl.ExitHandler(undo, name="whatever fails"):
        seen = find_challenger(target=target, endpoint=endpoint, model=model).set_caching_options(False)
        with dsl.If(seen.outputs["found"] == True, name="there is a challenger"):  # noqa: E712
            release_version(
                target=target,
                endpoint=endpoint,
                model_uri=seen.outputs["model_uri"],
                steps=steps,
                release_id=release,
                fail_unless_promoted=False,
                options=options,
            )
        with dsl.Else(name="there is none"):  # kfp.local passes over an If that has no Else
            read_ledger(target=target, endpoint=endpoint)
    configure_steps(secret="mlflow")


def main() -> None:
    """Compile the pipeline, or run it here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "run"])
    parser.add_argument("--steps", default="10,50", help="the challenger's percents")
    parser.add_argument("--options", default={}, type=json.loads, help="JSON, options of 'mlflow-istio release'")
    given = parser.parse_args()
    if given.what == "compile":
        compiler.Compiler().compile(nightly_pipeline, "nightly_pipeline.yaml")
        print("nightly_pipeline.yaml")
        return
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="pipeline_outputs")
    nightly_pipeline(steps=given.steps, options=given.options)


if __name__ == "__main__":
    main()
