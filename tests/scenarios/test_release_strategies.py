"""Releases by strategy=shadow and strategy=ab go on by themselves under live load, killed with SIGKILL on their way and resumed.

A shadow that answers otherwise never meets a user; one that answers alike is promoted. Of two arms the better one wins and is
promoted; arms without a difference go back. Users lose no request that the stable would have answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faulty import register_faulty
from tests.scenarios.place import Place
from tests.scenarios.test_analysis import artifact
from tests.scenarios.test_progressive import command, killed_on_the_way, run, story, users
from tests.testbed.client import wait_for

pytestmark = pytest.mark.timeout(600)

NAME = "s"
QUICK = ["--interval", "1", "--hold", "2", "--min-requests", "20", "--warmup", "1"]


@pytest.fixture(scope="module")
def versions(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """What each version of model ``s`` is like, by its number; the first is deployed and stable, and all record."""
    artifacts = None if place.target != "istio-local" else tmp_path_factory.mktemp("faulty")
    kinds: dict[str, dict[str, Any]] = {
        "stable": {},
        "other": {"answer": 2.0},
        "alike": {},
        "poor": {"fails_every": 5},
        "good": {},
        "poorer": {"fails_every": 4},
        "twin": {},
    }
    numbers = {
        kind: register_faulty(place.tracking_uri, NAME, artifacts, milliseconds=5, **how) for kind, how in kinds.items()
    }
    config = {"env": place.recording}
    place.client.create_deployment(f"s-v{numbers['stable']}", f"models:/s/{numbers['stable']}", None, config, NAME)
    yield numbers
    place.client.delete_endpoint(NAME, {"force": True})


# The plan keeps how answers are compared: 'resume' is not told again.
COMPARED = ["-C", f"compare={json.dumps({'answers': 'numbers', 'agreement': 0.97, 'settle': 1})}"]


@pytest.mark.parametrize("kind", ["other", "alike"])
def test_a_killed_and_resumed_shadow_goes_live_only_if_it_answers_alike(
    place: Place, versions: dict[str, int], kind: str, tmp_path: Path
) -> None:
    candidate, stable = versions[kind], place.client.get_endpoint(NAME)["stable"]
    release = [
        "release",
        NAME,
        f"models:/s/{candidate}",
        "--strategy",
        "shadow",
        *QUICK,
        "--deadline",
        "200",
        *COMPARED,
    ]
    with users(place, tmp_path, endpoint=NAME) as got:
        argv = command(place, *release, "-C", f"env={json.dumps(place.recording)}")
        with killed_on_the_way(place, argv, tmp_path / "driver.log", NAME):
            pass
        resumed = run(place, "resume", NAME)
    found, told = place.client.get_endpoint(NAME), story(place, NAME)
    alike = kind == "alike"
    assert resumed.returncode == (0 if alike else 3), resumed.stdout + resumed.stderr
    assert found["last_release"]["outcome"] == ("promoted" if alike else "rolled-back")
    assert found["traffic"] == {f"s-v{candidate}" if alike else stable: 100}
    assert found["mirrors"] == {}
    assert {status for _, status in got.answers} == {200}
    assert not got.broken
    if not alike:
        assert {version.replace("/", "-v") for version, _ in got.answers} == {stable}, "no user ever saw it"
    assert told[0][0] == "start"
    assert told[-1][0] == ("promote" if alike else "rollback")
    assert "agree" in told[-1][1]
    assert told[-1][1] in resumed.stdout


def test_the_best_arm_of_a_killed_and_resumed_test_is_promoted(
    place: Place, versions: dict[str, int], tmp_path: Path
) -> None:
    """The control fails every fifth request, one challenger every fourth, the other none."""
    for kind in ("poor", "good", "poorer"):
        deployed(place, versions[kind])
    make_stable(place, versions["poor"])
    better, worse = f"s-v{versions['good']}", f"s-v{versions['poorer']}"
    options = ["--strategy", "ab", "-C", "cookie=arm", "--candidate", f"{better},{worse}", "--steps", "33"]
    with users(place, tmp_path, endpoint=NAME, fresh=True) as got:
        argv = command(place, "release", NAME, *options, *QUICK, "--deadline", "200")
        with killed_on_the_way(place, argv, tmp_path / "driver.log", NAME):
            before = got.answers.total()
            wait_for("users who are served while nobody drives", lambda: got.answers.total() >= before + 10, 60)
        resumed = run(place, "resume", NAME)
    found, told = place.client.get_endpoint(NAME), story(place, NAME)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert found["last_release"]["outcome"] == "promoted"
    assert found["traffic"] == {better: 100}
    assert not got.broken
    failed = {version.replace("/", "-v") for version, status in got.answers if status != 200}
    assert failed == {f"s-v{versions['poor']}", worse}, "nothing but the arms' own failures"
    assert (told[0][0], told[-1][0]) == ("start", "promote")
    assert better in told[-1][1]
    page = artifact(place, place.client.history(NAME)[-1]["run"], "report.html")
    figure = page[page.index('id="chart-arms-0"') :]
    assert all(f"<span>s-v{versions[kind]}</span>" in figure for kind in ("poor", "good", "poorer"))


def test_arms_without_a_difference_go_back_at_the_deadline(
    place: Place, versions: dict[str, int], tmp_path: Path
) -> None:
    deployed(place, versions["good"])
    deployed(place, versions["twin"])
    make_stable(place, versions["good"])
    options = ["--strategy", "ab", "-C", "cookie=arm", "--candidate", f"s-v{versions['twin']}", "--steps", "50"]
    with users(place, tmp_path, endpoint=NAME, fresh=True) as got:
        ended = run(place, "release", NAME, *options, *QUICK, "--deadline", "12")
    found, told = place.client.get_endpoint(NAME), story(place, NAME)
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert found["traffic"] == {f"s-v{versions['good']}": 100}
    assert found["last_release"]["outcome"] == "inconclusive"
    assert not got.broken
    assert {status for _, status in got.answers} == {200}
    assert len({version for version, _ in got.answers}) == 2, "both had users"
    assert told[-1][0] == "inconclusive"


def deployed(place: Place, version: int) -> None:
    """Deployed, if it is not yet; it records, since a shadow may be compared with it afterwards."""
    config = {"env": place.recording}
    place.client.create_deployment(f"s-v{version}", f"models:/s/{version}", None, config, NAME)


def make_stable(place: Place, version: int) -> None:
    name = f"s-v{version}"
    if place.client.get_endpoint(NAME)["stable"] != name:
        place.client.update_endpoint(NAME, {"strategy": "blue-green", "candidate": name})
        place.client.promote(NAME)
