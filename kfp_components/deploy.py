"""Deploy a registered model version beside the one in use."""

from typing import NamedTuple

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_deploy


@component(check_deploy)
def deploy_version(
    target: str,
    endpoint: str,
    name: str,
    model_uri: str,
    deployment: dsl.Output[dsl.Model],
    options: dict = {},
    reason: str = "",
    release_id: str = "",
) -> NamedTuple("Deployed", [("name", str), ("model_version", str), ("url", str)]):
    """Deploy a registered version as a new deployment of an endpoint, at weight 0.

    The first deployment of an endpoint gets all its traffic. Given again, it finishes what was left.

    Args:
        target: Target URI, such as istio:/models or istio-local.
        endpoint: The endpoint.
        name: Name of the deployment; unique in the target.
        model_uri: models:/NAME/VERSION or models:/NAME@ALIAS.
        deployment: What was deployed, as metadata.
        options: Further options of create, such as {"replicas": 2}.
        reason: Why, for the ledger.
        release_id: The release it is for (dsl.PIPELINE_JOB_ID_PLACEHOLDER); an id that has another plan, or has ended, is refused.

    Returns:
        name: The deployment.
        model_version: MODEL/VERSION that it serves.
        url: Where the endpoint answers.
    """
    from kfp_components import steps

    view = steps.step(lambda: steps.deploy(target, endpoint, name, model_uri, options, reason, release_id))
    steps.describe(deployment, view)
    return (view["name"], view["model_version"], view["url"])
