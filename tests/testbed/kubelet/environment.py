"""A container's environment variables, command and arguments, as the Kubernetes API defines them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

_FIELD_WITH_KEY = re.compile(r"metadata\.(?P<map>labels|annotations)\['(?P<key>[^']+)'\]")
# `$$(NAME)` stays as `$(NAME)`; `$(NAME)` of an unknown name stays as it is.
_REFERENCE = re.compile(r"(?P<escaped>\$\$)|\$\((?P<name>[^)]+)\)")


class NotRunnableError(Exception):
    """The container can't be started as it is described now; the text is what the pod's status shows."""


class Lookup(Protocol):
    """Reads Secrets and ConfigMaps of the pod's namespace."""

    def __call__(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object of kind `Secret` or `ConfigMap`, or None where there is none."""


def variables(
    container: Mapping[str, Any], pod: Mapping[str, Any], node: Mapping[str, str], lookup: Lookup
) -> dict[str, str]:
    """The variables of `envFrom` and `env`, later ones winning, with `$(NAME)` filled in from earlier ones.

    Args:
        node: `nodeName`, `hostIP` and `podIP`, which the pod's own object may not have yet.

    Raises:
        NotRunnableError: a Secret, ConfigMap or key is missing and not optional, or a source is not supported here.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        prefix = source.get("prefix", "")
        for kind, field in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
            if field in source:
                data = data_of(kind, source[field], lookup) or {}
                found.update({f"{prefix}{key}": value.decode() for key, value in data.items()})
    for entry in container.get("env", ()):
        value = (
            _sourced(entry["name"], entry["valueFrom"], pod, node, lookup)
            if "valueFrom" in entry
            else expand(entry.get("value", ""), found)
        )
        if value is not None:
            found[entry["name"]] = value
    return found


def command(container: Mapping[str, Any], known: Mapping[str, str], interpreter: str) -> list[str]:
    """The program to run and its arguments.

    `python` and `python3` mean the testbed's own interpreter, since no image brings one.

    Raises:
        NotRunnableError: the container names no command, so it would need its image's.
    """
    words = [expand(word, known) for word in container.get("command") or ()]
    if not words:
        raise NotRunnableError(
            f"container {container['name']!r} names no command; the testbed has no images to take one from"
        )
    if words[0] in ("python", "python3"):
        words[0] = interpreter
    return [*words, *(expand(word, known) for word in container.get("args") or ())]


def expand(text: str, known: Mapping[str, str]) -> str:
    """Fills in `$(NAME)` from known variables."""

    def one(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        return known.get(match["name"], match[0])

    return _REFERENCE.sub(one, text)


def field(path: str, pod: Mapping[str, Any], node: Mapping[str, str]) -> str:
    """The value of a `fieldRef`.

    Raises:
        NotRunnableError: the testbed doesn't know the field.
    """
    keyed = _FIELD_WITH_KEY.fullmatch(path)
    if keyed:
        return str(pod["metadata"].get(keyed["map"], {}).get(keyed["key"], ""))
    values = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": node["nodeName"],
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
        "status.hostIP": node["hostIP"],
        "status.podIP": node["podIP"],
        "status.podIPs": node["podIP"],
    }
    if path not in values:
        raise NotRunnableError(f"the testbed does not know the field {path!r}")
    return str(values[path])


def data_of(kind: str, reference: Mapping[str, Any], lookup: Lookup) -> dict[str, bytes] | None:
    """The contents of a Secret or ConfigMap; None when it is missing and optional.

    Raises:
        NotRunnableError: it is missing and not optional.
    """
    name = reference.get("name") or reference["secretName"]
    found = lookup(kind, name)
    if found is None:
        if reference.get("optional"):
            return None
        raise NotRunnableError(f'{kind.lower()} "{name}" not found')
    texts = found.get("data") or {}
    if kind == "Secret":
        return {key: base64.b64decode(value) for key, value in texts.items()}
    binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    return {**{key: value.encode() for key, value in texts.items()}, **binary}


def _sourced(
    variable: str, source: Mapping[str, Any], pod: Mapping[str, Any], node: Mapping[str, str], lookup: Lookup
) -> str | None:
    for kind, name in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
        if name in source:
            return _one_key(kind, source[name], lookup)
    if "fieldRef" in source:
        return field(source["fieldRef"]["fieldPath"], pod, node)
    raise NotRunnableError(f"variable {variable!r}: the testbed does not know the source {_names(list(source))}")


def _one_key(kind: str, reference: Mapping[str, Any], lookup: Lookup) -> str | None:
    data = data_of(kind, reference, lookup)
    if data is not None and reference["key"] in data:
        return data[reference["key"]].decode()
    if reference.get("optional"):
        return None
    raise NotRunnableError(f"couldn't find key {reference['key']} in {kind} {reference['name']}")


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
