"""Releases that go on by themselves with ``strategy=shadow`` and ``strategy=ab``, under live load; each driver is killed.

Every caller's request has a number, and which numbers a version fails is known beforehand: so each failure that a user saw
can be told from one that the stable would have spared them.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.faulty import register_faulty
from tests.scenarios.place import VERSION, Place
from tests.scenarios.test_analysis import artifact
from tests.scenarios.test_progressive import command as command_line
from tests.scenarios.test_progressive import killed_on_the_way, run, story
from tests.support.callers import calling
from tests.testbed.client import wait_for

pytestmark = pytest.mark.timeout(1200)

ENDPOINT = "s"
KINDS: dict[str, dict[str, Any]] = {
    "stable": {"fails_every": 4},
    "other": {"fails_every": 4, "answer": 2.0},
    "same": {"fails_every": 4},
    "better": {},
    "failing": {"fails_every": 20},
}
QUICK = ["--hold", "2", "--warmup", "0", "--deadline", "200", "-Cphase=0", "-Cwarm=none"]
ERRORS = ["--analysis", '[{"guard": "errors"}]']
"""No guard of latency: a failure takes less time than an answer, so an arm that never fails looks slow beside one that does."""


@dataclass(kw_only=True)
class Callers:
    """Users with numbered requests, and what they got.

    Attributes:
        users: Headers to send, one user's after the other; by default users know of no test.
        answers: How many answers each version gave with each status.
        failed: Number, version and status of each request that was not answered with 200.
    """

    users: list[dict[str, str]] = field(default_factory=lambda: [{}])
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failed: list[tuple[int, str, int]] = field(default_factory=list)

    def versions(self) -> set[str]:
        return {version for version, _status in self.answers}

    def more(self, count: int) -> None:
        """Wait until so many further requests were answered."""
        before = self.answers.total()
        wait_for(f"{count} more requests", lambda: self.answers.total() >= before + count, 60)


@contextmanager
def callers(place: Place, workers: int = 3) -> Iterator[Callers]:
    """Callers who send one request after the other, each as a user who comes for the first time."""
    found = place.client.get_endpoint(ENDPOINT)
    url, own = found["url"], dict(found["headers"])
    got, lock = Callers(), threading.Lock()

    def ask(session: requests.Session, number: int) -> None:
        headers = {**own, **got.users[number % len(got.users)]}
        body = {"inputs": [[float(number), 2.0]]}
        try:
            answer = session.post(f"{url}/invocations", json=body, headers=headers, timeout=60)
            version, status = answer.headers.get(VERSION, "nobody"), answer.status_code
        except requests.RequestException as exc:
            version, status = type(exc).__name__, 0
        session.cookies.clear()
        with lock:
            got.answers[(version, status)] += 1
            if status != 200:
                got.failed.append((number, version, status))

    with calling(ask, workers=workers, seconds=1100):
        yield got


@dataclass(frozen=True, kw_only=True)
class Shop:
    """The endpoint with its versions.

    Attributes:
        place: Where it is.
        numbers: Each kind's version number.
    """

    place: Place
    numbers: dict[str, int]

    def name(self, kind: str) -> str:
        return f"s-v{self.numbers[kind]}"

    def label(self, kind: str) -> str:
        return f"s/{self.numbers[kind]}"

    def uri(self, kind: str) -> str:
        return f"models:/s/{self.numbers[kind]}"

    def view(self) -> dict[str, Any]:
        found: dict[str, Any] = self.place.client.get_endpoint(ENDPOINT)
        return found

    def deploy(self, kind: str) -> str:
        config = {"env": self.place.recording}
        self.place.client.create_deployment(self.name(kind), self.uri(kind), config=config, endpoint=ENDPOINT)
        return self.name(kind)

    def settle_on(self, kind: str) -> str:
        """Make this kind the stable, whatever the scenario before has left."""
        name, client = self.deploy(kind), self.place.client
        found = self.view()
        if found["release"]:
            found = client.update_endpoint(ENDPOINT, {"action": "abort"})
        if found["stable"] != name:
            client.update_endpoint(ENDPOINT, {"strategy": "canary", "candidate": name})
            client.update_endpoint(ENDPOINT, {"action": "promote"})
        return name

    def lost(self, got: Callers) -> list[tuple[int, str, int]]:
        """Failures that no version is known to answer with: those that routing is to blame for."""
        fails = {self.label(kind): KINDS[kind].get("fails_every", 0) for kind in KINDS}

        def its_own(number: int, version: str, status: int) -> bool:
            every = fails.get(version, 0)
            return status == 500 and bool(every) and number % every == every // 2

        return [failure for failure in got.failed if not its_own(*failure)]

    def release(self, *what: str) -> list[str]:
        env = f"env={json.dumps(self.place.recording)}"
        return command_line(self.place, "release", ENDPOINT, *what, *QUICK, "-C", env)

    def vouching(self) -> list[str]:
        """What an A/B test says at a gateway of a cluster, where nobody can tell who chose an arm by the cookie."""
        return [] if self.place.target == "istio-local" else ["-C", "randomised=true"]

    def ended(self, resumed: Any, exit_status: int, outcome: str, traffic: str) -> str:
        """Check how the resumed release ended, everywhere that tells; the ledger's reason."""
        assert resumed.returncode == exit_status, resumed.stdout + resumed.stderr
        found, told = self.view(), story(self.place, ENDPOINT)
        assert found["last_release"]["outcome"] == outcome
        assert (found["traffic"], found["stable"]) == ({traffic: 100}, traffic)
        assert (found["mirrors"], found["arms"], found["release"]) == ({}, [], None)
        words = {"promoted": "promote", "rolled-back": "rollback"}
        assert [action for action, _ in told] == ["start", "shift", words.get(outcome, outcome)]
        assert told[-1][1] in resumed.stdout
        return told[-1][1]


