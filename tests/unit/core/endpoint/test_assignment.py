"""A user belongs to one arm, in every process and language, in the proportion of the weights."""

from __future__ import annotations

import hashlib
import math

import pytest
from scipy.stats import binom

from mlflow_istio.core.endpoint.assignment import assignment_headers, choose_arm
from mlflow_istio.core.matching.requests import Request, answering_route
from mlflow_istio.core.mesh.virtual_service import write_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, StateConflict
from tests.support.endpoint_values import an_endpoint, carrying, started

USERS = [f"user-{number}" for number in range(20_000)]


def spelled_out(user: str, weights: dict[str, int], salt: str) -> str:
    """The formula of the documentation once more, as another language would have it."""
    scores = {
        arm: -math.log((int(hashlib.sha256(f"{salt}\0{arm}\0{user}".encode()).hexdigest()[:16], 16) + 0.5) / 2.0**64)
        / w
        for arm, w in weights.items()
        if w
    }
    return min(scores, key=lambda arm: scores[arm])


@pytest.mark.parametrize(
    ("user", "salt", "arm"),
    [
        ("alice", "r1", "v1"),
        ("bob", "r1", "v1"),
        ("carol", "r1", "v1"),
        ("dave", "r1", "v1"),
        ("user-42", "r1", "v1"),
        ("ユーザー", "r1", "v2"),
    ],
)
def test_known_users_have_known_arms(user: str, salt: str, arm: str) -> None:
    """These never change: a user who moved would see another model."""
    weights = {"v1": 70, "v2": 30}
    assert choose_arm(user, weights, salt) == arm == spelled_out(user, weights, salt)


@pytest.mark.parametrize(
    "weights",
    [{"v1": 90, "v2": 10}, {"v1": 50, "v2": 50}, {"v1": 99, "v2": 1}, {"v1": 60, "v2": 30, "v3": 10}, {"a": 3, "b": 1}],
)
def test_shares_are_the_weights_within_binomial_bounds(weights: dict[str, int]) -> None:
    arms = [choose_arm(user, weights, "r1") for user in USERS]
    for arm, weight in weights.items():
        low, high = binom.interval(0.99999, len(USERS), weight / sum(weights.values()))
        assert low <= arms.count(arm) <= high


def test_another_release_divides_users_anew() -> None:
    weights = {"v1": 50, "v2": 50}
    same = sum(choose_arm(user, weights, "r1") == choose_arm(user, weights, "r2") for user in USERS)
    low, high = binom.interval(0.99999, len(USERS), 0.5)
    assert low <= same <= high


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"v1": 90, "v2": 10}, {"v1": 50, "v2": 50}),
        ({"v1": 50, "v2": 30, "v3": 20}, {"v1": 20, "v2": 30, "v3": 50}),
        ({"v1": 100, "v2": 0}, {"v1": 99, "v2": 1}),
        ({"v1": 10, "v2": 90}, {"v1": 100, "v2": 0}),
    ],
)
def test_users_leave_an_arm_only_for_one_that_grew_against_it(before: dict[str, int], after: dict[str, int]) -> None:
    moves = set()
    for user in USERS[:5000]:
        old, new = choose_arm(user, before, "r1"), choose_arm(user, after, "r1")
        if old != new:
            moves.add((old, new))
            assert after[new] * before[old] > after[old] * before[new]
    assert moves


def test_an_arm_without_weight_gets_nobody_and_all_without_is_an_error() -> None:
    assert {choose_arm(user, {"v1": 1, "v2": 0}, "r") for user in USERS[:100]} == {"v1"}
    with pytest.raises(InvalidInput, match="no arm has any weight"):
        choose_arm("alice", {"v1": 0}, "r")
    with pytest.raises(InvalidInput, match="no arm has any weight"):
        choose_arm("alice", {}, "r")


@pytest.mark.parametrize(
    ("traffic_request", "header", "value"),
    [
        (TrafficRequest(header="X-Arm", weight=50), "X-Arm", "r1.{}"),
        (TrafficRequest(cookie="arm", weight=50), "cookie", "arm=r1.{}"),
        (TrafficRequest(header="plan", weight=50, values={"v1": "free", "v2": "free-{}"}), "plan", None),
    ],
)
def test_the_headers_reach_the_arm_through_the_routes(
    traffic_request: TrafficRequest, header: str, value: str | None
) -> None:
    endpoint = started("ab", traffic_request=traffic_request)
    virtual_service = write_endpoint(carrying(an_endpoint()), endpoint)
    reached = set()
    for user in USERS[:50]:
        sent = assignment_headers(endpoint, user)
        arm = choose_arm(user, {"v1": 50, "v2": 50}, "r1")
        if value is not None:
            assert sent == {header: value.format(arm)}
        route = answering_route(virtual_service, Request(headers={name.lower(): text for name, text in sent.items()}))
        assert route is not None
        assert route["route"][0]["destination"]["subset"] == arm
        reached.add(arm)
    assert reached == {"v1", "v2"}


@pytest.mark.parametrize("endpoint", [an_endpoint(), started("canary"), transitions.abort(started("ab"))])
def test_without_an_open_ab_release_the_error_says_how_to_start_one(endpoint: object) -> None:
    with pytest.raises(StateConflict, match="endpoint 'churn' has no open A/B release.*-C strategy=ab -C header=NAME"):
        assignment_headers(endpoint, "alice")  # type: ignore[arg-type]
