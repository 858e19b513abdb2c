"""What the parts of a stored policy that stay JSON must look like, so that damage is told where it is read.

Values are never used: a part is held against its form and kept as it is (``stored.shaped``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.basics.stored import form, stored


@form(closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderOperations:
    """What is done to the headers of one side."""

    set: Mapping[str, str] = field(default_factory=dict)
    add: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()


@form(closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderRules:
    """Istio's ``headers``."""

    request: HeaderOperations = field(default_factory=HeaderOperations)
    response: HeaderOperations = field(default_factory=HeaderOperations)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestMatch:
    """Istio's ``HTTPMatchRequest``, as far as we write it."""

    uri: Mapping[str, str] = field(default_factory=dict)
    method: Mapping[str, str] = field(default_factory=dict)
    scheme: Mapping[str, str] = field(default_factory=dict)
    authority: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    without_headers: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict, metadata=stored(name="withoutHeaders")
    )
    query_params: Mapping[str, Mapping[str, str]] = field(default_factory=dict, metadata=stored(name="queryParams"))
    ignore_uri_case: bool = field(default=False, metadata=stored(name="ignoreUriCase"))
    source_labels: Mapping[str, str] = field(default_factory=dict, metadata=stored(name="sourceLabels"))
    source_namespace: str = field(default="", metadata=stored(name="sourceNamespace"))
    gateways: tuple[str, ...] = ()
    port: int = 0


HEADERS: Any = HeaderRules | None
HEADERS_BY_DEPLOYMENT: Any = Mapping[str, HeaderRules]
MATCH: Any = tuple[RequestMatch, ...]
