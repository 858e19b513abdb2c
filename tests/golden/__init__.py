"""Documents as they should be, as files to read: ``pytest --golden-update`` (or ``make golden-update``) rewrites them."""

from __future__ import annotations

from pathlib import Path

import pytest

OPTION = "--golden-update"
FOLDER = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that rewrites the files instead of comparing with them."""
    parser.addoption(OPTION, action="store_true", help="rewrite the golden files")


def check_golden(path: str, text: str, *, update: bool) -> None:
    """Compare a text with its golden file, or write it.

    Args:
        path: Path below ``tests/golden``.
        text: What was made just now.
        update: Whether to write it.
    """
    file = FOLDER / path
    if update:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.is_file(), f"there is no {file.name} yet: look at what pytest {OPTION} writes and commit it"
    assert text == file.read_text(encoding="utf-8"), f"if {file.name} should change, run pytest {OPTION} and look at it"
