"""What pods need and is not there (a Secret, an account, an image) is told of by the first word on it, not at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

from tests.control_plane.namespaces import fresh_namespace, give_least_rights
from tests.node.client import kubectl
from tests.node.endpoint import Endpoint
from tests.node.test_pods_that_cannot_run import created

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

NOT_THERE = {
    "secret": ('env_from_secret={"MLFLOW_TRACKING_PASSWORD": "mlflow/password"}', 'secret "mlflow" not found'),
    "account": ("service_account=models", 'serviceaccount "models" not found'),
    "image": ("image=10.244.0.1:9/not-there:1", "10.244.0.1:9/not-there:1"),
}


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    with fresh_namespace("lacks") as name:
        give_least_rights(name)
        yield Endpoint(name, server)


@pytest.mark.parametrize("what", NOT_THERE)
def test_it_is_told_of_within_seconds(endpoint: Endpoint, what: str) -> None:
    option, words = NOT_THERE[what]
    began = datetime.now(timezone.utc)
    said = endpoint.run(*created(1, "-C", option), expect=1)
    over = datetime.now(timezone.utc)
    assert words in said
    assert "no traffic has changed" in said
    assert "log can't be read" not in said, "a container that never ran is not asked for its log"
    events = json.loads(kubectl("get", "events", "-n", endpoint.namespace, "-o", "json"))["items"]
    times = [datetime.fromisoformat(one["firstTimestamp"]) for one in events if words in one["message"]]
    first = min(at for at in times if at >= began.replace(microsecond=0))
    print(f"{what}: told {(over - first).total_seconds():.0f} s after the first word")
    assert over - first < timedelta(seconds=30)
