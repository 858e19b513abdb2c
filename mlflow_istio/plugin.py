"""The MLflow deployment client: MLflow's signatures in, MlflowException out. Nothing is decided here.

Our errors become MlflowException here and only here. They are ClickExceptions too, so that the ``mlflow`` command prints one line
instead of a traceback.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import click
from mlflow.deployments import base, get_deploy_client
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from mlflow_istio import errors
from mlflow_istio.display import (
    DeploymentList,
    DeploymentView,
    EndpointList,
    EndpointView,
    History,
    ReportPage,
    view_of,
)

_log = logging.getLogger("mlflow_istio")

_CODES: Mapping[type[errors.MlflowIstioError], int] = {
    errors.InvalidInput: codes.INVALID_PARAMETER_VALUE,
    errors.NotFound: codes.RESOURCE_DOES_NOT_EXIST,
    errors.StateConflict: codes.RESOURCE_CONFLICT,
    errors.Unsupported: codes.NOT_IMPLEMENTED,
    errors.EditConflict: codes.RESOURCE_CONFLICT,
    errors.Forbidden: codes.PERMISSION_DENIED,
    errors.NotReady: codes.TEMPORARILY_UNAVAILABLE,
    errors.NotRouted: codes.TEMPORARILY_UNAVAILABLE,
    errors.ClusterError: codes.INTERNAL_ERROR,
    errors.RegistryError: codes.TEMPORARILY_UNAVAILABLE,
    errors.MlflowIstioError: codes.INTERNAL_ERROR,
}

Function = TypeVar("Function", bound=Callable[..., Any])


class IstioDeploymentError(MlflowException, click.ClickException):  # type: ignore[misc]  # MLflow has no types
    """An error of this package as MLflow and its command line know errors.

    Args:
        error: The error it stands for.
    """

    exit_code = 1

    def __init__(self, error: errors.MlflowIstioError) -> None:
        click.ClickException.__init__(self, str(error))
        MlflowException.__init__(self, str(error), error_code=error_code_of(error))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: the message, which names the thing and what to do."""
        return [f"{type(self).__name__}: {self.message}"]


