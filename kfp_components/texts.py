"""What a step says: lines of its log, tables, and what artifacts hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

View = dict[str, Any]


def as_markdown(endpoint: str, changes: list[View]) -> str:
    """The changes as a table that the KFP UI shows."""
    from mlflow_istio.showing.tables import traffic_text

    lines = [
        f"# {endpoint}: {len(changes)} routing changes",
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
    """A text inside a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    """Artifact metadata are a protobuf struct: numbers, texts, lists and maps."""
    return json.loads(json.dumps(value, default=str))


def say(line: str) -> None:
    """A line for the step's log."""
    print(line, flush=True)
