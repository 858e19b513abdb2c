"""Back to any earlier change, with real requests: the versions come back, then the traffic, and no request is lost."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException

from tests.scenarios.place import Place, inside_bounds


def test_an_earlier_split_comes_back_with_the_deployment_it_needs(settled: Place) -> None:
    settled.do(strategy="canary", candidate="m-v3", weight=30)
    middle = settled.client.get_endpoint("m")["change"]["sequence"]
    settled.do(action="abort")
    settled.client.delete_deployment("m-v3")
    assert "m-v3" not in [deployment["name"] for deployment in settled.client.list_deployments("m")]
    with settled.load() as seen:
        found = settled.client.rollback("m", to=middle, redeploy={"ready_timeout": 120})
        assert found["traffic"] == {"m-v1": 70, "m-v3": 30}
        assert (found["release"]["state"], found["release"]["candidates"]) == ("paused", ["m-v3"])
        again = settled.send(1000)
    assert not seen.failures
    assert not again.failures
    assert inside_bounds(again.versions["m/3"], 1000, 0.30)
    assert [change["action"] for change in settled.client.history("m")[-2:]] == ["deploy", "rollback"]
    assert settled.tags(3)["role"] == "candidate"

    settled.do(action="promote")
    first = settled.client.rollback("m", to=1)
    assert (first["traffic"], first["release"]) == ({"m-v1": 100}, None)
    assert settled.send(200).versions == {"m/1": 200}
    assert settled.aliases()["champion"] == 1


def test_what_can_not_come_back_moves_nothing(settled: Place) -> None:
    before = settled.client.get_endpoint("m")
    with pytest.raises(MlflowException, match="endpoint 'm' has no routing change '9999'"):
        settled.client.rollback("m", to=9999)
    with pytest.raises(MlflowException, match="option 'to' goes with action=rollback only"):
        settled.do(action="promote", to=1)
    with pytest.raises(MlflowException, match="option 'weight' has no effect with action=rollback and 'to'"):
        settled.do(action="rollback", to=1, weight=10)
    with pytest.raises(MlflowException, match="option 'redeploy' has no effect without 'to'"):
        settled.do(action="rollback", redeploy={"replicas": 2})
    assert settled.client.get_endpoint("m") == before
