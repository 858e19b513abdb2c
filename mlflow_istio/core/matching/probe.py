"""Requests that prove routing, as values: built here, sent by ``probing``.

Every traffic edit also writes the endpoint's probe route, whose ``directResponse`` is the id of the change. The routes
of a virtual host swap as one in Envoy, so a proxy that answers with the id has the whole change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

PROBE_HEADER = "x-mlflow-istio-probe"
PIN_HEADER = "x-mlflow-deployment"
"""Of a request: which deployment is to answer; of an answer: which one did."""
VERSION_HEADER = "x-mlflow-model-version"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
"""The method by which a gRPC server says whether it is ready."""

_HEADER_SAFE = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """The listeners of proxies at which a request gets in, where matches ask for a scheme or a port.

    Attributes:
        named: Ports that some match names.
        taking: Scheme and port of each; port 0: any that is not named.
    """

    named: tuple[int, ...] = ()
    taking: tuple[tuple[str, int], ...]

    def has(self, scheme: str, port: int | None) -> bool:
        """Whether requests get in at a listener.

        Args:
            scheme: ``http`` or ``https``.
            port: The port that matches ask for; None: not known, so that all must do.
        """
        if port is None:
            return all((scheme, port) in self.taking for port in (0, *self.named))
        return (scheme, port if port in self.named else 0) in self.taking

    def __str__(self) -> str:
        schemes = " or ".join(dict.fromkeys(scheme for scheme, _ in self.taking))
        others = any(port == 0 for _, port in self.taking)
        ports = sorted({port for _, port in self.taking if port})
        shut = [port for port in self.named if port not in ports]
        if others:
            return schemes + (f" at another port than {' and '.join(map(str, shut))}" if shut else "")
        return f"{schemes} at port {' or '.join(map(str, ports))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One request and the answer that proves something.

    Attributes:
        virtual_service: The VirtualService whose proxies are asked, at its hosts.
        path: Path, with the query if there is one.
        headers: Request headers.
        method: HTTP method.
        service: The service whose health is asked over gRPC, at the path's method; empty: the whole server's. None: nobody's is.
        call: Whether it is sent as a call over gRPC, as callers of such an endpoint do: a gateway may speak nothing but HTTP/2.
        any_answer: Whether any status below 500 will do: an adopted route may lead to no path that answers a bare request with 200.
        expected_body: The body (stripped) that proves it, if the body does.
        expected_headers: Response headers that must all be there, names in lower case.
        gateways: Full names of the gateways whose proxies are asked, ``mesh`` for sidecars; None: all of the VirtualService's.
        listeners: Where those proxies are asked; None: at whichever.
        purpose: What an answer proves, for messages.
    """

    virtual_service: str
    path: str
    headers: Mapping[str, str]
    method: str = "GET"
    service: str | None = None
    call: bool = False
    any_answer: bool = False
    expected_body: str | None = None
    expected_headers: Mapping[str, str] = field(default_factory=dict)
    gateways: tuple[str, ...] | None = None
    listeners: Listeners | None = None
    purpose: str

    @property
    def answered_by_proxy(self) -> bool:
        """Whether the proxy itself answers, and no server behind it, which might fail now and then."""
        return self.expected_body is not None

    def gets_in(self, scheme: str, port: int | None) -> bool:
        """Whether it is worth asking at a listener: elsewhere another route answers, whatever has changed."""
        return self.listeners is None or self.listeners.has(scheme, port)

    def proved_by(self, status: int, headers: Mapping[str, str], body: str) -> bool:
        """Whether an answer proves it; header names are compared in lower case."""
        if status != 200 and not (self.any_answer and status < 500):
            return False
        if self.expected_body is not None and body.strip() != self.expected_body:
            return False
        seen = {name.lower(): value for name, value in headers.items()}
        return all(seen.get(name) == value for name, value in self.expected_headers.items())


def header_text(text: str) -> str:
    """A text as a header carries it: percent-encoded UTF-8 for what it can't, for the percent sign and for blanks at the start.

    Any URL decoder reads it back (``urllib.parse.unquote``).

    The model server writes its version this way (``mlflow_istio.serving``), so that a model may have any name.
    """
    encoded = quote(text, safe=_HEADER_SAFE)
    bare = encoded.lstrip(" ")
    return "%20" * (len(encoded) - len(bare)) + bare


def change_probe(virtual_service: str, change_id: str, protocol: str = "http") -> Probe:
    """The probe that a routing change has reached a proxy, asked as the endpoint's callers ask: by ``http`` or ``grpc``."""
    call = protocol == "grpc"
    return Probe(
        virtual_service=virtual_service,
        path="/",
        headers={PROBE_HEADER: "1"},
        method="POST" if call else "GET",
        call=call,
        expected_body=change_id,
        purpose=f"routing change {change_id}",
    )


def pin_probe(virtual_service: str, deployment: str, model_version: str, path: str = "/ping") -> Probe:
    """The probe that a deployment answers through its pinned route, as the version it should be.

    Args:
        virtual_service: The endpoint.
        deployment: The deployment.
        model_version: ``MODEL/VERSION``.
        path: Where its server answers 200 when it is ready.
    """
    return Probe(
        virtual_service=virtual_service,
        path=path,
        headers={PIN_HEADER: deployment},
        expected_headers={VERSION_HEADER: header_text(model_version)},
        purpose=f"pinned route to deployment '{deployment}'",
    )


def health_probe(virtual_service: str, deployment: str, model_version: str, service: str) -> Probe:
    """The same for a deployment that speaks gRPC: its health is asked through its pinned route.

    Args:
        virtual_service: The endpoint.
        deployment: The deployment.
        model_version: ``MODEL/VERSION``.
        service: The service whose health is asked; empty: the whole server's.
    """
    probe = pin_probe(virtual_service, deployment, model_version, HEALTH_CHECK)
    return replace(probe, method="POST", call=True, service=service)
