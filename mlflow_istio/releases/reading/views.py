"""What users are told about endpoints and deployments: plain dicts, read from the cluster alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_istio.core.basics.objects import (
    ENDPOINT_LABEL,
    Object,
    annotations_of,
    labels_of,
    name_of,
    ready_replicas,
    wanted_replicas,
)
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.matching.pin_guard import OPEN
from mlflow_istio.core.matching.probe import PIN_HEADER
from mlflow_istio.core.mesh.attached import readable_attachment
from mlflow_istio.core.mesh.manifests import (
    ALIAS_ANNOTATION,
    FLAVOR_ANNOTATION,
    VERSION_ANNOTATION,
    runtime_of_deployment,
)
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves.adoption import endpoints_in
from mlflow_istio.core.policy.settings import notes
from mlflow_istio.core.release.driver import release_status_of
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, Unsupported
from mlflow_istio.ports.cluster import Address, Cluster
from mlflow_istio.releases.context import (
    address_at,
    address_of,
    deployment_of,
    deployments_of,
    existing_endpoint,
    virtual_service_of,
)

View = dict[str, Any]


def endpoint_view(cluster: Cluster, name: str) -> View:
    """An endpoint: name, url, headers, stable, candidates, traffic, release, and more.

    Raises:
        NotFound: There is none.
    """
    return _endpoint_view(cluster, name, virtual_service_of(cluster, name), deployments_of(cluster, name))


def _endpoint_view(cluster: Cluster, name: str, virtual_service: Object, deployments: Sequence[Object]) -> View:
    endpoint = read_endpoint(virtual_service, name)
    stable = next((obj for obj in deployments if endpoint.destination(name_of(obj)) == endpoint.stable), None)
    return {
        "name": name,
        **_address_view(lambda: address_at(cluster, virtual_service, name, stable), {}),
        "virtual_service": endpoint.virtual_service,
        "adopted_route": endpoint.route if endpoint.adopted else None,
        "stable": endpoint.stable.name,
        "candidates": [
            name
            for name in (endpoint.release.candidates if endpoint.release else ())
            if endpoint.role_of(name) == "candidate"
        ],
        "control": (endpoint.release.control or None) if endpoint.release else None,
        "traffic": endpoint.traffic.weights,
        "mirrors": {mirror.destination.name: mirror.percentage for mirror in endpoint.traffic.mirrors},
        "arms": [arm.deployment for arm in endpoint.traffic.arms],
        "policy": policy_view(endpoint),
        "pins": "guarded" if endpoint.guard not in (None, OPEN) else OPEN,
        "deadlines": [to_json(deadline) for deadline in endpoint.deadlines],
        "release": _release_view(endpoint),
        "last_release": (
            {"id": endpoint.last.id, "strategy": endpoint.last.strategy, "outcome": endpoint.last.outcome}
            if endpoint.last
            else None
        ),
        "earlier_releases": [
            {"id": earlier.id, "outcome": earlier.outcome, "change": earlier.sequence} for earlier in endpoint.earlier
        ],
        "change": {"id": endpoint.change, "sequence": endpoint.sequence},
        "unrecorded": len(endpoint.outbox),
        "deployments": [_deployment_view(obj, endpoint) for obj in deployments],
    }


def policy_view(endpoint: Endpoint) -> View:
    """What is set besides the split, and what of it acts only partly together."""
    policy = endpoint.traffic.policy
    view: View = {key: value for key, value in to_json(policy).items() if key not in ("replaced", "stale")}
    lines = notes(policy, mirrors=bool(endpoint.traffic.mirrors))
    return {**view, "notes": list(lines)} if lines else view


def endpoint_views(cluster: Cluster) -> list[View]:
    """All endpoints, by name; one that can't be read says why instead of hiding the others. Two lists, however many there are."""
    views: list[View] = []
    homes = _homes(cluster)
    deployments: dict[str, list[Object]] = {}
    for obj in deployments_of(cluster) if homes else ():
        deployments.setdefault(labels_of(obj)[ENDPOINT_LABEL], []).append(obj)
    for name in sorted(homes):
        try:
            views.append(_endpoint_view(cluster, name, homes[name], deployments.get(name, ())))
        except MlflowIstioError as exc:
            views.append({"name": name, "problem": exc.message})
    return views


def _homes(cluster: Cluster) -> dict[str, Object]:
    """Every endpoint's VirtualService, from one list."""
    return {name: obj for obj in cluster.list("VirtualService", {}) for name in endpoints_in(obj)}


