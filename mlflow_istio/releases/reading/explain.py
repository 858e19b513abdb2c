"""Which version answers a request and why, worked out from what the cluster stores; no request is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mlflow_istio.core.basics.objects import Object, annotations_of, name_of, prefix, ready_replicas
from mlflow_istio.core.endpoint.assignment import assignment_headers
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.inspection.explanation import (
    AnsweringShare,
    Explanation,
    Passed,
    Place,
    explain,
    known_delegates,
)
from mlflow_istio.core.matching.entrance import SCORING
from mlflow_istio.core.matching.places import hosts_of
from mlflow_istio.core.matching.requests import Request, normalized
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.core.mesh.delegation import delegates_of, is_delegate
from mlflow_istio.core.mesh.manifests import VERSION_ANNOTATION
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.errors import InvalidInput, MlflowIstioError
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.releases.context import address_of, deployments_of, endpoint_of, virtual_service_of

View = dict[str, Any]

_ACTIONS = ("rewrite", "timeout", "retries", "fault", "headers", "corsPolicy", "redirect", "directResponse", "delegate")
"""What a route does beside choosing a destination, shown as it stands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A request as people describe it.

    Attributes:
        path: Path, with its query if it has one; None: that of scoring.
        method: HTTP method.
        headers: Headers.
        query: Query parameters beside those of the path.
        cookies: Cookies beside those of a ``cookie`` header.
        user: User of an open A/B release whose arm is meant; adds the headers that ``assign`` gives.
        authority: Host it is sent to; None: the endpoint's own address.
        port: Port of the proxy's listener; None: not known.
        scheme: ``http`` or ``https``.
        gateway: Gateway that it arrives at, ``mesh`` for a sidecar; None: whichever has its host.
    """

    path: str | None = None
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    authority: str | None = None
    port: int | None = None
    scheme: str = "http"
    gateway: str | None = None

    def as_request(self, assigned: Mapping[str, str], path: str, authority: str | None) -> Request:
        """The request as the routes see it.

        Args:
            assigned: Headers of the user's arm.
            path: Path to use where none was given.
            authority: Host to use where none was given.

        Raises:
            InvalidInput: The path does not start with a slash.
        """
        asked, _, text = (self.path or path).partition("?")
        if not asked.startswith("/"):
            raise InvalidInput(f"path '{asked}' must start with '/'")
        query: dict[str, str] = {}
        for part in text.split("&") if text else ():
            name, _, value = part.partition("=")
            query.setdefault(name, value)
        headers = {name.lower(): value for name, value in self.headers.items()}
        host = headers.pop("host", None)
        cookies = [f"{name}={value}" for name, value in self.cookies.items()]
        for name, value in assigned.items():
            if name.lower() == "cookie":
                cookies.append(value)
            else:
                headers[name.lower()] = value
        if cookies:
            headers["cookie"] = "; ".join([*([headers["cookie"]] if "cookie" in headers else []), *cookies])
        return Request(
            path=normalized(asked),
            method=self.method.upper(),
            headers=headers,
            query={**query, **self.query},
            authority=self.authority or host or authority,
            port=self.port,
            scheme=self.scheme,
            gateway=self.gateway,
        )


def explain_route(cluster: Cluster, name: str, question: Question) -> View:
    """Which route and which version of an endpoint answers a request, and why no route above it does.

    Raises:
        NotFound: There is no such endpoint.
        StateConflict: A user is named, but no A/B release is open.
        InvalidInput: The request can't be right.
    """
    virtual_service, endpoint = virtual_service_of(cluster, name), endpoint_of(cluster, name)
    known = cluster.list("VirtualService", {})
    root = virtual_service
    if is_delegate(virtual_service):
        root = next((obj for obj in known if name_of(virtual_service) in _handed_on(obj)), virtual_service)
    authority, path = _usual(cluster, name)
    assigned = assignment_headers(endpoint, question.user) if question.user is not None else {}
    request = question.as_request(assigned, path, authority)
    explanation = explain(root, request, known_delegates(known, root, whole=True), address=authority)
    return explanation_view(explanation, endpoint, deployments_of(cluster, name), assigned)


def explain_objects(objects: Sequence[Object], name: str | None, question: Question) -> View:
    """The same for VirtualServices that stand in no cluster; versions and readiness are not known.

    Args:
        objects: VirtualServices; others are left aside.
        name: The VirtualService, or the endpoint it carries; None: the only one.
        question: The request.

    Raises:
        InvalidInput: There is none, or several and none is named; one has a field of another type than Istio's; or the request
            can't be right.
        StateConflict: A user is named, but no A/B release is open.
    """
    known = [readable(obj) for obj in objects if obj.get("kind") == "VirtualService"]
    chosen = [obj for obj in known if name in (None, name_of(obj)) or name in _carried(obj)]
    if len(chosen) != 1:
        has = ", ".join(name_of(obj) for obj in known) or "none"
        what = f"no VirtualService '{name}'" if name and not chosen else f"{len(chosen)} VirtualServices"
        raise InvalidInput(f"the file holds {what}: name one of those it has ({has})")
    (virtual_service,) = chosen
    carried = _carried(virtual_service)
    endpoint = None
    if name in carried or len(carried) == 1:
        endpoint = read_endpoint(virtual_service, name if name in carried and name else carried[0])
    assigned: Mapping[str, str] = {}
    if question.user is not None:
        if endpoint is None:
            raise InvalidInput("the VirtualService carries no endpoint of ours, so it has no arms to assign a user to")
        assigned = assignment_headers(endpoint, question.user)
    hosts = [host for host in hosts_of(virtual_service) if not host.startswith("*")]
    request = question.as_request(assigned, SCORING, hosts[0] if hosts else None)
    return explanation_view(
        explain(virtual_service, request, known_delegates(known, virtual_service, whole=False)), endpoint, (), assigned
    )


def explanation_view(
    explanation: Explanation, endpoint: Endpoint | None, deployments: Sequence[Object], assigned: Mapping[str, str]
) -> View:
    """The explanation as plain values."""
    by_name = {name_of(obj): obj for obj in deployments}
    place, request = explanation.place, explanation.request
    kind = _kind(place, endpoint) if place else None
    sticky = endpoint.traffic.sticky if endpoint and kind in ("split", "arm") else None
    return {
        "endpoint": endpoint.name if endpoint else None,
        "request": {
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "headers": dict(request.headers),
            "host": request.authority,
            "gateway": request.gateway,
        },
        "gateways": list(explanation.gateways),
        "provided": list(explanation.provided),
        "assigned": dict(assigned),
        "route": place.name if place else None,
        "virtual_service": place.virtual_service if place else None,
        "index": place.index if place else None,
        "kind": kind,
        "answers": [_share_view(share, endpoint, by_name) for share in explanation.shares],
        "mirrors": [_share_view(mirror, endpoint, by_name) for mirror in explanation.mirrors],
        "sticky": {"cookie": sticky.cookie, "release": sticky.release, "max_age": sticky.max_age} if sticky else None,
        "does": {key: place.route[key] for key in _ACTIONS if key in place.route} if place else {},
        "why": [str(finding) for finding in explanation.why],
        "above": [_passed_view(passed) for passed in explanation.above],
        "perhaps": [_passed_view(passed) for passed in explanation.perhaps],
        "nobody": explanation.nobody,
    }


def _kind(place: Place, endpoint: Endpoint | None) -> str:
    for action in ("redirect", "directResponse", "delegate"):
        if action in place.route and not (endpoint and place.name == f"{prefix(endpoint.name)}probe"):
            return action
    if endpoint is not None:
        if place.name == endpoint.route:
            return "split"
        own = place.name.removeprefix(prefix(endpoint.name))
        if own != place.name:
            return own.partition(".")[0]
    return "other"


def _share_view(share: AnsweringShare, endpoint: Endpoint | None, deployments: Mapping[str, Object]) -> View:
    destination = share.destination
    ours = endpoint is not None and endpoint.owns(destination)
    view = deployments.get(destination.name) if ours else None
    return {
        "name": destination.name,
        "percent": share.percent,
        "version": annotations_of(view).get(VERSION_ANNOTATION) if view else None,
        "ready": ready_replicas(view) if view else None,
        "ours": ours,
    }


def _passed_view(passed: Passed) -> View:
    return {
        "route": passed.place.name,
        "virtual_service": passed.place.virtual_service,
        "index": passed.place.index,
        "because": [str(finding) for finding in passed.because],
    }


def _usual(cluster: Cluster, name: str) -> tuple[str | None, str]:
    """Host and path that callers use; None where the address is not known from here."""
    try:
        address = address_of(cluster, name)
    except MlflowIstioError:
        return None, SCORING
    base = urlsplit(address.url)
    return address.headers.get("Host", base.netloc), base.path + address.scoring


def _handed_on(virtual_service: Object) -> tuple[str, ...]:
    """Whom a VirtualService hands requests on to; one that can't be read, which proxies don't take either, to nobody."""
    try:
        return delegates_of(readable(virtual_service))
    except InvalidInput:
        return ()


def _carried(virtual_service: Object) -> tuple[str, ...]:
    from mlflow_istio.core.moves.adoption import endpoints_in

    return endpoints_in(virtual_service)
