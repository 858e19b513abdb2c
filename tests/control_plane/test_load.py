"""10,000 requests through the real gateway during each strategy: none fails, none meets an absent subset, splits are as asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from scipy import stats

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.releases.deploying.removal import delete
from mlflow_istio.releases.moving import shifting
from tests.control_plane.load import Load, is_split, load_on
from tests.control_plane.office import ENDPOINT, Office

pytestmark = pytest.mark.control_plane

REQUESTS = 10_000
"""Each strategy's phases together are this many or more; those that meet a change come on top."""


def judge(load: Load, phases: dict[str, dict[str, int]]) -> None:
    """No request failed, and every settled phase was split as asked."""
    assert load.failures == []
    for phase, shares in phases.items():
        assert is_split(load.answers[phase], shares), (phase, load.answers[phase])
    assert load.total >= REQUESTS


def start(office: Office, strategy: str, *versions: int, **traffic_request: Any) -> None:
    names = tuple(f"m-v{version}" for version in versions)
    shifting.start(
        office.context, ENDPOINT, strategy=strategy, candidates=names, traffic_request=TrafficRequest(**traffic_request)
    )


def test_a_canary_from_its_deployment_to_the_end_of_the_old_version(settled: Office) -> None:
    with load_on(settled.cluster.address(ENDPOINT)) as load:
        settled.deploy(4)
        for weight in (5, 25, 50):
            settled.canary(4, weight) if weight == 5 else settled.shift(weight)
            load.settled(f"{weight}%", 2000)
        settled.promote()
        load.settled("promoted", 2000)
        settled.rollback()
        load.settled("rolled back", 2000)
        delete(settled.context, "m-v4")
    judge(
        load,
        {
            "5%": {"m/1": 95, "m/4": 5},
            "25%": {"m/1": 75, "m/4": 25},
            "50%": {"m/1": 50, "m/4": 50},
            "promoted": {"m/4": 100},
            "rolled back": {"m/1": 100},
        },
    )


def test_three_arms_with_users_that_stay_and_users_nobody_knows(settled: Office) -> None:
    address = settled.cluster.address(ENDPOINT)
    with load_on(address) as unknown, load_on(address, {"x-arm": "gold"}) as gold:
        start(
            settled, "ab", 2, 3, header="x-arm", weights={"m-v1": 50, "m-v2": 30, "m-v3": 20}, values={"m-v3": "gold"}
        )
        unknown.settled("first", 2500)
        gold.settled("first", 1)
        shifting.shift(settled.context, ENDPOINT, TrafficRequest(weights={"m-v1": 20, "m-v2": 40, "m-v3": 40}))
        unknown.settled("second", 2500)
        gold.settled("second", 1)
        shifting.promote(settled.context, ENDPOINT, candidate="m-v2")
        unknown.settled("promoted", 1000)
        gold.settled("promoted", 1)
    assert unknown.failures == gold.failures == []
    assert is_split(unknown.answers["first"], {"m/1": 50, "m/2": 30, "m/3": 20})
    assert is_split(unknown.answers["second"], {"m/1": 20, "m/2": 40, "m/3": 40})
    assert set(gold.answers["first"]) == set(gold.answers["second"]) == {"m/3"}
    assert set(unknown.answers["promoted"]) == set(gold.answers["promoted"]) == {"m/2"}
    assert unknown.total + gold.total >= REQUESTS


def test_blue_green_switches_there_and_back(settled: Office) -> None:
    expected = {}
    with load_on(settled.cluster.address(ENDPOINT)) as load:
        for switch in range(3):
            start(settled, "blue-green", 2)
            load.settled(f"before {switch}", 1200)
            settled.promote()
            load.settled(f"after {switch}", 1200)
            settled.rollback()
            load.settled(f"back {switch}", 1000)
            expected |= {
                f"before {switch}": {"m/1": 100},
                f"after {switch}": {"m/2": 100},
                f"back {switch}": {"m/1": 100},
            }
    judge(load, expected)


def test_a_shadow_gets_its_share_of_copies_and_answers_nobody(settled: Office) -> None:
    def copies() -> int:
        address = settled.cluster.address(ENDPOINT)
        pinned = {**address.headers, **settled.keyed({"x-mlflow-deployment": "m-v2"})}
        return len(json.loads(requests.get(f"{address.url}/seen", headers=pinned, timeout=60).text))

    with load_on(settled.cluster.address(ENDPOINT)) as load:
        before = copies()
        start(settled, "shadow", 2, mirror=30)
        load.settled("mirrored", REQUESTS)
        shifting.abort(settled.context, ENDPOINT)
        load.settled("aborted", 200)
        after = copies()
        load.settled("later", 500)
        assert copies() == after, "no copy after the abort"
    judge(load, {"mirrored": {"m/1": 100}, "aborted": {"m/1": 100}, "later": {"m/1": 100}})
    mirrored = sum(load.answers["mirrored"].values())
    low, _ = stats.binom.interval(1 - 1e-6, mirrored, 0.3)
    _, high = stats.binom.interval(1 - 1e-6, load.total, 0.3)
    assert low <= after - before <= high
