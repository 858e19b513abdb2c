"""The shadow pipeline of examples/10, run for real by KFP's own local runner: to a rollback, and to promotion."""

from __future__ import annotations

import json

import pytest

from tests.kfp.conftest import Workshop, people, register

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_other_answers_stay_out_of_sight_and_the_same_go_live(workshop: Workshop) -> None:
    client = workshop.client()
    stable, same, opposite = register(), register(), register(opposite=True)
    record = {"env": {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": str(workshop.folder / "records")}}
    client.create_deployment("churn-v4", stable, endpoint="churn", config=record)
    client.update_endpoint("churn", config={"candidate": "churn-v4", "strategy": "blue-green"})
    client.promote("churn")
    before = len(client.history("churn"))
    quick = ("--deployment", json.dumps(record), "--poll-seconds", "2", "--wait-minutes", "2")
    quick += ("--options", json.dumps({"settle": 1, "agreement": 0.95}))
    run = ("10_shadow_pipeline.py", "run")

    with people(client.get_endpoint("churn"), missing=0.0) as first:
        said = workshop.python(*run, opposite, "--name", "churn-v6", *quick)
    endpoint = client.get_endpoint("churn")
    assert {name for name, weight in endpoint["traffic"].items() if weight} == {"churn-v4"}, said[-4000:]
    assert endpoint["release"] is None
    assert not endpoint["mirrors"]
    assert set(first.answers) == {("churn/4", 200)}, "users never saw the shadow"
    assert not first.broken

    with people(endpoint, missing=0.0) as second:
        said = workshop.python(*run, same, "--name", "churn-v5", *quick)
    endpoint = client.get_endpoint("churn")
    assert {name for name, weight in endpoint["traffic"].items() if weight} == {"churn-v5"}, said[-4000:]
    assert endpoint["release"] is None
    assert not endpoint["mirrors"]
    assert set(second.answers) <= {("churn/4", 200), ("churn/5", 200)}
    assert not second.broken

    story = [(change["action"], change["reason"]) for change in client.history("churn")[before:] if change["release"]]
    assert [action for action, _ in story] == ["start", "rollback", "start", "promote"]
    assert "agree" in story[-1][1], "the verdict's sentence is the reason"
