"""The commands of docs/releases.md are run as they stand, while users send requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.e2e.test_docs import ROOT, run, workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

__all__ = ["workshop"]

INPUT = {"dataframe_records": [{"tenure": 3, "calls": 12, "spend": 30.5}]}


@contextmanager
def users(folder: Path) -> Iterator[None]:
    """Callers of the endpoint, from when it exists until the block ends (at most eight minutes)."""
    stop = threading.Event()
    ending = threading.Timer(480, stop.set)
    ending.start()

    def caller() -> None:
        url = ""
        while not stop.is_set():
            if not url:
                found = re.findall(r"^churn +(http://\S+)", run(["mlflow-istio", "status"], folder), re.M)
                url = found[0] if found else ""
                stop.wait(1)
                continue
            try:
                requests.post(f"{url}/invocations", json=INPUT, timeout=10)
            except requests.RequestException:
                stop.wait(0.2)

    threads = [threading.Thread(target=caller) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        ending.cancel()
        for thread in threads:
            thread.join()


def test_the_commands_of_the_guide_to_releases_run_in_the_order_they_stand(workshop: Path) -> None:
    text = (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M)
    with users(workshop):
        said = run(["bash", "-ec", "\n".join(blocks)], workshop, timeout=500)
    assert "steps: 20%, 50% of the traffic" in said
    assert "dry run: nothing was changed" in said
    assert re.search(r"release \w+ of churn: promoted. Proven good enough: errors", said)
    assert "approved 'promotion' of churn" in said
    assert re.search(r"churn-v3 +churn/3 +stable +100%", said)
