"""What a step says: lines of its log, tables, and what artifacts hold."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from mlflow_istio.errors import visible

View = dict[str, Any]

_MARKDOWN = re.compile(r"[\\`*_\[\]|~$]")
"""What has a meaning inside a line of Markdown; ``<``, ``>`` and ``&`` become HTML's own."""


def as_markdown(endpoint: str, changes: list[View]) -> str:
    """The changes as a table that the KFP UI shows."""
    from mlflow_istio.showing.tables import traffic_text

    lines = [
        f"# {as_cell(endpoint)}: {len(changes)} routing changes",
        "",
        "| # | time (UTC) | action | traffic | who | reason |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for change in changes:
        cells = (
            str(change["sequence"]),
            change["time"][:19].replace("T", " "),
            change["action"],
            traffic_text(change),
            change["who"],
            change["reason"],
        )
        lines.append("| " + " | ".join(as_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def describe(artifact: Any, view: View) -> None:
    """Write what an endpoint or deployment is as an artifact's metadata and content."""
    artifact.metadata.update({key: _plain(value) for key, value in view.items()})
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    Path(artifact.path).write_text(json.dumps(view, indent=2, default=str), encoding="utf-8")


def write_text(artifact: Any, text: str) -> None:
    """Write the content of an HTML or Markdown artifact."""
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    Path(artifact.path).write_text(text, encoding="utf-8")


def traffic_line(view: View) -> str:
    """Who has which percent."""
    return ", ".join(f"{name} {weight}%" for name, weight in view.get("traffic", {}).items())


def as_cell(text: str) -> str:
    """A text inside Markdown, a cell of a table, too: none of it is Markdown or HTML, and it stays on its line."""
    line = " ".join(text.split()) if "\n" in text else text
    return html.escape(_MARKDOWN.sub(r"\\\g<0>", visible(line)), quote=False)


def _plain(value: Any) -> Any:
    """Artifact metadata are a protobuf struct: numbers, texts, lists and maps."""
    return json.loads(json.dumps(value, default=str))


def say(line: str) -> None:
    """A line for the step's log."""
    print(visible(line, lines=True), flush=True)
