"""A release with a control under live load, killed with SIGKILL on its way and resumed: like is compared with like, and it goes.

One candidate is 30% slower and has a quarter of the traffic that the stable has; another is equal. Users lose no request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faulty import register_faulty
from tests.scenarios.place import Place
from tests.scenarios.test_progressive import QUICK, command, killed_on_the_way, lost, run, users
from tests.testbed.client import wait_for

pytestmark = pytest.mark.timeout(1200)

ENDPOINT = "r"
MILLISECONDS = 200
"""A stable may take 40 ms for everything else before its answers count as slow: Envoy keeps two significant digits of a time."""

GUARDS = [
    {"guard": "errors", "allowed": 0.05},
    {"guard": "latency", "edges": [230], "allowed": 0.2},
]
ONE_STEP = [*QUICK[: QUICK.index("--steps")], "--steps", "20", "--control", "fresh"]
"""At 20% and one replica each, nothing could be said of latency without a control."""


@pytest.fixture(scope="module")
def versions(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """What each version of model ``r`` is like, by its number; the first is deployed and stable."""
    artifacts = None if place.target != "istio-local" else tmp_path_factory.mktemp("controlled")
    kinds: dict[str, float] = {"stable": MILLISECONDS, "slow": MILLISECONDS * 1.3, "equal": MILLISECONDS}
    numbers = {
        kind: register_faulty(place.tracking_uri, ENDPOINT, artifacts, milliseconds=milliseconds)
        for kind, milliseconds in kinds.items()
    }
    place.client.create_deployment(f"r-v{numbers['stable']}", f"models:/r/{numbers['stable']}", endpoint=ENDPOINT)
    yield numbers
    place.client.delete_endpoint(ENDPOINT, {"force": True})


@pytest.mark.parametrize(("kind", "outcome"), [("slow", "rolled-back"), ("equal", "promoted")])
def test_a_control_tells_a_slower_version_from_an_equal_one_and_is_gone_afterwards(
    place: Place, versions: dict[str, int], kind: str, outcome: str, tmp_path: Path
) -> None:
    candidate, stable = versions[kind], place.client.get_endpoint(ENDPOINT)["stable"]
    control = f"{stable}-control"
    seen: dict[str, Any] = {}
    with users(place, tmp_path, workers=4) as got:
        wait_for("a history of the stable", lambda: sum(got.seen.values()) >= 40, 60)
        release = command(
            place, "release", ENDPOINT, f"models:/r/{candidate}", *ONE_STEP, "--analysis", json.dumps(GUARDS)
        )
        with killed_on_the_way(place, release, tmp_path / "driver.log"):
            seen = place.client.get_endpoint(ENDPOINT)
        resumed = run(place, "resume", ENDPOINT)
    assert seen["control"] == control
    assert seen["traffic"] == {stable: 60, f"r-v{candidate}": 20, control: 20}
    assert {each["name"]: each["role"] for each in seen["deployments"]}[control] == "control"
    found = place.client.get_endpoint(ENDPOINT)
    assert found["last_release"]["outcome"] == outcome, resumed.stdout + resumed.stderr
    assert found["traffic"] == {f"r-v{candidate}" if outcome == "promoted" else stable: 100}
    assert control not in {each["name"] for each in found["deployments"]}
    assert not found["deadlines"]
    assert not lost(got, candidate)
    if kind == "slow":
        assert "latency" in resumed.stdout
        assert "on the control" in resumed.stdout
