"""Names that every object, subset, header and tag can carry, and help for the ones that can't."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from mlflow_istio.errors import InvalidInput, masked

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_RELEASE_ID = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_NOTHING = frozenset({"none", "null", "nil", "nan", "undefined"})
_SCOPE = re.compile(r"[A-Za-z0-9]([-_A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""MLflow takes 255, but the tag that says whose an alias is must hold its name, and has room for 250."""
_HOST_OR_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_HOST = re.compile(r"(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+^_`|~-][A-Za-z0-9!#$%&'*+.^_`|~-]*")

MAX_NAME = 52
"""A name becomes part of annotation keys (63 characters) and of pod names (suffixes of 11)."""


def check_name(name: str, what: str) -> str:
    """Return the name if a deployment, a subset and an annotation can have it: a DNS label of at most 52 characters.

    Args:
        name: The name to check.
        what: What it names, for the message ("deployment", "mesh").

    Raises:
        InvalidInput: It can't; the message suggests one that can.
    """
    if len(name) <= MAX_NAME and _DNS_LABEL.fullmatch(name):
        return name
    raise InvalidInput(
        f"{what} name {name!r} is not a DNS label: use at most {MAX_NAME} lower-case letters, digits and '-', "
        f"starting and ending with a letter or digit, such as {dns_name(name)!r}"
    )


def check_endpoint_name(name: str) -> str:
    """Return the name if a Service can have it too: Kubernetes wants a letter first there (RFC 1035).

    Raises:
        InvalidInput: It can't; the message suggests one that can.
    """
    if check_name(name, "endpoint")[0].isdigit():
        raise InvalidInput(
            f"endpoint name {name!r} starts with a digit, which the name of a Service can't: use one such as {service_name(name)!r}"
        )
    return name


def dns_name(text: str) -> str:
    """The nearest DNS label to a free text."""
    label = re.sub(r"[^a-z0-9]+", "-", masked(text).lower()).strip("-")[:MAX_NAME].strip("-")
    return label or "model"


def service_name(text: str) -> str:
    """The nearest name of an endpoint to a free text, such as a registered model's name."""
    label = dns_name(text)
    return dns_name(f"m-{label}") if label[0].isdigit() else label


def check_namespace(name: str) -> str:
    """Return the name if a Kubernetes namespace can have it: a DNS label of at most 63 characters.

    Raises:
        InvalidInput: It can't.
    """
    if len(name) <= 63 and _DNS_LABEL.fullmatch(name):
        return name
    raise InvalidInput(f"namespace {name!r} is not a DNS label: use at most 63 lower-case letters, digits and '-'")


def check_scope(scope: str) -> str:
    """Return the scope if it can stand in tag keys, an experiment's name and a search: no '.', '/', quotes or blanks.

    Raises:
        InvalidInput: It can't.
    """
    if _SCOPE.fullmatch(scope):
        return scope
    raise InvalidInput(f"scope {scope!r} is not valid: use 1 to 63 letters, digits, '-' and '_'")


def check_alias(alias: str) -> str:
    """Return the registered-model alias if MLflow takes it; empty means: none.

    Raises:
        InvalidInput: MLflow does not, or reserves it (``latest``, ``v<digits>``).
    """
    if alias and not _ALIAS.fullmatch(alias):
        raise InvalidInput(f"alias {alias!r} is not valid: use letters, digits, '-' and '_', or nothing for no alias")
    if alias.lower() == "latest" or re.fullmatch(r"v\d+", alias, re.IGNORECASE):
        raise InvalidInput(f"alias {alias!r} is reserved by MLflow (as 'latest' and 'v<number>' are): use another")
    return alias


_VARIABLE = re.compile(r"[!-<>-~]{1,1000}")


def check_environment(variables: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables if a process, or a container, can have them.

    Names are what Kubernetes takes since 1.30 (printable ASCII without ``=``), but for blanks.

    Raises:
        InvalidInput: Names the first that can't be.
    """
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name):
            raise InvalidInput(f"no variable can have the name {name[:100]!r}: use letters, digits and '_'")
        if "\0" in value or (not value.isascii() and value != value.encode("utf-8", "replace").decode("utf-8")):
            raise InvalidInput(f"variable '{name}' holds what no variable can: a NUL, or half a character")
    return variables


def check_release_id(release_id: str) -> str:
    """Return the release id if it can stand in a cookie, a tag and an annotation.

    Raises:
        InvalidInput: It can't.
    """
    if release_id.lower() in _NOTHING:
        raise InvalidInput(
            f"release id {release_id!r} is what a template writes where nothing was given, the same in every run: use an id of the "
            "run's own, such as a pipeline's job id"
        )
    if _RELEASE_ID.fullmatch(release_id):
        return release_id
    raise InvalidInput(f"release id {release_id!r} is not valid: use 1 to 63 letters, digits and '-'")


def check_header_name(name: str, what: str = "header") -> str:
    """Return the name of a header or cookie if it is an HTTP token.

    Raises:
        InvalidInput: It is no HTTP token.
    """
    if _HEADER.fullmatch(name):
        return name
    raise InvalidInput(f"{what} name {name!r} is not valid: use letters, digits and '-', without spaces or ':'")


def check_host(host: str) -> str:
    """Return the host name if a VirtualService can have it: a full DNS name, whose first label may be ``*``.

    Raises:
        InvalidInput: It can't.
    """
    if len(host) <= 253 and _HOST.fullmatch(host):
        return host
    raise InvalidInput(f"host {host!r} is not valid: use a full name without port, such as churn.example.com")


def check_image(image: str) -> str:
    """Return the container image if it is no address, which may hold a password.

    Raises:
        InvalidInput: It is one.
    """
    if "://" in image:
        raise InvalidInput(
            f"image {image!r} is not valid: use REGISTRY/NAME:TAG, without a scheme; image_pull_secrets open a registry"
        )
    return image


def check_gateway(gateway: str) -> str:
    """Return the gateway if it is written as NAMESPACE/NAME, or NAME alone for one in the target's namespace.

    Raises:
        InvalidInput: It is not.
    """
    if gateway != "mesh" and all(_HOST_OR_LABEL.fullmatch(part) for part in gateway.split("/", 1)):
        return gateway
    raise InvalidInput(f"gateway {gateway!r} is not valid: use NAMESPACE/NAME, such as istio-system/gateway")


def check_export_to(namespace: str) -> str:
    """Return the name if an object can be exported to it: a namespace, ``.`` for its own or ``*`` for all.

    Raises:
        InvalidInput: It can't.
    """
    if namespace in (".", "*") or (len(namespace) <= 63 and _DNS_LABEL.fullmatch(namespace)):
        return namespace
    raise InvalidInput(
        f"namespace {namespace!r} is not valid: use names of namespaces, '.' for the endpoint's own or '*' for all"
    )


def check_url(url: str) -> str:
    """Return the address if it is one of an HTTP server, without a path.

    Raises:
        InvalidInput: It is not.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and not parts.query:
        return url
    raise InvalidInput(f"address {url!r} is not valid: use http://HOST or http://HOST:PORT")


def nearest(name: object, known: Iterable[str]) -> str:
    """A sentence that names the nearest known name, then all of them; what is no text has no near ones but as it is written."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known: {', '.join(names) if names else 'none'}"
