"""The commands and the Python of docs/metrics.md run as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import blocks, run, user_folder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Path]:
    """A user's folder in which the example has registered its versions."""
    with user_folder(tmp_path) as folder:
        yield folder


def test_the_pages_commands_and_python_run_in_the_order_they_stand(workshop: Path) -> None:
    arms, shadow = blocks("bash", "docs/metrics.md")
    (python,) = blocks("python", "docs/metrics.md")
    said = run(["bash", "-ec", f"{arms}\ncat > client.py <<'END'\n{python}END\npython client.py\n{shadow}"], workshop)
    assert "base line" in said
    assert "declare of churn: done" in said
    assert "winner churn-v1" in said
    assert re.search(r"^(advance|hold|rollback) ", said, re.M)
    assert re.search(r"pairs \d+ .*unmatched", said)
