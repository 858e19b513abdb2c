"""Releases that go on by themselves under live load, each killed with SIGKILL on its way and resumed by the command.

The candidates: one that fails 5% of the requests, one that is 20% slower, one with other predictions (which users notice: a
KPI), and a good one. Users lose no request but those that the bad candidate itself failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
from tests.support.callers import calling, repeating
from tests.testbed.client import wait_for

pytestmark = pytest.mark.timeout(1200)

ENDPOINT = "r"
MILLISECONDS = 93
"""Envoy keeps two significant digits of a time, so what its histograms count as "at most 100 ms" goes up to 110 ms. A stable
stays below that with up to 17 ms of everything else, and a candidate that takes 20% more is always above."""

QUICK = [
    "--interval",
    "1",
    "--hold",
    "3",
    "--min-requests",
    "20",
    "--warmup",
    "1",
    "-Cwarm=none",
    "-Cwarm_requests=0",
    "-Cphase=0",
    "--deadline",
    "300",
    "--steps",
    "20,50",
]

KPI_SCRIPT = """
import json, sys
from mlflow_istio.client.plugin import IstioDeploymentClient

target, verb, counts, out = sys.argv[1:5]
options = json.loads(sys.argv[5])

def accepted(deployment):
    try:
        with open(counts) as file:
            return tuple(json.load(file)[deployment])
    except (OSError, ValueError, KeyError):
        return None

client = IstioDeploymentClient(target)
kpi = {"accepted": accepted}
if verb == "release":
    found = client.release("r", options.pop("model"), kpi=kpi, **options)
else:
    found = client.resume_release("r", kpi=kpi)
with open(out, "w") as file:
    json.dump(found, file)
"""


@dataclass
class Users:
    """What users got, and whether they accepted it: the answer should be 1."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    accepted: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)


@contextmanager
def users(place: Place, folder: Path, *, workers: int = 3, endpoint: str = ENDPOINT) -> Iterator[Users]:
    """Callers who send numbered requests one after the other until the block ends (at most eight minutes)."""
    found = place.client.get_endpoint(endpoint)
    url, headers = found["url"], dict(found["headers"])
    got, lock = Users(), threading.Lock()

    def ask(session: requests.Session, number: int) -> None:
        body = {"inputs": [[float(number), 2.0]]}
        try:
            answer = session.post(f"{url}/invocations", json=body, headers=headers, timeout=60)
        except requests.RequestException as exc:
            with lock:
                got.broken.append(type(exc).__name__)
            return
        version = answer.headers.get(VERSION, "(nobody)")
        with lock:
            got.answers[(version, answer.status_code)] += 1
            if answer.status_code == 200:
                deployment = version.replace("/", "-v")
                got.seen[deployment] += 1
                got.accepted[deployment] += answer.json()["predictions"][0] == 1.0

    def record() -> None:
        with lock:
            counts = {name: [total, got.accepted[name]] for name, total in got.seen.items()}
        (folder / "counts.new").write_text(json.dumps(counts))
        (folder / "counts.new").rename(folder / "counts.json")

    with calling(ask, workers=workers, seconds=1100, pause=0), repeating(record, every=0.5, seconds=1100):
        yield got


