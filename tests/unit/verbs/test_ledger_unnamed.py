"""Where nobody names the ledger, what must not wait goes on all the same, and what it changes is recorded later."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import World, with_canary
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs, Surroundings

REFUSED = "no MLflow tracking server is named.*MLFLOW_TRACKING_URI"


def unnamed(world: World, later: float = 0.0) -> InMemoryVerbs:
    return InMemoryVerbs(Surroundings(world=world, ledger_named=False, later=later), CLUSTER)


@pytest.mark.parametrize("action", ["rollback", "abort"])
def test_traffic_returns_and_the_next_command_with_an_address_records_it(action: str) -> None:
    world = with_canary()
    recorded = world.history()
    verbs = unnamed(world)
    result = verbs.update_endpoint("churn", {"action": action})
    assert result.view["traffic"] == {"churn-v1": 100}
    assert world.history() == recorded
    assert len(world.endpoint().outbox) == 1
    assert len(verbs.warned) == 1
    assert "waits on endpoint 'churn' itself" in verbs.warned[0]
    assert (
        "no MLflow tracking server is named: the next command with the environment variable MLFLOW_TRACKING_URI"
        in (verbs.warned[0])
    )
    InMemoryVerbs(world, CLUSTER).history("churn")
    assert [name for _, name in world.history()] == [*(name for _, name in recorded), action]
    assert world.endpoint().outbox == ()


@pytest.mark.parametrize("action", ["rollback", "abort"])
def test_a_dry_run_of_it_shows_the_difference(action: str) -> None:
    world = with_canary()
    before = world.text()
    assert unnamed(world).update_endpoint("churn", {"action": action, "dry_run": True}).difference
    assert world.text() == before


@pytest.mark.parametrize(
    "options", [{"weight": 20}, {"action": "promote"}, {"action": "rollback", "to": "1"}, {"action": "pause"}]
)
def test_what_can_wait_is_refused(options: dict[str, Any]) -> None:
    world = with_canary()
    before = world.text()
    with pytest.raises(InvalidInput, match=REFUSED):
        unnamed(world).update_endpoint("churn", options)
    assert world.text() == before


def test_what_is_due_is_ended_by_a_look_and_recorded_later() -> None:
    world = with_canary()
    shifting.promote(world.context, "churn", keep_old=timedelta(seconds=60))
    verbs = unnamed(world, later=61.0)
    assert "churn-v1" not in verbs.endpoint("churn")["deployments"]
    assert world.cluster.get("Deployment", "churn-v1") is None
    assert [change.action for change in world.endpoint().outbox] == ["remove"]
    assert any("MLFLOW_TRACKING_URI" in line for line in verbs.warned)
    assert [view["name"] for view in verbs.endpoints()] == ["churn"]