@pytest.fixture(scope="module")
def shop(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """An endpoint with five versions to choose from, all of which record."""
    artifacts = None if place.target != "istio-local" else tmp_path_factory.mktemp("faulty")
    numbers = {
        kind: register_faulty(place.tracking_uri, ENDPOINT, artifacts, **{"milliseconds": 5, **how})
        for kind, how in KINDS.items()
    }
    found = Shop(place=place, numbers=numbers)
    found.deploy("stable")
    yield found
    place.client.delete_endpoint(ENDPOINT, {"force": True})


@pytest.mark.parametrize(("kind", "agrees"), [("other", False), ("same", True)])
def test_a_shadow_is_promoted_when_its_answers_agree_and_sent_away_when_not(
    shop: Shop, kind: str, agrees: bool, tmp_path: Path
) -> None:
    place, stable = shop.place, shop.settle_on("stable")
    argv = shop.release(
        *(shop.uri(kind), "--strategy", "shadow", "--interval", "2"),
        *("-C", 'compare={"answers": "numbers", "agreement": 0.9, "settle": 1}'),
    )
    with callers(place) as got:
        with killed_on_the_way(place, argv, tmp_path / "driver.log", ENDPOINT):
            assert shop.view()["mirrors"] == {shop.name(kind): 100}
            got.more(30)
        assert got.versions() == {shop.label("stable")}, "no user sees a shadow's answer"
        resumed = run(place, "resume", ENDPOINT, "--force")
        reason = shop.ended(
            resumed,
            0 if agrees else 3,
            "promoted" if agrees else "rolled-back",
            shop.name(kind) if agrees else stable,
        )
        if agrees:
            wait_for("answers of the promoted", lambda: got.answers[(shop.label(kind), 200)] >= 20, 60)
        else:
            here = replace(place, endpoint=ENDPOINT)
            seen = [-1.0]

            def no_more() -> bool:
                seen.append(here.counted(shop.name(kind)))
                return seen[-1] == seen[-2]

            wait_for("the last copies", no_more)
            got.more(40)
            assert here.counted(shop.name(kind)) == seen[-1], "nothing is copied any more"
            assert got.versions() == {shop.label("stable")}
    assert not shop.lost(got)
    assert "compared requests agree" in reason


def test_an_ab_test_by_header_without_a_difference_ends_inconclusive_on_the_stable(shop: Shop, tmp_path: Path) -> None:
    place, stable, arm = shop.place, shop.settle_on("stable"), shop.deploy("same")
    argv = shop.release(
        *("--candidate", arm, "--strategy", "ab", "--interval", "1"),
        *("-C", "header=x-arm", "-C", "randomised=true", "-C", "delta=3"),
    )
    with callers(place) as got:
        got.more(20)
        with killed_on_the_way(place, argv, tmp_path / "driver.log", ENDPOINT):
            # Callers know to which arm they belong; who was never told is split by the weights, at each request anew.
            got.users = [{}, *(place.client.assign(ENDPOINT, f"user-{number}") for number in range(30))]
            wait_for("users of the other arm", lambda: got.answers[(shop.label("same"), 200)] >= 20, 60)
        resumed = run(place, "resume", ENDPOINT, "--force")
        reason = shop.ended(resumed, 4, "inconclusive", stable)
    assert reason.startswith("No difference larger than 3 between")
    assert got.versions() == {shop.label("same"), shop.label("stable")}
    assert not shop.lost(got)


def test_of_three_arms_by_cookie_the_best_is_promoted(shop: Shop, tmp_path: Path) -> None:
    place, control = shop.place, shop.settle_on("stable")
    worse, better = shop.deploy("same"), shop.deploy("better")
    argv = shop.release(
        *("--candidate", f"{worse},{better}", "--strategy", "ab", "--interval", "1", "-C", "cookie=arm"),
        *shop.vouching(),
    )
    with callers(place) as got:
        with killed_on_the_way(place, argv, tmp_path / "driver.log", ENDPOINT):
            got.more(30)
        resumed = run(place, "resume", ENDPOINT, "--force")
        reason = shop.ended(resumed, 0, "promoted", better)
    assert reason.startswith(f"{better} is better than {control}")
    assert got.versions() == {shop.label("same"), shop.label("stable"), shop.label("better")}
    assert not shop.lost(got)
    page = artifact(place, place.client.history(ENDPOINT)[-1]["run"], "report.html")
    figure = page[page.index('id="chart-arms-0"') :]
    assert all(f"<span>{arm}</span>" in figure for arm in (control, worse, better))
    winning = place.client.history(ENDPOINT)[-1]["evidence"]["evidence"]
    assert winning["winner"] == better
    # Each challenger is held against the control; how the two compare with each other is told by no more than their estimates.
    assert winning["arms"][worse]["estimate"] > winning["arms"][better]["estimate"]


def test_an_arm_that_fails_every_twentieth_request_loses_to_the_control(shop: Shop, tmp_path: Path) -> None:
    place, control = shop.place, shop.settle_on("better")
    argv = shop.release(
        *(shop.uri("failing"), "--strategy", "ab", "--interval", "1", "-C", "cookie=arm", *ERRORS),
        *shop.vouching(),
    )
    with callers(place) as got:
        with killed_on_the_way(place, argv, tmp_path / "driver.log", ENDPOINT):
            got.more(30)
        resumed = run(place, "resume", ENDPOINT, "--force")
        reason = shop.ended(resumed, 3, "rolled-back", control)
    # The guard and the comparison count the same errors: which of them is sure first is chance.
    assert reason.startswith(("The candidate is worse: errors", f"{control} is better than every challenger"))
    assert not shop.lost(got)
    assert {version for _number, version, _status in got.failed} == {shop.label("failing")}