@pytest.fixture(scope="module")
def versions(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """What each version of model ``r`` is like, by its number; the first is deployed and stable."""
    artifacts = None if place.target != "istio-local" else tmp_path_factory.mktemp("faulty")
    kinds: dict[str, dict[str, Any]] = {
        "stable": {},
        "failing": {"fails_every": 20},
        "slow": {"milliseconds": MILLISECONDS * 1.2},
        "other": {"answer": 2.0},
        "good": {},
        "dead": {"fails_every": 1},
    }
    numbers = {
        kind: register_faulty(place.tracking_uri, ENDPOINT, artifacts, **{"milliseconds": MILLISECONDS, **how})
        for kind, how in kinds.items()
    }
    place.client.create_deployment(f"r-v{numbers['stable']}", f"models:/r/{numbers['stable']}", endpoint=ENDPOINT)
    yield numbers
    place.client.delete_endpoint(ENDPOINT, {"force": True})


def source(place: Place) -> dict[str, str]:
    return {} if place.target == "istio-local" else {"metrics": "envoy", "envoy_url": os.environ["GATEWAY_ADMIN_URL"]}


def command(place: Place, *arguments: str) -> list[str]:
    options = [f"-C{name}={value}" for name, value in source(place).items()]
    return [sys.executable, "-m", "mlflow_istio.cli", *arguments, "-t", place.target, *options]


def run(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(place, *arguments), text=True, capture_output=True, timeout=1000, check=False)


def standing(place: Place, endpoint: str = ENDPOINT) -> dict[str, Any]:
    release = place.client.get_endpoint(endpoint)["release"] or {}
    found: dict[str, Any] = release.get("progress") or {"step": -1, "looks": 0}
    return found


@contextmanager
def killed_on_the_way(place: Place, argv: list[str], log: Path, endpoint: str = ENDPOINT) -> Iterator[None]:
    """Start a driver, and end it with SIGKILL once the candidate has traffic."""
    with log.open("wb") as output:
        driver = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        wait_for(
            f"traffic for the candidate by a driver that logs to {log}",
            lambda: standing(place, endpoint)["step"] >= 0 or driver.poll() is not None,
            240,
        )
        assert driver.poll() is None, log.read_text()
    finally:
        driver.kill()
        driver.wait(30)
    yield


def story(place: Place, endpoint: str = ENDPOINT) -> list[tuple[str, str]]:
    """Action and reason of every change of the newest release."""
    changes = place.client.history(endpoint)
    newest = [change["release"] for change in changes if change["release"]][
        -1
    ]  # a control goes after the release's end
    return [(change["action"], change["reason"]) for change in changes if change["release"] == newest]


def lost(got: Users, candidate: int) -> list[Any]:
    """Failures that the stable would have spared users: all but those that the candidate itself answered with."""
    others = [(key, count) for key, count in got.answers.items() if key[1] != 200 and key != (f"r/{candidate}", 500)]
    return [*got.broken, *others]


ENDINGS = {"failing": "errors", "slow": "latency", "good": ""}


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_killed_and_resumed_release_ends_as_its_candidate_deserves(
    place: Place, versions: dict[str, int], kind: str, tmp_path: Path
) -> None:
    candidate, stable = versions[kind], place.client.get_endpoint(ENDPOINT)["stable"]
    with users(place, tmp_path, workers=1 if kind == "slow" else 3) as got:
        wait_for("a history of the stable", lambda: sum(got.seen.values()) >= 40, 60)
        release = command(
            place, "release", ENDPOINT, f"models:/r/{candidate}", *QUICK, "--analysis", json.dumps(GUARDS)
        )
        with killed_on_the_way(place, release, tmp_path / "driver.log"):
            before = got.answers.total()
            wait_for("users who are served while nobody drives", lambda: got.answers.total() >= before + 10, 60)
        resumed = run(place, "resume", ENDPOINT)
    found = place.client.get_endpoint(ENDPOINT)
    told = story(place)
    good = kind == "good"
    assert resumed.returncode == (0 if good else 3), resumed.stdout + resumed.stderr
    assert found["last_release"]["outcome"] == ("promoted" if good else "rolled-back")
    assert found["traffic"] == {f"r-v{candidate}" if good else stable: 100}
    assert not lost(got, candidate)
    assert [action for action, _ in told][:2] == ["start", "shift"]
    assert told[-1][0] == ("promote" if good else "rollback")
    assert ENDINGS[kind] in told[-1][1]
    assert told[-1][1] in resumed.stdout
    if kind != "failing":
        assert not any(status != 200 for _, status in got.answers)


GUARDS = [
    {"guard": "errors", "allowed": 0.03},
    {"guard": "latency", "edges": [100], "allowed": 0.2},
]
"""Fixed edges and generous proof: the test shall be short, not the candidate perfect."""


def test_other_predictions_are_caught_by_what_users_accept(
    place: Place, versions: dict[str, int], tmp_path: Path
) -> None:
    candidate, stable = versions["other"], place.client.get_endpoint(ENDPOINT)["stable"]
    script, out = tmp_path / "release.py", tmp_path / "found.json"
    script.write_text(KPI_SCRIPT)
    options = {
        "model": f"models:/r/{candidate}",
        "interval": 1,
        "hold": 3,
        "min_requests": 20,
        "warm": "none",
        "warmup": 1,
        "phase": 0,
        "deadline": 300,
        "steps": "20,50",
        "analysis": json.dumps([{"guard": "errors", "allowed": 0.03}]),
        **source(place),
    }

    def argv(verb: str) -> list[str]:
        return [
            sys.executable,
            str(script),
            place.target,
            verb,
            str(tmp_path / "counts.json"),
            str(out),
            json.dumps(options),
        ]

    with users(place, tmp_path) as got:
        wait_for("a history of the stable", lambda: sum(got.seen.values()) >= 40, 60)
        with killed_on_the_way(place, argv("release"), tmp_path / "driver.log"):
            pass
        subprocess.run(argv("resume"), timeout=1000, check=True)
    found = json.loads(out.read_text())
    assert (found["outcome"], found["traffic"]) == ("rolled-back", {stable: 100})
    assert "accepted" in found["verdict"]["reason"]
    assert not lost(got, candidate)
    assert story(place)[-1] == ("rollback", found["verdict"]["reason"])


def test_a_dead_baseline_does_not_block_the_fix(place: Place, versions: dict[str, int], tmp_path: Path) -> None:
    name = "fix"
    aliases = {"champion_alias": "", "challenger_alias": ""}  # those of the model belong to the other endpoint
    place.client.create_deployment("fix-dead", f"models:/r/{versions['dead']}", config=aliases, endpoint=name)
    try:
        with users(place, tmp_path, endpoint=name) as got:
            wait_for("callers who see the stable fail", lambda: got.answers[(f"r/{versions['dead']}", 500)] >= 40, 60)
            released = run(
                place,
                "release",
                name,
                f"models:/r/{versions['stable']}",
                "--name",
                "fix-good",
                *QUICK,
                "--analysis",
                json.dumps(GUARDS),
            )
        assert released.returncode == 0, released.stdout + released.stderr
        assert "The stable serves nothing" in released.stdout
        assert place.client.get_endpoint(name)["traffic"] == {"fix-good": 100}
    finally:
        place.client.delete_endpoint(name, {"force": True})
