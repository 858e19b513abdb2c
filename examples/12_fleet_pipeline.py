"""Many endpoints in one pipeline: each is released by a sub-pipeline with an exit handler of its own, a few at a time.

    python examples/12_fleet_pipeline.py compile    # fleet_pipeline.yaml, for a Kubeflow cluster (backend 2.17 or newer)
    python examples/12_fleet_pipeline.py run '[{"endpoint": "churn", "model_uri": "models:/churn/2"}]'

What fails at one endpoint is undone there, and holds no other up; the run as a whole fails and names it. The run's id is the
release's id at every endpoint: an id means one release for each endpoint.
"""

import argparse
import json

from kfp import compiler, dsl, local

from kfp_components import configure_steps, read_ledger, release_version, roll_back_unless_succeeded


@dsl.pipeline(name="release-one")
def release_one(endpoint: str, model_uri: str, release_id: str, target: str, steps: str, options: dict):
    """Release a version behind one endpoint; whatever fails, this endpoint is back on the version it had."""
    undo = roll_back_unless_succeeded(target=target, endpoint=endpoint, release_id=release_id)
    with dsl.ExitHandler(undo, name="whatever fails here"):
        released = release_version(
            target=target,
            endpoint=endpoint,
            model_uri=model_uri,
            steps=steps,
            release_id=release_id,
            options=options,
        )
        read_ledger(target=target, endpoint=endpoint, release_id=release_id).after(released)


@dsl.pipeline(name="fleet")
def fleet_pipeline(
    releases: list,
    target: str = "istio-local",
    steps: str = "10,50",
    options: dict = {},  # noqa: B006
):
    """Release one version for each of ``releases``: maps with ``endpoint`` and ``model_uri``."""
    with dsl.ParallelFor(items=releases, parallelism=2, name="each endpoint") as each:
        release_one(
            endpoint=each.endpoint,
            model_uri=each.model_uri,
            release_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            target=target,
            steps=steps,
            options=options,
        )
    configure_steps(secret="mlflow")  # reaches into the sub-pipeline, too


def main() -> None:
    """Compile the pipeline, or run it here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "run"])
    parser.add_argument(
        "releases", nargs="?", default=[], type=json.loads, help="run: JSON list of endpoint and model_uri"
    )
    parser.add_argument("--steps", default="10,50", help="the candidates' percents")
    parser.add_argument("--options", default={}, type=json.loads, help="JSON, options of 'mlflow-istio release'")
    given = parser.parse_args()
    if given.what == "compile":
        compiler.Compiler().compile(fleet_pipeline, "fleet_pipeline.yaml")
        print("fleet_pipeline.yaml")
        return
    if not given.releases:
        parser.error('run needs releases, such as [{"endpoint": "churn", "model_uri": "models:/churn/2"}]')
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="pipeline_outputs")
    fleet_pipeline(releases=given.releases, steps=given.steps, options=given.options)


if __name__ == "__main__":
    main()
