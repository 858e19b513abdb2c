"""Promoted versions under watch with real requests: an equal one ends its watch well, and one that turns bad later goes back.

What turns bad is what users send: from some moment on, requests of a kind that the new version can't answer. No request is lost
by the way back, nor by the driver's death on the way.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.faulty import register_faulty
from tests.scenarios.place import VERSION, Place
from tests.scenarios.test_progressive import command, run, standing, story
from tests.support.callers import calling
from tests.testbed.client import wait_for

pytestmark = pytest.mark.timeout(900)

ENDPOINT = "w"
USUAL, NEW_KIND = 2.0, 3.0
QUICK = [
    *("--interval", "1", "--hold", "3", "--min-requests", "20", "--warmup", "1", "-Cphase=0", "--deadline", "300"),
    *("--steps", "50", "--analysis", json.dumps([{"guard": "errors", "allowed": 0.05}])),
]


@dataclass
class Callers:
    """What they send (the second value of each request), and what they got."""

    kind: float = USUAL
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def lost(self, version: str) -> list[Any]:
        """Failures that are not the version's own answer."""
        return [*self.broken, *(key for key in self.answers if key[1] != 200 and key != (version, 500))]


@contextmanager
def callers(place: Place) -> Iterator[Callers]:
    found = place.client.get_endpoint(ENDPOINT)
    url, headers = found["url"], dict(found["headers"])
    got, lock = Callers(), threading.Lock()

    def ask(session: requests.Session, number: int) -> None:
        body = {"inputs": [[float(number), got.kind]]}
        try:
            answer = session.post(f"{url}/invocations", json=body, headers=headers, timeout=60)
        except requests.RequestException as exc:
            with lock:
                got.broken.append(type(exc).__name__)
            return
        with lock:
            got.answers[(answer.headers.get(VERSION, "(nobody)"), answer.status_code)] += 1

    with calling(ask, workers=4, seconds=800):
        yield got


@pytest.fixture
def stable(place: Place, tmp_path: Path) -> Iterator[int]:
    """An endpoint whose stable answers every kind of request; its version."""
    number = register(place, tmp_path)
    place.client.create_deployment(f"w-v{number}", f"models:/w/{number}", endpoint=ENDPOINT)
    yield number
    place.client.delete_endpoint(ENDPOINT, {"force": True})


def register(place: Place, folder: Path, **config: Any) -> int:
    artifacts = folder / "faulty" if place.target == "istio-local" else None
    return register_faulty(place.tracking_uri, ENDPOINT, artifacts, milliseconds=20, **config)


def watching(place: Place) -> dict[str, Any] | None:
    release = place.client.get_endpoint(ENDPOINT)["release"]
    found: dict[str, Any] | None = release.get("watching") if release else None
    return found


def test_an_equal_version_is_warmed_promoted_and_ends_its_watch_well(place: Place, stable: int, tmp_path: Path) -> None:
    candidate = register(place, tmp_path)
    with callers(place) as got:
        ended = run(place, "release", ENDPOINT, f"models:/w/{candidate}", *QUICK, "--watch", "20s", "--keep-old", "1h")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = place.client.get_endpoint(ENDPOINT)
    assert (found["stable"], found["traffic"]) == (f"w-v{candidate}", {f"w-v{candidate}": 100})
    assert [action for action, _ in story(place, ENDPOINT)] == ["start", "shift", "promote", "watch-end"]
    assert "nothing speaks against" in story(place, ENDPOINT)[-1][1]
    assert f"'w-v{candidate}' is warm" in ended.stdout + ended.stderr
    assert [(deadline["kind"], deadline["what"]) for deadline in found["deadlines"]] == [("keep", f"w-v{stable}")]
    assert {status for _, status in got.answers} == {200}
    assert not got.broken


def test_one_that_turns_bad_after_its_promotion_goes_back_though_its_driver_died(
    place: Place, stable: int, tmp_path: Path
) -> None:
    candidate = register(place, tmp_path, fails_every=4, fails_on=NEW_KIND)
    promoted, log = f"w-v{candidate}", tmp_path / "driver.log"
    release = command(place, "release", ENDPOINT, f"models:/w/{candidate}", *QUICK, "--watch", "300s", "-Cwarm=none")
    with callers(place) as got:
        with log.open("wb") as output:
            driver = subprocess.Popen(release, stdout=output, stderr=output)
        try:
            wait_for(
                f"a watch by a driver that logs to {log}",
                lambda: watching(place) is not None or driver.poll() is not None,
                300,
            )
            assert driver.poll() is None, log.read_text()
        finally:
            driver.kill()
            driver.wait(30)
        assert place.client.get_endpoint(ENDPOINT)["traffic"] == {promoted: 95, f"w-v{stable}": 5}
        looks = standing(place, ENDPOINT)["looks"]
        with (tmp_path / "resumed.log").open("wb") as output:
            resumed = subprocess.Popen(command(place, "resume", ENDPOINT), stdout=output, stderr=output)
            try:
                wait_for("a while of good answers", lambda: standing(place, ENDPOINT)["looks"] >= looks + 30, 240)
                assert watching(place) is not None
                assert not got.lost("")
                got.kind = NEW_KIND
                wait_for("the way back", lambda: resumed.poll() is not None, 240)
            finally:
                resumed.kill()
                resumed.wait(30)
        before = got.answers.total()
        wait_for("users who are back", lambda: got.answers.total() >= before + 100, 60)
    assert resumed.returncode == 3, (tmp_path / "resumed.log").read_text()
    found = place.client.get_endpoint(ENDPOINT)
    assert (found["stable"], found["traffic"]) == (f"w-v{stable}", {f"w-v{stable}": 100})
    action, reason = story(place, ENDPOINT)[-1]
    assert action == "rollback"
    assert "is worse since its promotion: errors" in reason
    assert got.answers[(f"w/{candidate}", 500)] > 0
    assert not got.lost(f"w/{candidate}")
