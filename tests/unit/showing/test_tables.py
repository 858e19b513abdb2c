"""What tables show of a shadow's answers."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from mlflow_istio.showing.tables import print_comparison


def printed(stable: Any, candidate: Any) -> str:
    figures = dict.fromkeys(("pairs", "compared", "candidate_failed", "stable_failed", "both_failed"), 1)
    view = {
        "figures": {f"shadow/{name}": value for name, value in {**figures, "unmatched_share": 0.0}.items()},
        "verdict": {"word": "hold", "reason": "not yet"},
        "partial": False,
        "stable": "m-v1",
        "candidate": "m-v2",
        "most_different": [
            {
                "request_id": "r",
                "difference": None,
                "note": "n",
                "stable_output": stable,
                "candidate_output": candidate,
            }
        ],
    }
    console = Console(file=io.StringIO(), width=120)
    print_comparison(view, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_both_sides_of_the_most_different_requests_are_shown_in_full() -> None:
    text = printed(["a" * 300, "[bold]end of stable[/bold]"], ["b" * 300, "end of candidate"])
    columns = [line.split() for line in text.splitlines()]
    assert "".join(columns_of(columns, "a")).count("a") >= 300
    assert "".join(columns_of(columns, "b")).count("b") >= 300
    for part in ("[bold]end", "stable[/bold]", "candidate"):
        assert part in text


def columns_of(lines: list[list[str]], letter: str) -> list[str]:
    return [word for line in lines for word in line if set(word) <= set(f'["{letter},')]


def test_an_answer_that_would_fill_screens_says_how_long_it_is() -> None:
    words = " ".join(printed("a" * 5000, "b").split())
    assert "1002 characters more" in words
