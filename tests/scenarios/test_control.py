"""Releases with a control under live load, beside one stable replica that has more to do than it can: like is compared with like.

The model answers one request after the other, so the stable queues: a candidate with a third of its load answers faster than it
even where it is 30% slower. One candidate is, the other is equal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_istio.core.release.guards.counts import histogram_of
from mlflow_istio.wiring.connection import connection_to
from tests.faulty import register_faulty
from tests.scenarios.place import Place
from tests.scenarios.test_progressive import QUICK, command, killed_on_the_way, lost, run, story, users
from tests.testbed.client import wait_for

pytestmark = pytest.mark.timeout(900)

ENDPOINT = "k"
MILLISECONDS = 86
"""What Envoy counts as "at most 100 ms" goes up to 110 ms: 24 ms are left for everything else, and 30% more is always slow."""

ONE_STEP = [*QUICK[: QUICK.index("--steps")], "--steps", "20", "--analysis"]
GUARDS = json.dumps([{"guard": "latency", "edges": [100], "margin": 3, "allowed": {"odds_ratio": 8}}])
"""Odds that no stall of a busy machine makes: of the equal one they are 1, of the slow one beyond all bounds."""
OVERLOAD_MS = 250
"""What an overloaded replica's answers take longer than."""


@pytest.fixture(scope="module")
def versions(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """What each version of model ``k`` is like, by its number; the first is deployed and stable."""
    artifacts = None if place.target != "istio-local" else tmp_path_factory.mktemp("controlled")
    kinds: dict[str, float] = {"stable": 1.0, "slow": 1.3, "equal": 1.0}
    numbers = {
        kind: register_faulty(place.tracking_uri, ENDPOINT, artifacts, milliseconds=MILLISECONDS * times, queues=True)
        for kind, times in kinds.items()
    }
    place.client.create_deployment(f"k-v{numbers['stable']}", f"models:/k/{numbers['stable']}", endpoint=ENDPOINT)
    yield numbers
    place.client.delete_endpoint(ENDPOINT, {"force": True})


def slow_shares(place: Place, *deployments: str) -> dict[str, float]:
    """Deployment to the share of its answers so far that took longer than the source's edge nearest below `OVERLOAD_MS`."""
    connection = connection_to(place.target)
    metrics = connection.metrics("envoy", envoy_url=os.environ.get("GATEWAY_ADMIN_URL"))
    assert metrics is not None
    found = {name: histogram_of(reading) for name, reading in metrics.read(ENDPOINT, deployments).items()}
    return {
        name: 1 - counts[max((edge for edge in counts if float(edge) <= OVERLOAD_MS), key=float)] / counts["+Inf"]
        for name, counts in found.items()
    }


@pytest.mark.parametrize(
    ("kind", "control", "outcome"), [("slow", "auto", "rolled-back"), ("equal", "fresh", "promoted")]
)
def test_a_slower_version_is_found_against_a_control_and_an_equal_one_promoted(
    place: Place, versions: dict[str, int], kind: str, control: str, outcome: str, tmp_path: Path
) -> None:
    stable, candidate = place.client.get_endpoint(ENDPOINT)["stable"], f"k-v{versions[kind]}"
    twin = f"{stable}-control"
    release = ["release", ENDPOINT, f"models:/k/{versions[kind]}", *ONE_STEP, GUARDS, "--control", control]
    with users(place, tmp_path, workers=4, endpoint=ENDPOINT) as got:
        wait_for("a history of the stable", lambda: sum(got.seen.values()) >= 40, 60)
        if kind == "equal":  # the other is found before anybody could be killed
            with killed_on_the_way(place, command(place, *release), tmp_path / "driver.log", ENDPOINT):
                during = place.client.get_endpoint(ENDPOINT)
            assert during["control"] == twin
            assert during["traffic"] == {stable: 60, candidate: 20, twin: 20}
            release = ["resume", ENDPOINT]
        ended = run(place, *release)
        shares = slow_shares(place, stable, candidate)
    found = place.client.get_endpoint(ENDPOINT)
    assert found["last_release"]["outcome"] == outcome, ended.stdout + ended.stderr
    assert found["traffic"] == {candidate if outcome == "promoted" else stable: 100}
    assert twin not in {each["name"] for each in found["deployments"]}
    assert not found["deadlines"]
    assert not lost(got, versions[kind])
    assert shares[candidate] < shares[stable], "beside the stable itself, the candidate passes for the faster one"
    if kind == "slow":
        assert "latency, slower than 100 ms" in story(place, ENDPOINT)[-1][1]
        assert "on the control" in story(place, ENDPOINT)[-1][1]