def error_code_of(error: errors.MlflowIstioError) -> int:
    """MLflow's error code for an error of ours: that of the nearest class in the tree."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


@contextlib.contextmanager
def _mlflow_errors() -> Iterator[None]:
    try:
        yield
    except errors.MlflowIstioError as exc:
        raise IstioDeploymentError(exc) from exc


def _mapped(function: Function) -> Function:
    @functools.wraps(function)
    def with_mlflow_errors(*args: Any, **kwargs: Any) -> Any:
        with _mlflow_errors():
            return function(*args, **kwargs)

    return cast(Function, with_mlflow_errors)


class IstioDeploymentClient(base.BaseDeploymentClient):  # type: ignore[misc]  # MLflow has no types
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

        with _mlflow_errors():
            self._verbs = Verbs(target_uri, tell=_log.info, warn=_log.warning)

    @_mapped
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
        return _shown(self._verbs.create(name, model_uri, flavor, endpoint, config))

    @_mapped
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
        return _shown(self._verbs.update(name, model_uri, flavor, config))

    @_mapped
    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Take a deployment without traffic away; one that is not there is no error."""
        _shown(self._verbs.delete(name, endpoint, config))

    @_mapped
    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All deployments of the target, or of one endpoint."""
        return DeploymentList(self._verbs.deployments(endpoint))

    @_mapped
    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One deployment, with the url and headers that reach it at any weight."""
        return DeploymentView(self._verbs.deployment(name, endpoint))

    @_mapped
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

    @_mapped
    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> Any:
        """Refused: MLflow's scoring server has no explanations to give."""
        del deployment_name, df, endpoint
        raise errors.Unsupported(
            "explain is not offered: MLflow's scoring server has no such call; "
            "log an explainer as a model of its own (mlflow.shap.log_explainer) and deploy that"
        )

    @_mapped
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
        result = self._verbs.create(deployment, model_uri, None, name, options)
        if result.difference is not None or result.pending:
            return _shown(result)
        return EndpointView(self._verbs.endpoint(name))

    @_mapped
    def adopt(self, endpoint: str, virtual_service: str, route: str, **options: Any) -> dict[str, Any]:
        """Take over one route of your VirtualService: what it goes to becomes stable; ``delete_endpoint`` gives it back."""
        return _shown(self._verbs.adopt(endpoint, {"virtual_service": virtual_service, "route": route, **options}))

    @_mapped
    def export(self, endpoint: str, *, with_traffic: bool = True, argocd: bool = False) -> str:
        """The endpoint's objects as YAML for Git, or with ``argocd`` what an Argo CD Application has to leave alone."""
        return self._verbs.export(endpoint, with_traffic=with_traffic, argocd=argocd)

    @_mapped
    def plan(
        self,
        endpoint: str,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        model_uri: str | None = None,
        flavor: str | None = None,
    ) -> dict[str, Any]:
        """What ``update_endpoint`` (with ``name`` and ``model_uri``: ``create_deployment``) would do; ``apply_plan`` does it."""
        return self._verbs.plan(endpoint, config, name=name, model_uri=model_uri, flavor=flavor)

    @_mapped
    def apply_plan(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a plan, unless the endpoint has moved since it was made."""
        return _shown(self._verbs.apply_plan(plan))

    @_mapped
    def update_endpoint(self, endpoint: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Start a release, move its traffic, or end it: ``weight``, ``strategy``, ``action``, ..."""
        return _shown(self._verbs.update_endpoint(endpoint, config))

    @_mapped
    def delete_endpoint(self, endpoint: str, config: Mapping[str, Any] | None = None) -> None:
        """Take an endpoint away with all its deployments; one that is not there is no error."""
        _shown(self._verbs.delete_endpoint(endpoint, config))

    @_mapped
    def list_endpoints(self) -> list[dict[str, Any]]:
        """All endpoints of the target."""
        return EndpointList(self._verbs.endpoints())

    @_mapped
    def get_endpoint(self, endpoint: str) -> dict[str, Any]:
        """One endpoint: name, url, headers, stable, candidates, traffic, release, ..."""
        return EndpointView(self._verbs.endpoint(endpoint))

    def promote(self, endpoint: str, candidate: str | None = None, **options: Any) -> dict[str, Any]:
        """Make the candidate stable with all the traffic, in one edit."""
        named = {"candidate": candidate} if candidate else {}
        return self.update_endpoint(endpoint, {"action": "promote", **named, **options})

    def rollback(self, endpoint: str, to: int | str | None = None, **options: Any) -> dict[str, Any]:
        """Return to what users had before the release, in one edit; also after a promotion.

        Args:
            endpoint: The endpoint.
            to: Sequence number or id of an earlier change (``history``): its traffic comes back, with all that it needs.
            options: Further options of ``update_endpoint``.
        """
        named = {} if to is None else {"to": to}
        return self.update_endpoint(endpoint, {"action": "rollback", **named, **options})

    def abort(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Return all traffic to stable and close the release."""
        return self.update_endpoint(endpoint, {"action": "abort", **options})

    @_mapped
    def release(self, endpoint: str, model_uri: str | None = None, **options: Any) -> dict[str, Any]:
        """Release a version step by step, and return when it is promoted, rolled back or undecided.

        Args:
            endpoint: The endpoint; it has a stable already.
            model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``; None with ``candidate``.
            options: Options of ``release``, such as ``steps="5,25,50"``.

        Returns:
            The endpoint, with ``outcome``, ``verdict`` (word and reason) and ``release_id``.
        """
        return _shown(self._verbs.release(endpoint, model_uri, options))

    @_mapped
    def resume_release(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Go on with a release whose process is gone, or that is paused, to its end; returns what ``release`` does."""
        return _shown(self._verbs.resume_release(endpoint, options))

    @_mapped
    def approve(self, endpoint: str) -> str:
        """Let a release past the gate it waits at; the gate."""
        return self._verbs.approve(endpoint)

    @_mapped
    def reject(self, endpoint: str) -> str:
        """Refuse the gate a release waits at; the gate."""
        return self._verbs.reject(endpoint)

    def pause(self, endpoint: str) -> dict[str, Any]:
        """Stop the release from advancing by itself."""
        return self.update_endpoint(endpoint, {"action": "pause"})

    def resume(self, endpoint: str) -> dict[str, Any]:
        """Let a paused release go on."""
        return self.update_endpoint(endpoint, {"action": "resume"})

    @_mapped
    def policy(self, endpoint: str, **settings: Any) -> dict[str, Any]:
        """Set what routes do besides splitting: ``timeout``, ``retries``, ``headers``, ``rewrite``, ``connection_pool``, ...

        Example:
            >>> client.policy("churn", timeout="2s", retries={"attempts": 2, "retryOn": "5xx"})
            >>> client.policy("churn", subset="churn-v2", headers={"response": {"set": {"x-arm": "b"}}})
            >>> client.policy("churn", timeout="none")
        """
        return _shown(self._verbs.policy(endpoint, settings))

    @_mapped
    def route(self, endpoint: str, to: str | None = None, match: Any = None, **options: Any) -> dict[str, Any]:
        """Send matching requests to one deployment whatever the split says; ``remove="NAME"`` takes a route away.

        Example:
            >>> client.route("churn", to="churn-v2", match={"headers": {"x-user": "staff"}}, name="staff")
        """
        given = {name: value for name, value in (("to", to), ("match", match)) if value is not None}
        return _shown(self._verbs.route(endpoint, {**given, **options}))

    @_mapped
    def fault(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Put a ``delay`` or ``abort`` into live traffic until its ``ttl`` is over; ``end=True`` takes it away now."""
        return _shown(self._verbs.fault(endpoint, options))

    @_mapped
    def chaos(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Inject a ``delay`` or ``abort`` for a ``duration``, take it away again, and report what callers saw."""
        return self._verbs.chaos(endpoint, options)

    @_mapped
    def sweep(self, **options: Any) -> list[dict[str, str]]:
        """End what is over: faults, kept versions, stale cookies."""
        return self._verbs.sweep(options)

    def status(self, endpoint: str) -> dict[str, Any]:
        """The same as ``get_endpoint``."""
        return self.get_endpoint(endpoint)

    @_mapped
    def history(self, endpoint: str) -> History:
        """Every routing change of an endpoint, oldest first, from the registry: a list with a ``plot()``."""
        return History(self._verbs.history(endpoint), endpoint)

    @_mapped
    def report(self, endpoint: str, release: str | None = None, output: str | None = None) -> ReportPage:
        """A release told as one HTML page, which a notebook shows; it is kept with the release's run, too.

        Args:
            endpoint: The endpoint.
            release: Id of the release; the open one, else the last.
            output: File to write it to as well.
        """
        made = self._verbs.report(endpoint, release, output=output)
        return ReportPage(made.page, made.release)

    @_mapped
    def analyse(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Look once at an open A/B/n release: every arm with its interval, and the outcome so far.

        Args:
            endpoint: The endpoint.
            options: Options of ``analyse``; ``kpi`` may be a callable from a deployment's name to (n, events) or (n, sum, sum of
                squares) so far.
        """
        return self._verbs.analyse(endpoint, options)

    @_mapped
    def declare(self, endpoint: str, winner: str | None = None, **options: Any) -> dict[str, Any]:
        """Give the winner of an A/B/n release all the traffic; refused with the reason while there is none."""
        named = {"winner": winner} if winner else {}
        return dict(self._verbs.declare(endpoint, {**named, **options}).view)

    @_mapped
    def compare(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Compare the answers of an open shadow release with stable's: verdict, figures, most different requests."""
        return self._verbs.compare(endpoint, options)

    @_mapped
    def doctor(self, endpoint: str | None = None, fix: bool = False) -> dict[str, Any]:
        """What is wrong with an endpoint (or with all), each with the command that mends it; ``fix`` mends what is safe."""
        return self._verbs.doctor(endpoint, fix=fix)

    @_mapped
    def explain_route(self, endpoint: str | None = None, **request: Any) -> dict[str, Any]:
        """Which route and version answers a request, and why, without sending it.

        Args:
            endpoint: The endpoint; with ``file``, the VirtualService.
            request: ``path``, ``method``, ``headers``, ``query``, ``cookies``, ``user``, ``host``, ``port``, ``scheme``; or
                ``file``, a YAML file that holds the VirtualService.
        """
        return self._verbs.explain_route(endpoint, **request)

    @_mapped
    def assign(self, endpoint: str, user_id: str) -> dict[str, str]:
        """The headers that send this user to their arm of the open A/B release, the same in every process."""
        return self._verbs.assign(endpoint, user_id)


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
    from mlflow_istio.help_text import target_help_text

    return target_help_text()


def _shown(result: Any) -> dict[str, Any]:
    """The result's view; a dry run prints its difference, and the mlflow command ends there instead of claiming it was done."""
    view: dict[str, Any] = view_of(result.view)
    if result.pending and click.get_current_context(silent=True) is not None:
        click.echo(result.pending)
    if result.difference is None:
        return view
    click.echo(result.difference or "nothing would change")
    click.echo("dry run: nothing was changed")
    if click.get_current_context(silent=True) is not None:
        raise click.exceptions.Exit(0)
    return {**view, "difference": result.difference}
