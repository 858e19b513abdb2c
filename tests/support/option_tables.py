"""Write docs/options.md from the models that check the options: ``make options``.

The tables are made, never edited: ``tests/unit/options/test_option_tables.py`` fails when they are behind the models.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlflow_istio.options import analysis, base, release, routes
from mlflow_istio.options.help_text import default_word
from mlflow_istio.options.shared import PolicySettings

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
HEAD = """\
# Options

Made by `make options` from the models that check them. With `mlflow deployments` an option is `-C name=value`; `mlflow-istio` takes
the same `-C`, and flags of its own for the usual ones (`--help` lists them); in Python it is an entry of `config`, or a keyword
where the verb takes keywords. JSON is given as text on the command line and as it is in Python. What a call does not say is
taken from the environment, `MLFLOW_ISTIO_` and the name in capitals, then from the default here. An unknown option is refused
with the nearest known one, and one "(cluster only)" is refused on `istio-local`. Seconds may be written as a
duration: `90`, `1m30s`, `2d`.
"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Options of some verbs.

    Attributes:
        title: Heading.
        model: What checks them.
        but: Models whose options have a table of their own.
        note: A sentence before the table.
    """

    title: str
    model: type[BaseModel]
    but: tuple[type[BaseModel], ...] = ()
    note: str = ""

    @property
    def options(self) -> Mapping[str, FieldInfo]:
        """Name to option, in alphabetical order."""
        elsewhere = {name for model in self.but for name in model.model_fields}
        return {name: field for name, field in sorted(self.model.model_fields.items()) if name not in elsewhere}


_PLACE, _SHARED = base.ReadOptions, base.ChangeOptions
TABLES = (
    Table(title="Every verb", model=_PLACE),
    Table(
        title="Every verb that changes something",
        model=_SHARED,
        but=(_PLACE,),
        note="`update`, `sweep`, `approve`, `reject` and `resume` take no `reason`. `approve`, `reject`, `resume` of a release "
        "that goes on by itself, `chaos` and `doctor --fix` refuse `dry_run`.",
    ),
    Table(
        title="create",
        model=base.CreateOptions,
        but=(_SHARED, PolicySettings),
        note="And those of [a route](#a-route).",
    ),
    Table(title="update", model=base.UpdateOptions, but=(_SHARED,)),
    Table(
        title="update-endpoint",
        model=base.UpdateEndpointOptions,
        but=(_SHARED, PolicySettings),
        note="And those of [a route](#a-route).",
    ),
    Table(title="delete", model=base.DeleteOptions, but=(_SHARED,)),
    Table(title="delete-endpoint", model=base.DeleteEndpointOptions, but=(_SHARED,)),
    Table(title="adopt", model=base.AdoptOptions, but=(_SHARED,)),
    Table(
        title="A route",
        model=routes.PolicyOptions,
        but=(_SHARED,),
        note="`mlflow-istio policy`, `create` and `update-endpoint`; see [routing.md](routing.md).",
    ),
    Table(title="route", model=routes.RouteOptions, but=(_SHARED,)),
    Table(title="fault", model=routes.FaultOptions, but=(_SHARED,)),
    Table(title="chaos", model=routes.ChaosOptions, but=(_SHARED,)),
    Table(title="pins", model=routes.PinsOptions, but=(_SHARED,)),
    Table(title="sweep", model=routes.SweepOptions, but=(_SHARED,)),
    Table(
        title="release",
        model=release.ReleaseOptions,
        but=(base.CreateOptions,),
        note="And those of [create](#create), for the candidate's pods and its strategy; see [releases.md](releases.md).",
    ),
    Table(
        title="rehearse",
        model=release.RehearseOptions,
        but=(_PLACE,),
        note="Those that `release` has, too, mean the same; see [rehearse.md](rehearse.md).",
    ),
    Table(title="resume", model=release.ResumeOptions, but=(_SHARED,)),
    Table(title="analyse", model=analysis.AnalyseOptions, but=(_SHARED,)),
    Table(title="declare", model=analysis.DeclareOptions, but=(_SHARED, analysis.AnalyseOptions)),
    Table(title="compare", model=analysis.CompareOptions, but=(_SHARED,)),
)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for table in TABLES:
        rows = "".join(f"\n{_row(name, field)}" for name, field in table.options.items())
        note = f"{table.note}\n\n" if table.note else ""
        parts.append(f"## {table.title}\n\n{note}| option | kind | default | meaning |\n|---|---|---|---|{rows}\n")
    return "\n".join(parts)


def _row(name: str, field: FieldInfo) -> str:
    default = default_word(field)
    shown = "required" if field.is_required() else f"`{default}`" if default else ""
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_kind(field.annotation)} | {shown} | {meaning} |"


def _kind(annotation: Any) -> str:
    """The kind in a word or two, without validators and None."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(parts[0])
    if origin is typing.Literal:
        return "one of " + ", ".join(f"`{part}`" for part in parts)
    if type(None) in parts:
        rest = [part for part in parts if part is not type(None)]
        return " or ".join(dict.fromkeys(_kind(part) for part in rest))
    if origin is tuple and typing.get_origin(parts[0]) is dict:
        return "JSON list"
    kinds: dict[Any, str] = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        timedelta: "duration",
        dict: "JSON object",
        list: "JSON list",
        tuple: "list, comma-separated",
    }
    return kinds.get(origin or annotation, "JSON")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name}: {len(page().splitlines())} lines")


if __name__ == "__main__":
    main()
