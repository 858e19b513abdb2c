"""Waits for a Deployment's current revision, and says early and in Kubernetes' own words why it does not come up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_istio.adapters.kubernetes import rollout
from mlflow_istio.adapters.kubernetes.api_calls import Call, Caller
from mlflow_istio.adapters.kubernetes.resources import DEPLOYMENT, EVENT, POD, POD_LOG, REPLICA_SET, Resource
from mlflow_istio.core.basics.log_lines import READ, telling
from mlflow_istio.core.basics.objects import Object, name_of, wanted_replicas
from mlflow_istio.errors import ClusterError, Forbidden, NotFound, NotReady

_POLL = 0.1
_LOOK_SECONDS = 1.0
_REFUSED_SECONDS = 5.0
"""How long a refusal of pods or of an image may stand: it is tried again, and a fresh namespace lacks its account for a moment."""
_LOG_LINES = 20
_EVENTS = 5


def await_ready(
    caller: Caller, deployment: str, timeout: float, warn: Callable[[str], None] = lambda _line: None
) -> None:
    """Block until all desired replicas of a Deployment's current revision are ready.

    Args:
        caller: Asks the API server.
        deployment: Name of the Deployment.
        timeout: Seconds.
        warn: Called with one line, once, when a pod waits for a node: that may end by itself, and may take all the time there is.

    Raises:
        NotReady: It did not come up, or can't; ``detail`` has the pods' reasons, last log lines and events.
        NotFound: There is no such Deployment.
    """
    begun = time.monotonic()
    looked, refused, told = 0.0, None, False
    while True:
        obj = _read(caller, deployment)
        if wanted_replicas(obj) == 0:
            raise NotReady(f"deployment '{deployment}' wants 0 replicas, which are never ready: scale it up")
        if rollout.is_up(obj):
            return
        now = time.monotonic()
        if now - begun > timeout:
            raise _not_ready(caller, obj, _pods(caller, obj), f" within {timeout:g} s")
        if now - looked > _LOOK_SECONDS:
            looked = now
            pods = _pods(caller, obj)
            standing = rollout.troubles(obj, pods)
            unplaced = next((trouble for trouble in standing if trouble.unplaced), None)
            if unplaced is not None and not told:
                told = True
                warn(f"deployment '{deployment}' waits for a node: {unplaced}")
            refused = (refused or now) if any(trouble.refused for trouble in standing) else None
            if any(trouble.hopeless for trouble in standing) or (refused and now - refused > _REFUSED_SECONDS):
                raise _not_ready(caller, obj, pods, "")
        time.sleep(_POLL)


def _read(caller: Caller, name: str) -> Object:
    obj = caller.ask(_call(caller, "get", DEPLOYMENT, name=name))
    if obj is None:
        raise NotFound(f"there is no deployment '{name}' in namespace '{caller.connection.namespace}'")
    return dict(obj)


def _pods(caller: Caller, deployment: Object) -> list[Object]:
    """The current revision's pods, as far as we may see them."""
    query = {"label_selector": rollout.pod_selector(deployment)}
    try:
        replica_sets = caller.ask(_call(caller, "list", REPLICA_SET, query=query))["items"]
        pods = caller.ask(_call(caller, "list", POD, query=query))["items"]
    except Forbidden:
        return []
    return rollout.current_pods(deployment, replica_sets, pods)


def _not_ready(caller: Caller, deployment: Object, pods: Sequence[Object], limit: str) -> NotReady:
    standing = rollout.troubles(deployment, pods)
    cause = f" ({standing[0].reason})" if standing else ""
    ready, wanted = rollout.ready_ones(pods), wanted_replicas(deployment)
    lines = [str(trouble) for trouble in standing[:_EVENTS]]
    first = next((trouble for trouble in standing if trouble.pod), None)
    if first is not None:
        lines += _last_words(caller, first.pod, first.container)
    return NotReady(
        f"deployment '{name_of(deployment)}' did not come up{limit}: {ready} of {wanted} replicas are ready{cause}",
        detail="\n".join(lines),
    )


def _last_words(caller: Caller, pod: str, container: str) -> list[str]:
    """A pod's newest events and its last log lines, as far as they can be had."""
    lines: list[str] = []
    try:
        query = {"field_selector": f"involvedObject.name={pod},type=Warning"}
        events = caller.ask(_call(caller, "list", EVENT, query=query))["items"]
        newest = sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        lines += [f"event: {event.get('reason')}: {event.get('message')}" for event in newest[-_EVENTS:]]
    except ClusterError as exc:
        lines.append(f"(its events can't be read: {exc.message})")
    if container:
        try:
            tail: dict[str, Any] = {"container": container, "tail_lines": READ}
            log = str(caller.ask(_call(caller, "get", POD_LOG, name=pod, query=tail)) or "")
            lines += [f"last log lines of {pod}:", *telling(log.splitlines(), _LOG_LINES)] if log.strip() else []
        except (ClusterError, NotFound) as exc:
            lines.append(f"(its log can't be read: {exc.message})")
    return lines


def _call(
    caller: Caller, verb: str, resource: Resource, *, name: str = "", query: Mapping[str, Any] | None = None
) -> Call:
    return Call(verb=verb, resource=resource, namespace=caller.connection.namespace, name=name, query=query or {})
