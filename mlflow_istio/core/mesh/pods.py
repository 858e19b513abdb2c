"""What only pods on a cluster have: resources, accounts, placement, secrets, a security context, and how the model gets in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import InvalidInput

SOURCES = ("registry", "image", "init")
"""How the model gets in: pulled by the server at start, in the image already, or downloaded by an init container."""

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]+)?")
_SECRET = re.compile(r"(?P<secret>[a-z0-9]([-.a-z0-9]*[a-z0-9])?)/(?P<key>[-._a-zA-Z0-9]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class PodSettings:
    """Settings of a deployment's pods.

    Attributes:
        source: One of :data:`SOURCES`.
        model_path: Folder of the model in the container; for ``image`` and ``init``.
        resources: ``requests`` and ``limits`` of the model server's container.
        service_account: Service account of the pods; None: the namespace's default.
        node_selector: Labels a node must have.
        tolerations: Kubernetes' own objects.
        annotations: Annotations of the pods.
        image_pull_secrets: Names of Secrets that open the image's registry.
        env_from_secret: Variable to ``SECRET/KEY``.
        hardened: Whether the pods run as a user other than root, with a read-only root and a writable /tmp.
        service_account_token: Whether the pods get a token of their service account for the API server.
        disk_limit: How much /tmp, the folder of a downloaded model and a recorder's records may hold, each; a pod that needs more
            is evicted.
    """

    source: str = "registry"
    model_path: str = "/model"
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    service_account: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    image_pull_secrets: tuple[str, ...] = ()
    env_from_secret: Mapping[str, str] = field(default_factory=dict)
    hardened: bool = True
    service_account_token: bool = False
    disk_limit: str = "20Gi"


def pod_values(settings: PodSettings | None) -> Object | None:
    """What the Deployment template gets as ``pod``; None on the local mesh, which has no pods."""
    if settings is None:
        return None
    return {
        "source": settings.source,
        "model_path": settings.model_path,
        "resources": {part: dict(amounts) for part, amounts in settings.resources.items()},
        "service_account": settings.service_account,
        "node_selector": dict(settings.node_selector),
        "tolerations": [dict(toleration) for toleration in settings.tolerations],
        "annotations": dict(settings.annotations),
        "image_pull_secrets": [{"name": name} for name in settings.image_pull_secrets],
        "hardened": settings.hardened,
        "service_account_token": settings.service_account_token,
        "disk_limit": settings.disk_limit,
    }


def draining(pod: Object | None) -> Object | None:
    """The pod's values, with a proxy that waits for what is still answered: by itself it ends in five seconds.

    A native sidecar ends after the model server anyway. Whoever configures the proxy by an annotation goes on doing so.
    """
    if pod is None:
        return None
    waiting = {"proxy.istio.io/config": '{"proxyMetadata": {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true"}}'}
    return {**pod, "annotations": {**waiting, **pod["annotations"]}}


RECORD_TOKEN = "MLFLOW_ISTIO_RECORD_TOKEN"
"""Variable of a model server: what readers of its records must show."""


def environment(
    plain: Mapping[str, str], server: Mapping[str, str], settings: PodSettings | None, model_uri: str
) -> tuple[list[Object], list[Object]]:
    """The environment of the model server and of the container that downloads its model.

    Args:
        plain: The user's variables.
        server: What the server needs, which nobody overrides.
        settings: The pods' settings.
        model_uri: Where the model is in the registry.

    Raises:
        InvalidInput: A variable is given twice, in plain and from a secret.
    """
    where = settings.model_path if settings and settings.source != "registry" else model_uri
    server = {**server, "MLFLOW_ISTIO_MODEL_URI": where}
    secrets = settings.env_from_secret if settings else {}
    twice = sorted(set(secrets) & (set(plain) | set(server)))
    if twice:
        raise InvalidInput(f"environment variable '{twice[0]}' is given twice, by 'env_from_secret' too: give it once")
    home = _writable(plain, server) if settings and settings.hardened else {}
    taken = {*server, *secrets}
    shared = plain_variables({name: value for name, value in {**home, **plain}.items() if name not in taken}) + [
        {"name": name, "valueFrom": {"secretKeyRef": _key_of(reference)}} for name, reference in secrets.items()
    ]
    return [*shared, *plain_variables(server)], shared


def _writable(plain: Mapping[str, str], server: Mapping[str, str]) -> dict[str, str]:
    """Where a pod with a read-only root writes: in the one folder that can be written to."""
    folders = {"HOME": "/tmp"}
    if plain.get("MLFLOW_ISTIO_RECORD"):
        folders["MLFLOW_ISTIO_RECORD_DIR"] = "/tmp/mlflow-istio/records"
    if server.get("MLFLOW_ISTIO_ENV_MANAGER", "local") != "local":
        folders["MLFLOW_ENV_ROOT"] = "/tmp/mlflow-istio/environments"
    return folders


def sidecars_in(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The native sidecars of a pod's ``spec``: init containers that go on beside its containers."""
    return [container for container in pod.get("initContainers") or () if container.get("restartPolicy") == "Always"]


