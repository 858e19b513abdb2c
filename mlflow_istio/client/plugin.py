"""The MLflow deployment client: MLflow's signatures in, MlflowException out. Nothing is decided here.

Our errors become MlflowException in ``client_errors``. They are ClickExceptions too, so that the ``mlflow`` command prints one line
instead of a traceback.
"""

# What binds a method to its verb replaces the body, which is left out.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import click
from mlflow.deployments import base, get_deploy_client

from mlflow_istio import errors
from mlflow_istio.client.arguments import check_text
from mlflow_istio.client.binding import binding_of, shown
from mlflow_istio.client.display import DeploymentList, DeploymentView, EndpointList, EndpointView
from mlflow_istio.client.errors import mapped, mapped_iterator, mlflow_errors
from mlflow_istio.client.release_client import ReleaseClient

_log = logging.getLogger("mlflow_istio")


class IstioDeploymentClient(ReleaseClient, base.BaseDeploymentClient):  # type: ignore[misc]  # MLflow has no types
    """Release model versions through Istio, on a cluster (``istio``) or on this machine (``istio-local``).

    Options (``config``) take Python values or the texts of ``-C name=value``;
    ``mlflow deployments help -t istio-local`` lists them.

    Example:
        >>> from mlflow.deployments import get_deploy_client
        >>> client = get_deploy_client("istio-local")
        >>> client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
        >>> client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config={"strategy": "canary", "weight": 10})
        >>> client.promote("churn")

    Args:
        target_uri: ``istio``, ``istio:/NAMESPACE``, ``istio://CONTEXT/NAMESPACE``, ``istio-local`` or ``istio-local:/MESH``.

    Raises:
        MlflowException: The target can't be read.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        from mlflow_istio.verbs import Verbs

        with mlflow_errors():
            self._verbs = Verbs(target_uri, tell=_log.info, warn=_log.warning)

    @binding_of("create", returns=shown)
    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Deploy a registered version beside the others; the endpoint's first gets all the traffic.

        Args:
            name: Deployment's name: a DNS label, unique in the target.
            model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
            flavor: Any flavor of a model that has python_function.
            config: Options of ``create``.
            endpoint: Endpoint; the registered model's name unless given.

        Returns:
            The deployment: name, flavor, endpoint, model_version, role, weight, url, headers, ...
        """

    @mapped
    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Change a deployment's pods (replicas, env), never its version and never the traffic."""
        if endpoint is not None:
            self._verbs.deployment(name, endpoint)
        return shown(self._verbs.update(name, model_uri, flavor, config))

    @mapped
    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Take a deployment without traffic away; one that is not there is no error."""
        shown(self._verbs.delete(name, endpoint, config))

    @binding_of("deployments", returns=DeploymentList)
    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All deployments of the target, or of one endpoint."""

    @binding_of("deployment", returns=DeploymentView)
    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One deployment, with the url and headers that reach it at any weight."""

    @mapped
    def predict(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Score through the endpoint's split, or through one deployment's header route.

        Args:
            deployment_name: Deployment to reach whatever the split says.
            inputs: DataFrame, array, list, or a JSON body as MLflow's scoring server takes it.
            endpoint: Endpoint to go through as users do.
            headers: Further headers, such as those of ``assign``.

        Returns:
            ``mlflow.deployments.PredictionsResponse``.
        """
        from mlflow.deployments import PredictionsResponse

        answer = self._verbs.predict(inputs, name=deployment_name, endpoint=endpoint, headers=headers)
        return PredictionsResponse(answer)

    @mapped
    def predict_stream(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Any]:
        """Score as ``predict`` does, with the answer's chunks as they come.

        Args:
            deployment_name: Deployment to reach whatever the split says.
            inputs: A JSON body as the model takes it, such as ``{"messages": [...]}``; ``"stream": true`` is added.
            endpoint: Endpoint to go through as users do.
            headers: Further headers, such as those of ``assign``.

        Returns:
            An iterator of the chunks: dicts for agents and chat models, whatever ``predict_stream`` of another model gives.
        """
        return mapped_iterator(
            self._verbs.predict_stream(inputs, name=deployment_name, endpoint=endpoint, headers=headers)
        )

    @mapped
    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> Any:
        """Refused: MLflow's scoring server has no explanations to give."""
        del deployment_name, df, endpoint
        raise errors.Unsupported(
            "explain is not offered: MLflow's scoring server has no such call; "
            "log an explainer as a model of its own (mlflow.shap.log_explainer) and deploy that"
        )

    @mapped
    def create_endpoint(self, name: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An endpoint comes into being with its first deployment; this deploys one when the config names it.

        Args:
            name: The endpoint.
            config: ``name`` and ``model_uri`` of the first deployment, and options of ``create``.
        """
        options = dict(config or {})
        deployment, model_uri = options.pop("name", None), options.pop("model_uri", None)
        if not deployment or not model_uri:
            raise errors.InvalidInput(
                f"endpoint '{name}' comes into being with its first deployment: give config name and model_uri, or run "
                f"mlflow deployments create --endpoint {name} --name NAME -m models:/MODEL/VERSION"
            )
        check_text("name", deployment)
        check_text("model_uri", model_uri)
        result = self._verbs.create(deployment, model_uri, None, name, options)
        if result.difference is not None or result.pending:
            return shown(result)
        return EndpointView(self._verbs.endpoint(name))

    @binding_of("adopt", returns=shown)
    def adopt(self, endpoint: str, virtual_service: str, route: str, **options: Any) -> dict[str, Any]:
        """Take over one route of your VirtualService: what it goes to becomes stable; ``delete_endpoint`` gives it back."""

    @binding_of("export")
    def export(self, endpoint: str, *, with_traffic: bool = True, argocd: bool = False) -> str:
        """The endpoint's objects as YAML for Git, or with ``argocd`` what an Argo CD Application has to leave alone."""

    @binding_of("plan")
    def plan(
        self,
        endpoint: str,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        model_uri: str | None = None,
        flavor: str | None = None,
        verb: str | None = None,
    ) -> dict[str, Any]:
        """What ``update_endpoint`` (with ``name`` and ``model_uri``: ``create_deployment``) would do; ``apply_plan`` does it.

        Another ``verb`` can be named: adopt, policy, route, fault, delete or delete-endpoint.
        """

    @mapped
    def apply_plan(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a plan, unless the endpoint has moved since it was made."""
        return shown(self._verbs.apply_plan(plan))

    @binding_of("update_endpoint", returns=shown)
    def update_endpoint(self, endpoint: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Start a release, move its traffic, or end it: ``weight``, ``strategy``, ``action``, ..."""

    @mapped
    def delete_endpoint(self, endpoint: str, config: Mapping[str, Any] | None = None) -> None:
        """Take an endpoint away with all its deployments; one that is not there is no error."""
        shown(self._verbs.delete_endpoint(endpoint, config))

    @binding_of("endpoints", returns=EndpointList)
    def list_endpoints(self) -> list[dict[str, Any]]:
        """All endpoints of the target."""

    @binding_of("endpoint", returns=EndpointView)
    def get_endpoint(self, endpoint: str) -> dict[str, Any]:
        """One endpoint: name, url, headers, stable, candidates, traffic, release, ..."""


def run_local(
    name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Deploy a version on this machine's local mesh, behind an endpoint of its own name unless ``config`` names one.

    Returns:
        The deployment; its ``url`` takes requests.
    """
    options = dict(config or {})
    endpoint = str(options.pop("endpoint", name))
    client = get_deploy_client("istio-local")
    deployment: dict[str, Any] = client.create_deployment(name, model_uri, flavor, options, endpoint=endpoint)
    click.echo(f"{deployment['name']} answers at {deployment.get('url', '')}/invocations")
    return deployment


def target_help() -> str:
    """What ``mlflow deployments help -t istio-local`` prints."""
    from mlflow_istio.options.help_text import target_help_text

    return target_help_text()
