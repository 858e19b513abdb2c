"""Foreign text on a terminal: names, reasons, answers of models. Nothing in it is markup, and nothing in it a terminal obeys."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlflow_istio.errors import masked, visible

Part = str | tuple[str, str]
"""A text, or a text and its style."""


def text_of(part: Any) -> Text:
    """One part as it is shown: control characters and signs of direction written out, passwords in addresses masked."""
    if isinstance(part, Text):
        return part
    words, style = part if isinstance(part, tuple) else (part, "")
    return Text(visible(masked(str(words))), style=style)


def add_row(table: Table, *cells: Any) -> None:
    """A row of a table, whose cells are texts."""
    table.add_row(*map(text_of, cells))


def say(out: Console, *parts: Part) -> None:
    """A line of these parts, one after the other."""
    out.print(Text.assemble(*map(text_of, parts)), highlight=False)
