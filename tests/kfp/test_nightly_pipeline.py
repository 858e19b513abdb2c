"""The nightly pipeline of examples/11, run for real by KFP's own local runner, night after night."""

from __future__ import annotations

import json

import pytest

from tests.kfp.conftest import QUICK, Workshop, people, register

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_each_night_tries_what_is_new_and_nothing_twice(workshop: Workshop) -> None:
    client = workshop.client()

    def night() -> list[str]:
        """A run of the pipeline; the ledger's new lines."""
        before = len(client.history("churn"))
        workshop.python("11_nightly_pipeline.py", "run", "--steps", "50", "--options", json.dumps(QUICK))
        return [change["action"] for change in client.history("churn")[before:]]

    register()
    with people(client.get_endpoint("churn"), missing=0.1) as first:
        assert night()[-1] == "promote"
    assert client.get_endpoint("churn")["stable"] == "churn-v4"
    assert not first.broken
    assert first.answers[("churn/4", 500)] == 0

    with people(client.get_endpoint("churn"), missing=0.1) as second:
        assert night() == [], "the newest is the champion"
        register(whole=False)
        assert night()[-1] == "rollback"
        assert night() == [], "what was worse is not tried again"
    endpoint = client.get_endpoint("churn")
    assert {name for name, weight in endpoint["traffic"].items() if weight} == {"churn-v4"}
    assert endpoint["release"] is None
    assert not second.broken
    assert second.answers[("churn/4", 500)] == 0
    assert second.answers[("churn/5", 500)] > 0, "it had users, until it was found worse"
