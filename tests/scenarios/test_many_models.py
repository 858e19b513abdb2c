"""Several models under one host, each with a release of its own, shown by real requests on both targets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException

from mlflow_istio.verbs import Verbs
from tests.scenarios.place import BODY, VERSION, Place, inside_bounds

ALIASES = {"champion_alias": "", "challenger_alias": "", "ready_timeout": 120}
"""Those of model m belong to the scenarios' own endpoint."""


@pytest.fixture
def shared(place: Place) -> Iterator[Place]:
    """Endpoints ``chat`` (by path) and ``rank`` (by header) under the host ``models``."""
    options = {"under": "models", **ALIASES}
    if place.target != "istio-local":
        options["host"] = "models.example"
        options["gateway"] = os.environ["MLFLOW_ISTIO_GATEWAY"]
    place.client.create_deployment(
        "chat-v1", "models:/m/1", endpoint="chat", config={**options, "path": "/api/v1/chat"}
    )
    place.client.create_deployment(
        "rank-v1", "models:/m/3", endpoint="rank", config={**options, "match_header": "model-version=rank"}
    )
    yield place
    for name in ("chat", "long", "rank"):
        place.client.delete_endpoint(name, {"force": True})


def who(view: dict[str, Any], count: int, path: str | None = None, **headers: str) -> dict[str, int]:
    """Who answers scoring requests at the endpoint's own address, or at another path of the same host."""
    base = view["url"].removesuffix("/api/v1/chat")
    url = view["scoring_url"] if path is None else base + path
    seen: dict[str, int] = {}
    with requests.Session() as session:
        for _ in range(count):
            answer = session.post(url, json=BODY, headers={**view["headers"], **headers}, timeout=60)
            name = answer.headers.get(VERSION, "") if answer.status_code == 200 else str(answer.status_code)
            seen[name] = seen.get(name, 0) + 1
    return seen


def test_models_share_a_host_by_path_and_header_each_with_its_own_release(shared: Place) -> None:
    chat, rank = (shared.client.get_endpoint(name) for name in ("chat", "rank"))
    assert chat["url"].endswith("/api/v1/chat")
    assert rank["headers"]["model-version"] == "rank"
    assert who(chat, 20) == {"m/1": 20}
    assert who(chat, 5, "/api/v1/chat") == {"m/1": 5}, "the path itself is scoring"
    assert who(rank, 20) == {"m/3": 20}
    assert who(chat, 5, "/elsewhere") == {"404": 5}, "nobody's requests"
    assert who(chat, 5, "/api/v1/chatter") == {"404": 5}, "a longer name is another path"
    assert who(chat, 5, **{"model-version": "rank"}) == {"m/1": 5}, "a path is more specific than a header alone"

    config = {"strategy": "canary", "weight": 30, "ready_timeout": 120}
    shared.client.create_deployment("chat-v2", "models:/m/2", endpoint="chat", config=config)
    seen = who(chat, 500)
    assert set(seen) == {"m/1", "m/2"}
    assert inside_bounds(seen["m/2"], 500, 0.30)
    assert who(chat, 5, **{"x-mlflow-deployment": "chat-v2"}) == {"m/2": 5}
    assert who(rank, 20) == {"m/3": 20}, "the other one's release is none of its business"
    shared.client.route("chat", to="chat-v2", name="deep", match={"uri": {"prefix": "/api/v1/chat/deep/"}})
    assert who(chat, 5, "/api/v1/chat/deep/invocations") == {"m/2": 5}
    with pytest.raises(MlflowException, match="outside of what 'models' hands on to endpoint 'chat'"):
        shared.client.route("chat", to="chat-v2", name="lost", match={"uri": {"prefix": "/deep/"}})
    shared.client.route("chat", remove="deep")
    shared.client.promote("chat")
    assert who(chat, 50) == {"m/2": 50}
    shared.client.rollback("chat")
    assert who(chat, 50) == {"m/1": 50}
    assert [change["action"] for change in shared.client.history("rank")][-1] == "deploy"

    config = {"under": "models", "path": "/api/v1/chat/long", **ALIASES}
    with pytest.raises(
        MlflowException, match="endpoint 'long' can't have /api/v1/chat, which belongs to endpoint 'chat'"
    ):
        shared.client.create_deployment(
            "long-v1", "models:/m/2", endpoint="long", config={**config, "path": "/api/v1/chat"}
        )
    shared.client.create_deployment("long-v1", "models:/m/2", endpoint="long", config=config)
    long = shared.client.get_endpoint("long")
    assert who(long, 10) == {"m/2": 10}, "the longer path stands first, though it came last"
    assert who(chat, 10) == {"m/1": 10}

    shared.client.delete_endpoint("chat")
    assert who(long, 10) == {"m/2": 10}
    assert who(rank, 10) == {"m/3": 10}
    assert who(long, 5, "/api/v1/chat") == {"404": 5}
    for name in ("long", "rank"):
        shared.client.delete_endpoint(name)
    cluster = Verbs(shared.target)._read().cluster
    assert cluster.get("VirtualService", "models") is None
    assert cluster.get("Service", "models") is None
