"""Train, register, release: the pipeline of examples/08 run for real by KFP's own local runner, to both of its ends."""

from __future__ import annotations

import json

import pytest

from tests.kfp.conftest import QUICK, Workshop, people

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_a_candidate_that_fails_is_rolled_back_and_a_good_one_promoted(workshop: Workshop) -> None:
    """One mesh for both ends: the stable must fill in missing values before a candidate can fail to."""
    client = workshop.client()
    options = json.dumps(QUICK)
    with people(client.get_endpoint("churn"), missing=0.0) as first:
        said = workshop.python("08_release_pipeline.py", "run", "--options", options)
    assert client.get_endpoint("churn")["traffic"] == {"churn-v4": 100}, said[-3000:]
    assert not first.broken
    assert {status for _, status in first.answers} == {200}

    with people(client.get_endpoint("churn")) as second:
        said = workshop.python("08_release_pipeline.py", "run", "--no-fill-missing", "--options", options, expect=1)
    assert "ended as rolled-back" in said
    endpoint = client.get_endpoint("churn")
    assert endpoint["traffic"] == {"churn-v4": 100, "churn-v5": 0} or endpoint["traffic"] == {"churn-v4": 100}
    assert not second.broken
    assert second.answers[("churn/4", 500)] == 0, "users lose nothing that stable answers"
    assert second.answers[("churn/5", 500)] > 0

    story = [(change["action"], change["who"]) for change in client.history("churn")]
    assert [action for action, _ in story].count("promote") == 1
    assert ("rollback", "the pipeline") in story
    releases = {change["release"] for change in client.history("churn") if change["release"]}
    assert len(releases) == 2, "each run of the pipeline is one release, named by its job"
