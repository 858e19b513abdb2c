"""What the in-memory cluster's proxies answer: the route that takes a request, what it does, and who stands behind it.

Held against the corpus that the real istiod and Envoy answered (``tests/corpus``). A mesh's behaviour in time is not in it: no
timeouts, retries, delays or ejected replicas, and what a model would say is not made up either.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlsplit

from mlflow_istio.core.basics.objects import Object, annotations_of, name_of
from mlflow_istio.core.basics.stored import from_json
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.inspection.explanation import (
    AnsweringShare,
    Delegates,
    Explanation,
    Place,
    explain,
    known_delegates,
)
from mlflow_istio.core.matching.probe import VERSION_HEADER, header_text
from mlflow_istio.core.matching.requests import Request, normalized
from mlflow_istio.core.mesh.manifests import VERSION_ANNOTATION
from mlflow_istio.errors import Unsupported

Objects = Mapping[tuple[str, str], Object]
"""Kind and name to an object."""

_PORTS = {"http": 80, "https": 443}
_EXTERNAL = "ExternalName"
_WITHOUT_BODY = (204, 304)
"""Statuses whose answers have none, whatever the route says (RFC 9110, 6.4.1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer that a request may get.

    Attributes:
        percent: Of all such requests, how many get it.
        status: HTTP status: of a destination 200 where it has a ready Deployment, else 503.
        headers: Response headers that are known, names in lower case: ``location`` of a redirect, the version of a model server.
        body: Body of a direct response; empty otherwise.
        destination: Who answers; None where the proxy does.
        deployments: Names of the ready Deployments that may be the ones.
    """

    percent: float = 100.0
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    destination: Destination | None = None
    deployments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What becomes of a request.

    Attributes:
        route: Name of the route that takes it, or where it stands; None: no route does.
        answers: The answers that it may get; their percents sum to 100.
        copies: Who gets copies of it, with the percent of such requests that are copied.
    """

    route: str | None
    answers: tuple[Answer, ...]
    copies: tuple[AnsweringShare, ...] = ()


def answers_to(request: Request, virtual_service: Object, objects: Objects, ready: Sequence[str]) -> Answers:
    """What becomes of a request that arrives at a VirtualService with hosts.

    Args:
        request: The request; an authority that is not known is one of the VirtualService's hosts.
        virtual_service: The VirtualService.
        objects: All objects there are.
        ready: Names of the Deployments with a ready replica.

    Raises:
        Unsupported: A route that may take it has a condition that nobody can evaluate here, or does what isn't worked out here;
            names both.
    """
    beside = [obj for (kind, _), obj in objects.items() if kind == "VirtualService"]
    asked = replace(request, path=normalized(request.path))
    explanation = explain(virtual_service, asked, _delegates(beside, virtual_service))
    for passed in explanation.perhaps:
        raise Unsupported(f"route '{passed.place.name}': match field {passed.because[0]}")
    if explanation.place is None:
        return Answers(route=None, answers=(Answer(status=404),))
    answered = _aborted(explanation.place, tuple(_answers(explanation, objects, ready)))
    copies = () if answered and answered[0].percent == 100 and _is_abort(answered[0]) else explanation.mirrors
    return Answers(route=explanation.place.name, answers=answered, copies=copies)


def _delegates(beside: Sequence[Object], root: Object) -> Delegates:
    """Those that a root may hand on to; one that is not here is nowhere, in whichever namespace."""
    routes = root.get("spec", {}).get("http") or []
    named = [route["delegate"] for route in routes if route.get("delegate")]
    nowhere = {(str(delegate.get("namespace") or ""), str(delegate["name"])): None for delegate in named}
    return {**nowhere, **known_delegates(beside, root, whole=True)}


def _answers(explanation: Explanation, objects: Objects, ready: Sequence[str]) -> Iterator[Answer]:
    assert explanation.place is not None
    route = explanation.place.route
    if route.get("redirect"):
        if route["redirect"].get("prefixRewrite"):
            raise Unsupported(
                f"route '{explanation.place.name}': redirect.prefixRewrite is not worked out here: use uri"
            )
        code = int(route["redirect"].get("redirectCode") or 301)
        yield Answer(status=code, headers={"location": _location(route["redirect"], explanation.request)})
    elif route.get("directResponse"):
        status = int(route["directResponse"].get("status") or 200)
        silent = status in _WITHOUT_BODY or explanation.request.method == "HEAD"
        yield Answer(status=status, body="" if silent else _body(route["directResponse"]))
    elif not explanation.shares:
        yield Answer(status=404 if route.get("delegate") else 503)
    for share in explanation.shares:
        behind = [obj for obj in _behind(share.destination, objects) if name_of(obj) in ready]
        reached = bool(behind) or _is_outside(share.destination, objects)
        yield Answer(
            percent=share.percent,
            status=200 if reached else 503,
            headers={**_version_header(behind), **(_set_version(route, share.destination) if reached else {})},
            destination=share.destination,
            deployments=tuple(sorted(name_of(obj) for obj in behind)),
        )


def _set_version(route: Mapping[str, Any], destination: Destination) -> dict[str, str]:
    """The version that the route says at a destination whose server says none."""
    for entry in route.get("route") or []:
        if from_json(Destination, entry["destination"]) == destination:
            headers = ((entry.get("headers") or {}).get("response") or {}).get("set") or {}
            return {name.lower(): str(value) for name, value in headers.items() if name.lower() == VERSION_HEADER}
    return {}


def _version_header(deployments: Sequence[Object]) -> dict[str, str]:
    """What our model servers say of themselves, where all of them say the same."""
    versions = {annotations_of(obj).get(VERSION_ANNOTATION, "") for obj in deployments}
    (version,) = versions if len(versions) == 1 else ("",)
    return {VERSION_HEADER: header_text(version)} if version else {}


def _behind(destination: Destination, objects: Objects) -> list[Object]:
    """The Deployments whose pods a destination's Service and subset choose."""
    service = objects.get(("Service", _service(destination.host)))
    selector = (service or {}).get("spec", {}).get("selector")
    if service is None or not selector or not _has_port(service, destination):
        return []
    labels = dict(selector)
    if destination.subset is not None:
        chosen = _subset_labels(destination, objects)
        if chosen is None:
            return []
        labels |= chosen
    return [
        obj for (kind, _), obj in objects.items() if kind == "Deployment" and labels.items() <= _pod_labels(obj).items()
    ]


def _subset_labels(destination: Destination, objects: Objects) -> Mapping[str, str] | None:
    for (kind, _), rule in objects.items():
        if kind == "DestinationRule" and _service(str(rule["spec"]["host"])) == _service(destination.host):
            for subset in rule["spec"].get("subsets") or []:
                if subset["name"] == destination.subset:
                    return dict(subset.get("labels") or {})
    return None


def _is_outside(destination: Destination, objects: Objects) -> bool:
    """Whether a destination is a process that no Deployment runs, which is taken to answer."""
    service = objects.get(("Service", _service(destination.host)), {})
    all_of_it = destination.subset is None or _subset_labels(destination, objects) == {}
    outside = all_of_it and service.get("spec", {}).get("type") == _EXTERNAL
    return outside and _has_port(service, destination)


def _has_port(service: Object, destination: Destination) -> bool:
    return destination.port in (None, *(port.get("port") for port in service.get("spec", {}).get("ports") or ()))


def _service(host: str) -> str:
    """The Service that a host names; this cluster has one namespace."""
    return host.partition(".")[0]


def _pod_labels(deployment: Object) -> Mapping[str, str]:
    metadata = deployment["spec"].get("template", {}).get("metadata", {})
    return dict(metadata.get("labels") or {})


def _aborted(place: Place, answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """The answers with a fault's in place of its share of them; without a percentage none is faulted.

    Raises:
        Unsupported: The fault is not an HTTP status; names the route and the field.
    """
    route = place.route
    abort = (route.get("fault") or {}).get("abort") or {}
    percent = float((abort.get("percentage") or {}).get("value") or 0.0)
    if not percent or not route.get("route"):
        return answers
    if abort.get("httpStatus") is None:
        other = next((name for name in ("grpcStatus", "http2Error") if abort.get(name)), "")
        problem = f"fault.abort.{other} is not worked out here" if other else "fault.abort has no httpStatus"
        raise Unsupported(f"route '{place.name}': {problem}: use fault.abort.httpStatus")
    rest = [replace(answer, percent=round(answer.percent * (100 - percent) / 100, 4)) for answer in answers]
    fault = Answer(percent=percent, status=int(abort["httpStatus"]))
    return (fault, *(answer for answer in rest if answer.percent))


def _is_abort(answer: Answer) -> bool:
    return answer.destination is None and answer.status >= 400


def _location(redirect: Mapping[str, Any], request: Request) -> str:
    """Where a redirect points, as Envoy writes it: what it does not say is the request's own, its query included."""
    scheme = redirect.get("scheme") or request.scheme
    own = urlsplit(f"//{request.authority or ''}")
    host = redirect.get("authority") or own.hostname or ""
    port = redirect.get("port")
    if port is None and not redirect.get("authority"):
        port = own.port
    at = f":{port}" if port and port != _PORTS.get(scheme) else ""
    path = redirect.get("uri") or request.path
    path = path if path.startswith("/") else f"/{path}"
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in request.query.items())
    return f"{scheme}://{host}{at}{path}" + (f"?{query}" if query and "?" not in path else "")


def _body(response: Mapping[str, Any]) -> str:
    body = response.get("body") or {}
    if body.get("bytes"):
        return base64.b64decode(body["bytes"]).decode(errors="replace")
    return str(body.get("string") or "")
