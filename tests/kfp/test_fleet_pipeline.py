"""The fleet pipeline of examples/12, run for real by KFP's own local runner: one endpoint's failure is its own."""

from __future__ import annotations

import json

import pytest

from tests.kfp.conftest import QUICK, ROOT, Workshop, people, register

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_each_endpoint_is_released_and_undone_for_itself(workshop: Workshop) -> None:
    client = workshop.client()
    good, bad = register(), register(whole=False)
    # The stable must fill in missing values before a candidate can fail to; version 1 does not.
    client.create_deployment("spam-v1", good, endpoint="spam", config={"champion_alias": "", "challenger_alias": ""})
    releases = json.dumps([{"endpoint": "churn", "model_uri": good}, {"endpoint": "spam", "model_uri": bad}])
    example = str(ROOT / "examples" / "12_fleet_pipeline.py")
    options = json.dumps({**QUICK, "deadline": 400})
    with (
        people(client.get_endpoint("churn"), workers=1, seconds=560),
        people(client.get_endpoint("spam"), workers=1, missing=0.3, seconds=560),
    ):
        said = workshop.run(
            *("python", example, "run", releases, "--steps", "50", "--options", options), expect=1, timeout=560
        )
    churn, spam = client.get_endpoint("churn"), client.get_endpoint("spam")
    assert churn["stable"] == f"churn-v{good.rpartition('/')[2]}", said[-4000:]
    assert {name for name, weight in spam["traffic"].items() if weight} == {"spam-v1"}
    assert (churn["release"], spam["release"]) == (None, None)
    assert churn["last_release"]["id"] == spam["last_release"]["id"], "the run's id, at every endpoint"
    assert (churn["last_release"]["outcome"], spam["last_release"]["outcome"]) == ("promoted", "rolled-back")
