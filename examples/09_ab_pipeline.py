"""An A/B/n test as a pipeline: two challengers beside the version in use; a winner is promoted, else everybody goes back.

    python examples/09_ab_pipeline.py compile                                      # ab_pipeline.yaml, for a Kubeflow cluster
    python examples/09_ab_pipeline.py run models:/churn/2 models:/churn/3          # the same pipeline, here, on the local mesh

The endpoint must have a version in use, and it needs live requests while the arms are compared. Users keep their arm by a cookie.

Behind a gateway of a cluster a caller may choose an arm by sending its cookie, and nobody can tell: there ``options`` names a KPI,
or says ``{"randomised": true}`` where a frontend of yours sets the cookie.
"""

import argparse
import json

from kfp import compiler, dsl, local

from kfp_components import (
    analyse_release,
    configure_steps,
    declare_winner,
    deploy_version,
    roll_back_release,
    roll_back_unless_succeeded,
    set_traffic,
)

SPLIT = {"cookie": "arm", "weights": {"churn-v1": 34, "churn-b": 33, "churn-c": 33}}


@dsl.pipeline(name="ab-test")
def ab_pipeline(
    first_model: str,
    second_model: str,
    target: str = "istio-local",
    endpoint: str = "churn",
    first: str = "churn-b",
    second: str = "churn-c",
    split: dict = SPLIT,
    wait_minutes: float = 60.0,
    poll_seconds: float = 30.0,
    options: dict = {},  # noqa: B006
):
    """Deploy two challengers, share the users out, wait for an outcome, and act on it.

    ``split`` names every arm's weight, that of the version in use included; a new user's arm is drawn by them, and the
    cookie keeps it.
    """
    release = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    undo = roll_back_unless_succeeded(target=target, endpoint=endpoint, release_id=release)
    with dsl.ExitHandler(undo, name="whatever fails"):
        b = deploy_version(target=target, endpoint=endpoint, name=first, model_uri=first_model)
        c = deploy_version(target=target, endpoint=endpoint, name=second, model_uri=second_model).after(b)
        opened = set_traffic(
            target=target,
            endpoint=endpoint,
            strategy="ab",
            candidate=f"{first},{second}",
            release_id=release,
            options=split,
        ).after(c)
        seen = analyse_release(
            target=target,
            endpoint=endpoint,
            release_id=release,
            wait_minutes=wait_minutes,
            poll_seconds=poll_seconds,
            options=options,
        ).after(opened)
        with dsl.If(seen.outputs["outcome"] == "winner", name="one has won"):
            declare_winner(
                target=target,
                endpoint=endpoint,
                release_id=release,
                winner=seen.outputs["winner"],
                options=options,
            )
        with dsl.Else(name="none has"):
            roll_back_release(target=target, endpoint=endpoint, release_id=release, reason=seen.outputs["reason"])
    configure_steps(secret="mlflow")


def main() -> None:
    """Compile the pipeline, or run it here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "run"])
    parser.add_argument("models", nargs="*", help="run: the challengers, such as models:/churn/2 models:/churn/3")
    parser.add_argument("--names", nargs=2, default=["churn-b", "churn-c"], help="names of their deployments")
    parser.add_argument("--split", default=SPLIT, type=json.loads, help="JSON, the cookie and every arm's weight")
    parser.add_argument("--wait-minutes", type=float, default=60.0)
    parser.add_argument("--poll-seconds", type=float, default=30.0)
    parser.add_argument("--options", default={}, type=json.loads, help="JSON, options of 'mlflow-istio analyse'")
    given = parser.parse_args()
    if given.what == "compile":
        compiler.Compiler().compile(ab_pipeline, "ab_pipeline.yaml")
        print("ab_pipeline.yaml")
        return
    if len(given.models) != 2:
        parser.error("run needs the two challengers, such as models:/churn/2 models:/churn/3")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="pipeline_outputs")
    ab_pipeline(
        first_model=given.models[0],
        second_model=given.models[1],
        first=given.names[0],
        second=given.names[1],
        split=given.split,
        wait_minutes=given.wait_minutes,
        poll_seconds=given.poll_seconds,
        options=given.options,
    )


if __name__ == "__main__":
    main()
