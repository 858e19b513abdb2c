"""Lays a pod's volumes out as folders: emptyDir, hostPath, secret, configMap, downwardAPI and projected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.testbed.kubelet.environment import Lookup, NotRunnableError, data_of, field

_DEFAULT_TOKEN_SECONDS = 3600


class Tokens(Protocol):
    """Asks the API server for a token of the pod's service account."""

    def __call__(self, audience: str | None, seconds: int) -> str:
        """A token bound to the pod, valid for so many seconds."""


def lay_out(
    pod: Mapping[str, Any], node: Mapping[str, str], folder: Path, lookup: Lookup, tokens: Tokens
) -> dict[str, Path]:
    """Makes every volume of the pod under `folder` and returns where each lies, by its name.

    Raises:
        NotRunnableError: a volume is of a kind the testbed hasn't, or what it shows is missing.
    """
    laid = {}
    for volume in pod["spec"].get("volumes") or ():
        if "hostPath" in volume:
            laid[volume["name"]] = Path(volume["hostPath"]["path"])
            continue
        target = folder / volume["name"]
        target.mkdir(parents=True, exist_ok=True)
        for path, content in _files(volume, pod, node, lookup, tokens):
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        laid[volume["name"]] = target
    return laid


def mounts(container: Mapping[str, Any], laid: Mapping[str, Path]) -> list[dict[str, object]]:
    """What `enter.py` mounts for one container, outer paths first."""
    found: list[dict[str, object]] = []
    for mount in sorted(container.get("volumeMounts") or (), key=lambda mount: str(mount["mountPath"])):
        source = laid[mount["name"]] / mount.get("subPath", "")
        source.mkdir(parents=True, exist_ok=True) if not source.exists() else None
        found.append(
            {"source": str(source), "path": mount["mountPath"], "read_only": bool(mount.get("readOnly", False))}
        )
    return found


def _files(
    volume: Mapping[str, Any], pod: Mapping[str, Any], node: Mapping[str, str], lookup: Lookup, tokens: Tokens
) -> Iterator[tuple[str, bytes]]:
    if "emptyDir" in volume:
        return
    if "projected" in volume:
        sources: Sequence[Mapping[str, Any]] = volume["projected"]["sources"]
    else:
        sources = [{kind: source for kind, source in volume.items() if kind != "name"}]
    for source in sources:
        yield from _one_source(volume["name"], source, pod, node, lookup, tokens)


def _one_source(
    name: str,
    source: Mapping[str, Any],
    pod: Mapping[str, Any],
    node: Mapping[str, str],
    lookup: Lookup,
    tokens: Tokens,
) -> Iterator[tuple[str, bytes]]:
    ((kind, options),) = source.items()
    if kind == "secret":
        yield from _selected(options, data_of("Secret", options, lookup) or {})
    elif kind == "configMap":
        yield from _selected(options, data_of("ConfigMap", options, lookup) or {})
    elif kind == "downwardAPI":
        for item in options.get("items", ()):
            yield item["path"], field(item["fieldRef"]["fieldPath"], pod, node).encode()
    elif kind == "serviceAccountToken":
        seconds = options.get("expirationSeconds", _DEFAULT_TOKEN_SECONDS)
        yield options["path"], tokens(options.get("audience"), seconds).encode()
    else:
        raise NotRunnableError(f"volume {name!r}: the testbed has no volumes of kind {kind}")


def _selected(options: Mapping[str, Any], data: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    items = options.get("items")
    if items is None:
        yield from data.items()
        return
    for item in items:
        if item["key"] not in data:
            raise NotRunnableError(f"volume refers to the key {item['key']!r}, which does not exist")
        yield item["path"], data[item["key"]]