def deployment_view(cluster: Cluster, name: str, endpoint: str | None = None) -> View:
    """A deployment: name, endpoint, model version, flavor, role, weight, replicas, and how to reach it.

    Raises:
        NotFound: There is none, or not behind that endpoint.
    """
    obj = deployment_of(cluster, name)
    its_endpoint = labels_of(obj)[ENDPOINT_LABEL]
    if endpoint is not None and endpoint != its_endpoint:
        raise NotFound(f"deployment '{name}' is behind endpoint '{its_endpoint}', not '{endpoint}'")
    existing = existing_endpoint(cluster, its_endpoint)
    view = _deployment_view(obj, existing)
    if existing is not None:
        address = _address_view(lambda: address_of(cluster, its_endpoint, name), {PIN_HEADER: name})
        view |= {key: value for key, value in address.items() if key != "scoring_url"}
    return view


def _address_view(address_of_it: Callable[[], Address], further: Mapping[str, str]) -> View:
    """How callers reach an endpoint; ``unreachable`` says why they can't, where a route above takes every request, say."""
    try:
        address = address_of_it()
    except (InvalidInput, NotFound, Unsupported) as exc:
        return {"url": "", "headers": dict(further), "scoring_url": "", "unreachable": exc.message}
    spoken = {"protocol": address.protocol} if address.protocol != "http" else {}
    headers = {**address.headers, **further}
    return {**spoken, "url": address.url, "headers": headers, "scoring_url": address.url + address.scoring}


def deployment_views(cluster: Cluster, endpoint: str | None = None) -> list[View]:
    """All deployments, or an endpoint's, by name.

    Raises:
        NotFound: There is no such endpoint.
    """
    homes = {endpoint: virtual_service_of(cluster, endpoint)} if endpoint is not None else _homes(cluster)
    endpoints: dict[str, Endpoint | None] = {}
    views = []
    for obj in deployments_of(cluster, endpoint):
        name = labels_of(obj)[ENDPOINT_LABEL]
        if name not in endpoints:
            endpoints[name] = read_endpoint(homes[name], name) if name in homes else None
        views.append(_deployment_view(obj, endpoints[name]))
    return views


def change_view(change: RoutingChange) -> View:
    """One line of a history."""
    pins = [set(end.pins) if end else set() for end in (change.before, change.after)]
    return {
        "sequence": change.sequence,
        "id": change.id,
        "time": change.time.isoformat(timespec="seconds"),
        "action": change.action,
        "who": change.who,
        "reason": change.reason,
        "release": change.release,
        "run": change.run,
        "before": change.before.weights if change.before else None,
        "after": change.after.weights if change.after else None,
        "mirrors": {m.destination.name: m.percentage for m in change.after.mirrors} if change.after else {},
        "added": sorted(pins[1] - pins[0]),
        "removed": sorted(pins[0] - pins[1]),
        "control": change.control or None,
        "versions": dict(change.versions),
        "evidence": dict(change.evidence),
        "forged": change.forged,
    }


def history_views(changes: Sequence[RoutingChange]) -> list[View]:
    """A history, oldest first."""
    return [change_view(change) for change in changes]


def _release_view(endpoint: Endpoint) -> View | None:
    release = endpoint.release
    if release is None:
        return None
    view: View = {
        "id": release.id,
        "strategy": release.strategy,
        "candidates": list(release.candidates),
        "control": release.control or None,
        "state": release.state,
        "opened": release.opened.isoformat(timespec="seconds"),
        "who": release.who,
        "run": release.run,
    }
    if release.assignment:
        view["assignment"] = {
            "kind": release.assignment.kind,
            "name": release.assignment.name,
            "values": dict(release.assignment.values),
        }
    release_status = release_status_of(endpoint.progress)
    if release_status is not None:
        view["progress"] = release_status.view()
    watching = release.watching
    if watching is not None:
        until = release_status.watch_until.isoformat(timespec="seconds") if release_status else None
        view["watching"] = {
            "promoted": endpoint.stable.name,
            "previous": watching.previous.name,
            "holdback": watching.holdback,
            "since": watching.since.isoformat(timespec="seconds"),
            "until": until,
        }
    return view


def _deployment_view(obj: Object, endpoint: Endpoint | None) -> View:
    name = name_of(obj)
    annotations = annotations_of(obj)
    attachment = readable_attachment(obj)
    return {
        "name": name,
        **({"attached": attachment.reference} if attachment else {}),
        "endpoint": labels_of(obj)[ENDPOINT_LABEL],
        "model_version": annotations.get(VERSION_ANNOTATION, ""),
        "alias": annotations.get(ALIAS_ANNOTATION),
        "flavor": annotations.get(FLAVOR_ANNOTATION, "python_function"),
        "runtime": runtime_of_deployment(obj).name,
        "role": endpoint.role_of(name) if endpoint else "idle",
        "weight": endpoint.traffic.weights.get(name, 0) if endpoint else 0,
        "replicas": wanted_replicas(obj),
        "ready": ready_replicas(obj),
    }
