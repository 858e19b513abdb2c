"""What tables show of a shadow's answers and of a rehearsal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from mlflow_istio.showing.tables import print_comparison, print_rehearsal


def printed(stable: Any, candidate: Any) -> str:
    figures = dict.fromkeys(("pairs", "compared", "candidate_failed", "stable_failed", "both_failed"), 1)
    view = {
        "figures": {f"shadow/{name}": value for name, value in {**figures, "unmatched_share": 0.0}.items()},
        "verdict": {"word": "hold", "reason": "not yet"},
        "terms": "Compared as [b]text[/b].",
        "partial": False,
        "stable": "m-v1",
        "candidate": "m-v2",
        "dropped": {"m-v1": {}, "m-v2": {"backlog": 1200, "too_large": 3}},
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
    assert "Compared as [b]text[/b]." in text
    columns = [line.split() for line in text.splitlines()]
    assert "".join(columns_of(columns, "a")).count("a") >= 300
    assert "".join(columns_of(columns, "b")).count("b") >= 300
    for part in ("[bold]end", "stable[/bold]", "candidate"):
        assert part in text


def test_what_was_not_recorded_is_told_of_who_dropped_it() -> None:
    text = printed("a", "b")
    assert "not recorded by 'm-v2' since its recorders started: 1,200 backlog, 3 too_large" in text
    assert "not recorded by 'm-v1'" not in text


def columns_of(lines: list[list[str]], letter: str) -> list[str]:
    return [word for line in lines for word in line if set(word) <= set(f'["{letter},')]


def test_an_answer_that_would_fill_screens_says_how_long_it_is() -> None:
    words = " ".join(printed("a" * 5000, "b").split())
    assert "1002 characters more" in words


REHEARSED: dict[str, Any] = {
    "endpoint": "churn",
    "stable": "churn[v1]",
    "source": "Prometheus at http://p:9090",
    "history": {"seconds": 7230.0, "gaps": [60.0, 600.0], "requests": 43200, "errors": 432},
    "phase": 70.0,
    "block": 210.0,
    "horizon": 14400.0,
    "cases": [
        {
            "odds": odds,
            "runs": 200,
            "promoted": {"share": 0.9, "error": 0.021},
            "rolled_back": {"share": 0.025, "error": 0.011},
            "inconclusive": {"share": 0.0, "error": 0.0},
            "median": 1260.0,
            "in_nine_of_ten": None,
            "seconds": [600.0, 1260.0],
        }
        for odds in (1.0, 2.0)
    ],
}


def rehearsed(**changes: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    print_rehearsal({**REHEARSED, **changes}, console)
    return console.export_text()


def test_a_rehearsal_says_what_it_rests_on_and_each_share_with_its_error() -> None:
    text = rehearsed()
    assert (
        "2.01 h of 'churn[v1]' from Prometheus at http://p:9090, 2 gaps of up to 10 min: 43,200 requests, 432 errors"
        in text
    )
    assert "slow phases: up to 70 s; dealt out by blocks of 4 min" in text
    assert re.search(r"the same +200 +90.0% ± 2.1% +2.5% ± 1.1% +0.0% ± 0.0% +21 min +> 4 h", text)
    assert "errors, odds x2" in text
    assert "An equal version would be rolled back in 2.5% ± 1.1% of releases" in text


@pytest.mark.parametrize(("phase", "words"), [(None, "too little to tell"), (0.0, "none seen")])
def test_a_rehearsal_says_how_much_is_known_of_slow_phases(phase: float | None, words: str) -> None:
    assert f"slow phases: {words};" in rehearsed(phase=phase)


def test_a_rehearsal_without_errors_says_that_no_version_can_have_more() -> None:
    assert "no version could be rehearsed that has more" in rehearsed(cases=REHEARSED["cases"][:1])
