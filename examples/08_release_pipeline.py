"""Train, register and release a model in one pipeline; whatever fails, users are back on the version they had.

    python examples/08_release_pipeline.py compile                # release_pipeline.yaml, for a Kubeflow cluster
    python examples/08_release_pipeline.py run                    # the same pipeline, here, against the local mesh
    python examples/08_release_pipeline.py run --no-fill-missing  # a candidate that fails on missing values: rolled back

The endpoint must have a version in use (examples/01_register.py and the README's first command make one), and it needs live
requests: a release without them ends inconclusive at its deadline.
"""

import argparse
import json

from kfp import compiler, dsl, local

from kfp_components import configure_steps, read_ledger, release_version, roll_back_unless_succeeded, step_image


@dsl.component(base_image=step_image(), install_kfp_package=False)
def train(model: str, customers: int, fill_missing: bool) -> str:
    """Train a churn model and register it; its models:/ address. One customer in ten has no 'spend'."""
    import mlflow
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    random = np.random.default_rng(7)
    table = pd.DataFrame(
        {
            "tenure": random.uniform(0, 60, customers),
            "calls": random.uniform(0, 20, customers),
            "spend": np.where(random.random(customers) < 0.1, np.nan, random.uniform(5, 90, customers)),
        }
    )
    left = (table["calls"] * 3 - table["tenure"] + random.normal(0, 10, customers)) > 0
    left = left.astype(int)
    known = slice(None) if fill_missing else table["spend"].notna()
    steps = [SimpleImputer(), LogisticRegression()] if fill_missing else [LogisticRegression()]
    fitted = make_pipeline(*steps).fit(table[known], left[known])
    with mlflow.start_run(run_name="training"):
        info = mlflow.sklearn.log_model(
            fitted,
            name="model",
            registered_model_name=model,
            input_example=table.dropna().head(2),
            pip_requirements=["scikit-learn", "pandas"],
            skops_trusted_types=["numpy.dtype"],
        )
    return f"models:/{model}/{info.registered_model_version}"


@dsl.pipeline(name="release")
def release_pipeline(
    target: str = "istio-local",
    endpoint: str = "churn",
    model: str = "churn",
    fill_missing: bool = True,
    steps: str = "10,50",
    options: dict = {},  # noqa: B006
):
    """Train, release step by step on evidence, and tell the ledger's story; roll back when anything fails."""
    release = (
        dsl.PIPELINE_JOB_ID_PLACEHOLDER
    )  # tried again, a step finds its own release and does not open a second one
    undo = roll_back_unless_succeeded(target=target, endpoint=endpoint, release_id=release)
    with dsl.ExitHandler(undo, name="whatever fails"):
        trained = train(model=model, customers=2000, fill_missing=fill_missing)
        trained.set_caching_options(False)
        released = release_version(
            target=target,
            endpoint=endpoint,
            model_uri=trained.output,
            steps=steps,
            release_id=release,
            options=options,
        )
        read_ledger(target=target, endpoint=endpoint, release_id=release).after(released)
    # The tracking server's address and password reach every step from a Secret, never as a parameter.
    configure_steps(secret="mlflow")


def main() -> None:
    """Compile the pipeline, or run it here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "run"])
    parser.add_argument("--fill-missing", default=True, action=argparse.BooleanOptionalAction)
    parser.add_argument("--steps", default="10,50", help="the candidate's percents")
    parser.add_argument("--options", default={}, type=json.loads, help="JSON, options of 'mlflow-istio release'")
    given = parser.parse_args()
    if given.what == "compile":
        compiler.Compiler().compile(release_pipeline, "release_pipeline.yaml")
        print("release_pipeline.yaml")
        return
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="pipeline_outputs")
    release_pipeline(fill_missing=given.fill_missing, steps=given.steps, options=given.options)


if __name__ == "__main__":
    main()