def variables_in(deployment: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The environment entries of a Deployment's model server, and of what stands before it."""
    pod = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    for container in (*(pod.get("containers") or ())[:1], *sidecars_in(pod)):
        yield from container.get("env") or ()


def variable_of(deployment: Mapping[str, Any], name: str) -> str | None:
    """The value of a variable of ``variables_in``, as it arrives there; None where it is not written in plain."""
    for variable in variables_in(deployment):
        if variable.get("name") == name and isinstance(variable.get("value"), str):
            return str(variable["value"]).replace("$$", "$")
    return None


def check_resources(resources: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, str]]:
    """Return requests and limits if Kubernetes can read them; numbers become text.

    Raises:
        InvalidInput: It can't; names the part.
    """
    checked: dict[str, dict[str, str]] = {}
    for part, amounts in resources.items():
        if part not in ("requests", "limits"):
            raise InvalidInput(f"resources can't have '{part}': {nearest(part, ('requests', 'limits'))}")
        if not isinstance(amounts, Mapping):
            raise InvalidInput(f'resources: \'{part}\' must be a JSON object such as {{"cpu": "500m"}}')
        checked[part] = {name: str(amount) for name, amount in amounts.items()}
        for name, amount in checked[part].items():
            if not _QUANTITY.fullmatch(amount):
                raise InvalidInput(
                    f"resources: '{part}.{name}' can't be {amount!r}: use a quantity such as 500m or 2Gi"
                )
    return checked


def check_quantity(amount: str) -> str:
    """Return a quantity if Kubernetes can read it.

    Raises:
        InvalidInput: It can't.
    """
    if _QUANTITY.fullmatch(amount):
        return amount
    raise InvalidInput(f"{amount!r} is no quantity: use one such as 500Mi or 20Gi")


def check_secret_reference(reference: str) -> str:
    """Return the reference if it is written as ``SECRET/KEY``.

    Raises:
        InvalidInput: It is not.
    """
    if _SECRET.fullmatch(reference):
        return reference
    raise InvalidInput(f"secret {reference!r} can't be read: write SECRET/KEY")


def check_path(path: str) -> str:
    """Return the path if it is absolute and not the root.

    Raises:
        InvalidInput: It is not.
    """
    if re.fullmatch(r"(/[^/\0]+)+/?", path) and ".." not in path.split("/"):
        return path
    raise InvalidInput(f"path {path!r} is not absolute: use one such as /model")


def plain_variables(variables: Mapping[str, str]) -> list[Object]:
    """Environment entries whose values arrive as they are: Kubernetes would put another variable for ``$(NAME)``."""
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in variables.items()]


def _key_of(reference: str) -> Object:
    secret, _, key = reference.partition("/")
    return {"name": secret, "key": key}
