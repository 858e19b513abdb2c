"""The commands of docs/releases.md are run as they stand, while users send requests."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.e2e.test_docs import workshop
from tests.support.callers import calling
from tests.support.pages import blocks, run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

__all__ = ["workshop"]

INPUT = {"dataframe_records": [{"tenure": 3, "calls": 12, "spend": 30.5}]}


@contextmanager
def users(folder: Path) -> Iterator[None]:
    """Callers of the endpoint, from when it exists until the block ends (or hangs)."""
    url = ""

    def ask(session: requests.Session, _number: int) -> None:
        nonlocal url
        if not url:
            listed = re.findall(r"^churn +(http://\S+)", run(["mlflow-istio", "status"], folder), re.M)
            url = listed[0] if listed else ""
            time.sleep(0 if url else 1)
            return
        try:
            session.post(f"{url}/invocations", json=INPUT, timeout=60)
        except requests.RequestException:
            time.sleep(0.2)

    with calling(ask, workers=2, seconds=1100):
        yield


def test_the_commands_of_the_guide_to_releases_run_in_the_order_they_stand(workshop: Path) -> None:
    with users(workshop):
        said = run(["bash", "-ec", "\n".join(blocks("bash", "docs/releases.md"))], workshop, timeout=1000)
    assert "steps: 20%, 50% of the traffic" in said
    assert "dry run: nothing was changed" in said
    assert re.search(r"release \w+ of churn: promoted. Proven good enough: errors", said)
    assert "approved 'promotion' of churn" in said
    assert re.search(r"churn-v3 +churn/3 +stable +100%", said)
