"""Target URIs: which cluster, which context, which namespace or mesh."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from mlflow_istio.core.basics.names import check_name, check_namespace, nearest
from mlflow_istio.errors import InvalidInput

_FORMS = "istio, istio:/NAMESPACE, istio://CONTEXT/NAMESPACE, istio-local or istio-local:/MESH"
_KINDS = ("istio", "istio-local")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A parsed target URI.

    Attributes:
        kind: ``istio`` or ``istio-local``.
        context: kubeconfig context; None: the current one.
        place: Namespace (None: the context's own) or mesh (``default``).
    """

    kind: str
    context: str | None = None
    place: str | None = None


def parse_target(uri: str) -> Target:
    """Parse a target URI; a context is percent-encoded, since EKS names hold ``/``.

    Raises:
        InvalidInput: It has none of the forms; names them.
    """
    kind, _, rest = uri.partition(":")
    if kind not in _KINDS:
        raise InvalidInput(f"unknown target {uri!r}: {nearest(kind, _KINDS)}")
    parts = re.fullmatch(r"(?://(?P<context>[^/]+))?(?:/(?P<place>[^/]+))?/?", rest)
    if parts is None or (kind == "istio-local" and parts["context"]):
        raise InvalidInput(f"target {uri!r} can't be read: use {_FORMS}")
    place = parts["place"]
    if kind == "istio-local":
        return Target(kind=kind, place=check_name(place or "default", "mesh"))
    if place is not None:
        check_namespace(place)
    return Target(kind=kind, context=unquote(parts["context"]) if parts["context"] else None, place=place)
