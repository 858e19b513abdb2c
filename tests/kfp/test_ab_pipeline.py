"""The A/B/n pipeline of examples/09, run for real by KFP's own local runner: to a winner, and to none."""

from __future__ import annotations

import json

import pytest

from tests.kfp.conftest import Workshop, people, register

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_the_arm_that_fails_least_wins_and_equal_arms_go_back(workshop: Workshop) -> None:
    client = workshop.client()
    whole = [register() for _ in range(3)]
    run = ("09_ab_pipeline.py", "run")
    quick = ("--poll-seconds", "2", "--options", json.dumps({"delta": 1.05, "phase": 0}))
    with people(client.get_endpoint("churn"), missing=0.3, fresh=True) as first:
        said = workshop.python(
            *run, whole[0], "models:/churn/2", "--names", "churn-b", "churn-c", "--wait-minutes", "3", *quick
        )
    endpoint = client.get_endpoint("churn")
    assert endpoint["traffic"] == {"churn-b": 100}, said[-4000:]
    assert endpoint["release"] is None
    assert not first.broken
    assert first.answers[("churn/4", 500)] == 0
    assert {version for version, _ in first.answers} == {"churn/1", "churn/2", "churn/4"}, "all arms had users"

    with people(endpoint, missing=0.3, fresh=True) as second:
        split = json.dumps({"cookie": "arm", "weights": {"churn-b": 34, "churn-d": 33, "churn-e": 33}})
        workshop.python(
            *run, *whole[1:], "--names", "churn-d", "churn-e", "--split", split, "--wait-minutes", "0.2", *quick
        )
    endpoint = client.get_endpoint("churn")
    assert {name for name, weight in endpoint["traffic"].items() if weight} == {"churn-b"}
    assert endpoint["release"] is None
    assert not second.broken
    assert {status for _, status in second.answers} == {200}
    assert {version for version, _ in second.answers} == {"churn/4", "churn/5", "churn/6"}

    story = [change["action"] for change in client.history("churn") if change["release"]]
    assert story.count("start") == 2
    assert story.count("promote") == 1
    assert story[-1] == "rollback"
    assert len({change["release"] for change in client.history("churn") if change["release"]}) == 2
