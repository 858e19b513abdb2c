"""Every error of the client, of urllib3 and of the API server -> one of ours, once, with one line that names the thing.

Decided by status codes and by what the API server itself answers, never by the wording of a message: whether a 403 means a
missing right or a refusal by admission (a quota, a policy) is asked with a SelfSubjectAccessReview.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from mlflow_istio.adapters.kubernetes.api_server import ApiServer
from mlflow_istio.adapters.kubernetes.resources import Resource
from mlflow_istio.errors import ClusterError, Forbidden, MlflowIstioError, NotFound

FOREIGN = (ApiException, urllib3.exceptions.HTTPError, json.JSONDecodeError)
"""What the client raises."""

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _TOO_MANY, _SERVER = 401, 403, 404, 409, 429, 500
_LONGEST_PAUSE = 5.0
_ISTIO = "networking.istio.io"


def is_passing(exc: BaseException | None) -> bool:
    """Whether it may pass by itself: the connection broke, the server is overloaded or starting."""
    if isinstance(exc, ApiException):
        return bool(exc.status and (exc.status == _TOO_MANY or exc.status >= _SERVER))
    return isinstance(exc, urllib3.exceptions.HTTPError) and not isinstance(exc, urllib3.exceptions.SSLError)


def is_unanswered(exc: BaseException | None) -> bool:
    """Whether a write that failed so may have been done all the same."""
    return is_passing(exc) and getattr(exc, "status", None) != _TOO_MANY


def is_conflict(exc: BaseException | None) -> bool:
    """Whether another writer was faster, or created the object first."""
    return isinstance(exc, ApiException) and exc.status == _CONFLICT


def is_denied(exc: BaseException | None) -> bool:
    """Whether the API server does not know us, or does not let us."""
    return isinstance(exc, ApiException) and exc.status in (_UNAUTHORIZED, _FORBIDDEN)


def is_absent(exc: BaseException | None, plural: str) -> bool:
    """Whether the API server says that there is no such object (not: no such API, no such namespace)."""
    if not (isinstance(exc, ApiException) and exc.status == _NOT_FOUND):
        return False
    details = _status(exc).get("details") or {}
    return bool(details.get("name")) and details.get("kind") == plural


def words_without_reason(exc: BaseException | None) -> str:
    """The words of a 500 to which the API server gives no reason; empty for everything else."""
    if not (isinstance(exc, ApiException) and exc.status == _SERVER):
        return ""
    status = _status(exc)
    return "" if status.get("reason") else str(status.get("message", ""))


def retry_after(exc: BaseException | None) -> float:
    """Seconds the API server asks us to wait, 0 when it does not say."""
    headers = getattr(exc, "headers", None) or {}
    asked = dict(headers).get("Retry-After", "")
    return min(float(asked), _LONGEST_PAUSE) if str(asked).isdigit() else 0.0


def explained(
    exc: Exception,
    verb: str,
    resource: Resource,
    subject: str,
    connection: ApiServer,
    may: Callable[[str, Resource], bool | None],
) -> MlflowIstioError:
    """A foreign error as one of ours.

    Args:
        exc: What was raised.
        verb: What was asked, in RBAC's words.
        resource: About what.
        subject: The same for people, such as ``VirtualService 'churn'``.
        connection: Where.
        may: Asks the API server whether we have a right.
    """
    if isinstance(exc, ApiException) and exc.status:
        return _refusal(exc, verb, resource, subject, connection, may)
    words = str(exc.reason if isinstance(exc, ApiException) else exc)
    if isinstance(exc, (ApiException, urllib3.exceptions.SSLError)):
        return ClusterError(
            f"the certificate of the API server at {connection.server} is not accepted: check the cluster's "
            "certificate-authority in the kubeconfig",
            detail=words,
        )
    if isinstance(exc, json.JSONDecodeError):
        return ClusterError(f"{connection.server} does not answer like an API server: check the kubeconfig")
    reason = _innermost(exc)
    return ClusterError(
        f"the API server at {connection.server} can't be reached ({reason}): check that it runs and that the kubeconfig's "
        "address is right, then run the same command again"
    )


def _refusal(
    exc: ApiException,
    verb: str,
    resource: Resource,
    subject: str,
    connection: ApiServer,
    may: Callable[[str, Resource], bool | None],
) -> MlflowIstioError:
    status = _status(exc)
    words = str(status.get("message") or exc.reason or "")
    details = status.get("details") or {}
    namespace = connection.namespace
    if exc.status == _UNAUTHORIZED:
        return ClusterError(
            f"the API server at {connection.server} does not know {connection.who} (401): the token may have expired; log in again"
        )
    missing = _missing_right(verb, resource, may) if exc.status == _FORBIDDEN else None
    if missing is not None:
        return Forbidden(
            f"{connection.who} may not {missing} {resource.full_name} in namespace '{namespace}': grant it (deploy/rbac.yaml has "
            "all rights that are needed)",
            detail=words,
        )
    if exc.status == _NOT_FOUND:
        if details.get("kind") == "namespaces":
            return NotFound(missing_namespace(str(details.get("name", namespace))))
        if resource.group == _ISTIO and not details.get("name"):
            return ClusterError(
                f"this cluster does not know {resource.full_name}/{resource.version}: install Istio 1.22 or newer, or use "
                "another context"
            )
        return NotFound(f"{subject} does not exist in namespace '{namespace}'", detail=words)
    done = {"create": "created", "update": "changed", "patch": "applied", "delete": "deleted"}.get(verb, "read")
    if exc.status in (_TOO_MANY,) or exc.status >= _SERVER:
        return ClusterError(
            f"{subject} could not be {done}: the API server at {connection.server} answered {exc.status}; run the same command "
            "again once that is mended",
            detail=words,
        )
    return ClusterError(f"{subject} was not {done}: the cluster refused it ({exc.status})", detail=words)


def _missing_right(verb: str, resource: Resource, may: Callable[[str, Resource], bool | None]) -> str | None:
    """The verb we may not use; None when we may, so that something else refuses. Applying what is not there creates it."""
    needed = ("patch", "create") if verb == "patch" else (verb,)
    return next((right for right in needed if may(right, resource) is not True), None)


def missing_namespace(name: str) -> str:
    """The message for a namespace that does not exist."""
    return (
        f"namespace '{name}' does not exist: create it (kubectl create namespace {name}), or name another in the target"
    )


def _innermost(exc: BaseException) -> str:
    """The cause in a few words; urllib3 wraps the system's error in its own."""
    while exc.args and isinstance(exc.args[-1], BaseException):
        exc = exc.args[-1]
    return str(exc).rsplit(": ", 1)[-1] or type(exc).__name__


def _status(exc: ApiException) -> dict[str, Any]:
    """The API server's Status object; empty when it answered something else."""
    try:
        status = json.loads(exc.body or "")
    except (ValueError, TypeError):
        return {}
    return status if isinstance(status, dict) else {}
