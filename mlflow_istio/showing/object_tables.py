"""Objects of the local mesh for the terminal, a table for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mlflow_istio.core.basics.objects import FIELD_MANAGER, MANAGED_BY_LABEL, Object, labels_of
from mlflow_istio.showing.foreign import add_row
from mlflow_istio.showing.tables import a_console

Cells = Callable[[Object], Sequence[str]]


def print_objects(objects: Sequence[Object], urls: Mapping[str, str], console: Console | None = None) -> None:
    """One row for each object, under its kind.

    Args:
        objects: The objects, those of a kind together.
        urls: Where a VirtualService takes requests, by its name; empty where it takes none.
        console: Where to print.
    """
    out = console or a_console()
    kinds = list(dict.fromkeys(str(obj["kind"]) for obj in objects))
    for kind in kinds:
        headings, cells = _COLUMNS[kind]
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        for heading in (kind, *headings, *(["address"] if kind == "VirtualService" else []), "written by"):
            table.add_column(heading, overflow="fold")
        for obj in objects:
            if obj["kind"] == kind:
                name = str(obj["metadata"]["name"])
                url = [urls.get(name, "")] if kind == "VirtualService" else []
                add_row(table, name, *cells(obj), *url, _writer(obj))
        out.print(table)


def _virtual_service(obj: Object) -> Sequence[str]:
    spec = obj["spec"]
    routes = [str(route.get("name") or f"[{index}]") for index, route in enumerate(spec.get("http") or [])]
    return _joined(spec.get("hosts")) or "(a delegate)", _joined(routes)


def _destination_rule(obj: Object) -> Sequence[str]:
    subsets = [subset["name"] for subset in obj["spec"].get("subsets") or []]
    return str(obj["spec"]["host"]), _joined(subsets)


def _service(obj: Object) -> Sequence[str]:
    spec = obj["spec"]
    ports = [port["port"] for port in spec.get("ports") or []]
    chosen = [f"{key}={value}" for key, value in (spec.get("selector") or {}).items()]
    return _joined(ports), str(spec.get("externalName") or _joined(chosen))


def _deployment(obj: Object) -> Sequence[str]:
    status = obj.get("status", {})
    return (f"{status.get('readyReplicas') or 0}/{obj['spec'].get('replicas', 1)}",)


_COLUMNS: Mapping[str, tuple[Sequence[str], Cells]] = {
    "VirtualService": (("hosts", "routes"), _virtual_service),
    "DestinationRule": (("host", "subsets"), _destination_rule),
    "Service": (("ports", "reaches"), _service),
    "Deployment": (("ready",), _deployment),
}


def _writer(obj: Object) -> str:
    return FIELD_MANAGER if labels_of(obj).get(MANAGED_BY_LABEL) == FIELD_MANAGER else "you"


def _joined(values: Sequence[Any] | None) -> str:
    return ", ".join(str(value) for value in values or ())
