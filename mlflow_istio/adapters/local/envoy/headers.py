"""Header changes of a VirtualService's routes and destinations."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlflow_istio.adapters.local.envoy.matches import header_name
from mlflow_istio.adapters.local.envoy.types import Config
from mlflow_istio.adapters.local.supported_fields import Field

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_COMMAND = re.compile(r"%(?:%|([A-Z_]+)(?:\([^)%]*\))?(?::\d+)?%)?")
_COMMANDS = frozenset({"REQ", "RESP", "START_TIME", "PROTOCOL", "DOWNSTREAM_REMOTE_ADDRESS", "UPSTREAM_HOST"})


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderChanges:
    """What to do with headers.

    Attributes:
        config: Envoy's four members, those without content left out.
        authority: New ``Host`` of the request; empty when unchanged.
    """

    config: Config
    authority: str


def header_changes(field: Field) -> HeaderChanges:
    """The changes asked for by a ``headers`` member; none when it is absent.

    Raises:
        InvalidInput: A name or value that no header can have.
    """
    if not field:
        return _NO_CHANGES
    members = field.members("request", "response")
    config: Config = {}
    authority = ""
    for side in ("request", "response"):
        operations = members[side].members("set", "add", "remove")
        added = []
        for operation in ("set", "add"):
            for name, value in sorted(operations[operation].pairs(), key=lambda pair: pair[0]):
                if _is_authority(name):
                    if side == "response":
                        raise value.invalid("is no header of a response")
                    if authority:
                        raise value.invalid("sets the host a second time")
                    authority = _value(value)
                else:
                    added.append(_option(name, value, append=operation == "add"))
        if added:
            config[f"{side}_headers_to_add"] = added
        removed = [header_name(field, field.text()) for field in operations["remove"].each()]
        if removed:
            config[f"{side}_headers_to_remove"] = removed
    return HeaderChanges(config=config, authority=authority)


_NO_CHANGES = HeaderChanges(config={}, authority="")


def joined(first: Config, second: Config) -> Config:
    """Both groups of header changes, the second carried out after the first."""
    return {key: [*first.get(key, []), *second.get(key, [])] for key in {**first, **second}}


def _option(name: str, value: Field, *, append: bool) -> Config:
    return {
        "header": {"key": header_name(value, name), "value": _value(value)},
        "append_action": "APPEND_IF_EXISTS_OR_ADD" if append else "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _value(field: Field) -> str:
    value = field.text()
    if _CONTROL.search(value):
        raise field.invalid("must not hold control characters")
    for command in _COMMAND.finditer(value):
        if command.group() == "%":
            raise field.invalid("has a lone '%': write '%%' for the character itself")
        if command.group(1) and command.group(1) not in _COMMANDS:
            raise field.unsupported(f"it does not know %{command.group(1)}%")
    return value


def _is_authority(name: str) -> bool:
    return name.lower() in (":authority", "host")
