"""One request to the API server as a value, sent in one place. Works the same on the client's versions 30 to 37.

Bodies and answers are raw JSON: the client's typed models would lose fields that they do not know, and are ten times slower.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tenacity
from kubernetes import client

from mlflow_istio.adapters.kubernetes import failures
from mlflow_istio.adapters.kubernetes.api_server import ApiServer
from mlflow_istio.adapters.kubernetes.resources import NAMESPACE, POD_LOG, Resource
from mlflow_istio.core.basics.objects import FIELD_MANAGER, Object
from mlflow_istio.errors import MlflowIstioError

Answer = TypeVar("Answer")

PATIENCE = 8.0
"""Seconds for which what passes by itself is tried again: an API server that restarts, a full queue, other writers."""

_CONNECT, _READ = 3.0, 30.0


_VERBS = {
    "get": "read",
    "list": "list",
    "create": "create",
    "update": "replace",
    "patch": "patch",
    "delete": "delete",
}
"""RBAC's verbs and the client's words for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One request.

    Attributes:
        verb: As RBAC has it: get, list, create, update, patch (server-side apply) or delete.
        resource: What it is about.
        namespace: Where.
        name: Which; empty for list and create.
        body: JSON body.
        query: Further arguments of the client's method.
    """

    verb: str
    resource: Resource
    namespace: str
    name: str = ""
    body: Object | None = None
    query: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What it is about, for messages."""
        name = self.name or str((self.body or {}).get("metadata", {}).get("name", ""))
        return f"{self.resource.kind} '{name}'" if name else self.resource.full_name


class Caller:
    """Sends calls over one connection.

    Args:
        connection: The API server and who we are there.
        patience: Seconds for which what passes by itself is tried again.
    """

    def __init__(self, connection: ApiServer, patience: float = PATIENCE) -> None:
        self.connection = connection
        self._patience = patience

    def ask(self, call: Call) -> Any:
        """Send a call that can be repeated without harm; the JSON answer, or None where there is no such object.

        Raises:
            MlflowIstioError: The cluster refuses, or can't be reached.
        """
        try:
            return self.insist(lambda: self.send(call))
        except failures.FOREIGN as exc:
            if failures.is_absent(exc, call.resource.plural):
                return None
            raise self.explained(exc, call) from exc

    def insist(self, attempt: Callable[[], Answer], *, conflicts: bool = False) -> Answer:
        """Do something again and again while it fails with what passes by itself.

        Args:
            attempt: What to do; raises the client's own errors.
            conflicts: Whether a conflict with another writer is worth another attempt.
        """
        for trial in self._trials(conflicts):
            with trial:
                result = attempt()
        return result

    def send(self, call: Call) -> Any:
        """Send a call once; the JSON answer (text for a log). Raises the client's own errors."""
        method, arguments = self._method(call)
        reply = method(
            *arguments,
            **call.query,
            **_fixed(call),
            _preload_content=False,
            _request_timeout=(_CONNECT, _READ),
        )
        data = reply.data
        reply.release_conn()
        if call.resource is POD_LOG:
            return data.decode("utf-8", "replace")
        with _uncollected():
            return json.loads(data)

    def explained(self, exc: Exception, call: Call) -> MlflowIstioError:
        """A foreign error as one of ours."""
        return failures.explained(exc, call.verb, call.resource, call.subject, self.connection, self._may)

    def version(self) -> Mapping[str, Any] | None:
        """What the API server says of its version; None where it does not tell."""

        def ask() -> Any:
            reply = client.VersionApi(self.connection.api).get_code(
                _preload_content=False, _request_timeout=(_CONNECT, _READ)
            )
            return json.loads(reply.data)

        try:
            return dict(self.insist(ask))
        except failures.FOREIGN:
            return None

    def _trials(self, conflicts: bool) -> Iterator[tenacity.AttemptManager]:
        shaken = False

        def worth_it(exc: BaseException) -> bool:
            nonlocal shaken
            shaken = shaken or failures.is_passing(exc)
            # A server that starts again refuses what it allows a moment later, when it has read its roles and accounts.
            starting = shaken and failures.is_denied(exc)
            return starting or failures.is_passing(exc) or (conflicts and failures.is_conflict(exc))

        def pause(state: tenacity.RetryCallState) -> float:
            asked = failures.retry_after(state.outcome.exception()) if state.outcome else 0.0
            return max(asked, backoff(state))

        backoff = tenacity.wait_random_exponential(multiplier=0.02, max=1.0)
        return iter(
            tenacity.Retrying(
                retry=tenacity.retry_if_exception(worth_it),
                wait=pause,
                stop=tenacity.stop_after_delay(self._patience),
                sleep=time.sleep,
                reraise=True,
            )
        )

    def _method(self, call: Call) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        resource = call.resource
        body = () if call.body is None else (call.body,)
        named = (call.name,) if call.name and call.verb != "create" else ()
        api = self.connection.applying if call.verb == "patch" else self.connection.api
        if resource.group:
            verb = "get" if call.verb == "get" else _VERBS[call.verb]
            method = getattr(client.CustomObjectsApi(api), f"{verb}_namespaced_custom_object")
            return method, (resource.group, resource.version, call.namespace, resource.plural, *named, *body)
        scoped = "" if resource is NAMESPACE else "namespaced_"
        method = getattr(client.CoreV1Api(api), f"{_VERBS[call.verb]}_{scoped}{resource.singular}")
        return method, (*named, *(() if resource is NAMESPACE else (call.namespace,)), *body)

    def _may(self, verb: str, resource: Resource) -> bool | None:
        """Whether we have a right, as the API server itself sees it; None when it does not say."""
        plural, _, part = resource.plural.partition("/")
        wanted = {"namespace": self.connection.namespace, "verb": verb, "group": resource.group, "resource": plural}
        review = {"spec": {"resourceAttributes": {**wanted, **({"subresource": part} if part else {})}}}
        try:
            reply = client.AuthorizationV1Api(self.connection.api).create_self_subject_access_review(
                review, _preload_content=False, _request_timeout=(_CONNECT, _READ)
            )
            return bool(json.loads(reply.data)["status"]["allowed"])
        except failures.FOREIGN:
            return None


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: reading JSON leaves no garbage, and walking a growing list of objects doubles its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _fixed(call: Call) -> Mapping[str, Any]:
    """Arguments that every write has: who writes, and that unknown fields are refused instead of dropped."""
    if call.verb not in ("create", "update", "patch"):
        return {}
    forced = {"force": True} if call.verb == "patch" else {}
    return {"field_manager": FIELD_MANAGER, "field_validation": "Strict", **forced}
