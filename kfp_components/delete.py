"""Take deployments and endpoints away."""

from kfp import dsl  # noqa: F401  # the body is copied beside this import

from kfp_components.checked import component
from kfp_components.inputs import check_delete, check_delete_endpoint


@component(check_delete)
def delete_deployment(target: str, endpoint: str, name: str, options: dict = {}, reason: str = "") -> bool:
    """Take a deployment away that has no traffic, such as the version that a promotion replaced. Given again, it does nothing.

    Refused while it has traffic, is stable, or belongs to the open release.

    Args:
        target: Target URI.
        endpoint: The endpoint; a deployment of another one is never taken in its place.
        name: The deployment.
        options: Further options of delete, such as {"confirm_timeout": 60}.
        reason: Why, for the ledger.

    Returns:
        Whether it was there.
    """
    from kfp_components import steps

    return steps.step(lambda: steps.delete_deployment(target, endpoint, name, options, reason))


@component(check_delete_endpoint)
def delete_endpoint(target: str, endpoint: str, options: dict = {}, reason: str = "") -> bool:
    """Take an endpoint away with all its deployments; an adopted route is given back. Given again, it does nothing.

    Refused while a release is open, unless {"force": true} ends it with the endpoint.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        options: Further options of delete-endpoint, such as {"force": true}.
        reason: Why, for the ledger.

    Returns:
        Whether it was there.
    """
    from kfp_components import steps

    return steps.step(lambda: steps.delete_endpoint(target, endpoint, options, reason))
