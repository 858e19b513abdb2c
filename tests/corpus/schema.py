"""Every field of Istio's API for VirtualServices and DestinationRules, from the definitions that the testbed installs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "fields.json"
KINDS = ("VirtualService", "DestinationRule")
_VERSION = "v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiField:
    """One field.

    Attributes:
        path: Such as ``spec.http[].match[].headers{}.exact``: ``[]`` is any element, ``{}`` any name.
        kind: The type of its value.
        values: All that it can be, if those are few.
    """

    path: str
    kind: str
    values: tuple[str, ...] = ()

    @property
    def parent(self) -> str:
        """The path of what holds it."""
        if self.path.endswith(("[]", "{}")):
            return self.path[:-2]
        return self.path.rpartition(".")[0]


def from_definitions(definitions: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The fields of both kinds, parents first, as lines ``PATH TYPE VALUES``."""
    result = {}
    for definition in definitions:
        kind = definition["spec"]["names"]["kind"]
        if kind in KINDS:
            (version,) = [one for one in definition["spec"]["versions"] if one["name"] == _VERSION]
            spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
            result[kind] = [" ".join((path, *described)) for path, *described in _walk(spec, "spec")]
    return result


def api_fields(kind: str) -> list[ApiField]:
    """The recorded fields of a kind, parents first."""
    lines = json.loads(FILE.read_text(encoding="utf-8"))[kind]
    parts = [line.split(" ") for line in lines]
    return [ApiField(path=path, kind=kind_, values=tuple(values)) for path, kind_, *values in parts]


def _walk(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, ...]]:
    yield path, str(schema.get("type", "any")), *schema.get("enum", ())
    for name, member in schema.get("properties", {}).items():
        yield from _walk(member, f"{path}.{name}")
    if "items" in schema:
        yield from _walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from _walk(schema["additionalProperties"], f"{path}{{}}")
