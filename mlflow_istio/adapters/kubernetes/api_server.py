"""kubeconfig or in-cluster settings -> a client, a namespace, and words for who we are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.target import Target
from mlflow_istio.errors import ClusterError, InvalidInput

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiServer:
    """An API server and who we are there.

    Attributes:
        api: The client.
        applying: The same for server-side apply, which every version does by its content type only.
        namespace: Where everything happens.
        who: Whose rights these are, for messages.
        inside: Whether we run in a pod of this cluster.
    """

    api: Any
    applying: Any
    namespace: str
    who: str
    inside: bool

    @property
    def server(self) -> str:
        """Address of the API server."""
        return str(self.api.configuration.host)

    def close(self) -> None:
        """Close its sockets."""
        self.api.rest_client.pool_manager.clear()
        self.applying.rest_client.pool_manager.clear()


def open_connection(target: Target) -> ApiServer:
    """The connection of a target. Asks nothing yet.

    Raises:
        ClusterError: There is neither a kubeconfig nor an in-cluster account, or it can't be read.
        InvalidInput: The kubeconfig has no such context; names those it has.
    """
    settings = client.Configuration()
    settings.retries = False  # ours know which calls may be repeated, and print nothing
    files = _kubeconfig_files()
    if not files and target.context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        return _inside(settings, target)
    if not files:
        raise ClusterError(
            f"no kubeconfig at {_wanted_files()}, and this is no pod of a cluster: set KUBECONFIG, or use target istio-local"
        )
    try:
        # Given each time: the client reads KUBECONFIG only once, when it is imported.
        contexts, current = config.list_kube_config_contexts(_wanted_files())
        names = [context["name"] for context in contexts]
        name = target.context or current["name"]
        if name not in names:
            raise InvalidInput(f"kubeconfig {_wanted_files()} has no context '{name}': {nearest(name, names)}")
        config.load_kube_config(_wanted_files(), context=name, client_configuration=settings)
    except (config.ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as exc:
        words = " ".join(str(exc).split())
        raise ClusterError(f"kubeconfig {_wanted_files()} can't be used: {words}") from exc
    if not settings.host or settings.host == client.Configuration().host:
        raise ClusterError(f"kubeconfig {_wanted_files()} can't be used: the cluster of context '{name}' has no server")
    context = next(context["context"] for context in contexts if context["name"] == name)
    return _connection(
        settings,
        namespace=target.place or context.get("namespace") or "default",
        who=f"user '{context.get('user', '?')}' of context '{name}'",
        inside=False,
    )


def _inside(settings: Any, target: Target) -> ApiServer:
    try:
        config.load_incluster_config(client_configuration=settings)
        own = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as exc:
        raise ClusterError(
            f"this pod has no service account to use ({exc}): set automountServiceAccountToken, or KUBECONFIG"
        ) from exc
    return _connection(settings, namespace=target.place or own, who="this pod's service account", inside=True)


def _connection(settings: Any, *, namespace: str, who: str, inside: bool) -> ApiServer:
    applying = client.ApiClient(settings)
    applying.set_default_header("Content-Type", _APPLY)
    return ApiServer(api=client.ApiClient(settings), applying=applying, namespace=namespace, who=who, inside=inside)


def _kubeconfig_files() -> list[Path]:
    return [path for path in map(Path, _wanted_files().split(os.pathsep)) if path.expanduser().exists()]


def _wanted_files() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"
