"""Which lines of a log are shown."""

from __future__ import annotations

from mlflow_istio.core.basics.log_lines import telling

# As Triton 2.51 writes them, with the table of its settings that comes after.
CAUSE = "E1130 14:15:32 1 model_lifecycle.cc:642] \"failed to load 'model' version 1: Not found: stub is not found\""
SETTINGS = [f"| option_{number} | value |" for number in range(30)]
LAST = "error: creating server: Internal - failed to load all models"


def test_the_cause_stands_before_the_newest_lines_however_long_ago_it_was_written() -> None:
    assert telling(["loading", CAUSE, *SETTINGS, LAST], 3) == [CAUSE, "...", *SETTINGS[-2:], LAST]
    assert telling([*SETTINGS, CAUSE, "bye"], 1) == [CAUSE, "bye"]


def test_a_short_log_is_shown_whole_and_one_without_errors_by_its_newest_lines() -> None:
    assert telling([CAUSE, LAST], 3) == [CAUSE, LAST]
    assert telling(SETTINGS, 2) == SETTINGS[-2:]
    assert telling([], 2) == []


def test_older_errors_and_long_lines_are_bounded() -> None:
    lines = [f"error {number}" for number in range(100)]
    assert telling([*lines, *SETTINGS], 1) == [*lines[-5:], "...", SETTINGS[-1]]
    assert telling(["x" * 1000], 1) == ["x" * 497 + "..."]
