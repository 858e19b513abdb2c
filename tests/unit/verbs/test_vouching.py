"""Callers at a gateway who choose their arm count on a cluster: a release says so, unless somebody vouches for them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.in_memory import World
from tests.support.in_memory_verbs import CLUSTER, LOCAL, InMemoryVerbs

AB = {"strategy": "ab", "cookie": "arm", "detach": True}


@pytest.mark.parametrize(
    ("target", "gateway", "options", "said"),
    [
        (CLUSTER, "istio-system/gateway", AB, True),
        (CLUSTER, "istio-system/gateway", {**AB, "randomised": True}, False),
        (CLUSTER, "istio-system/gateway", {**AB, "analysis": "none"}, False),
        (CLUSTER, "istio-system/gateway", {"detach": True}, False),
        (CLUSTER, None, AB, False),
        (LOCAL, None, AB, False),
    ],
)
def test_who_counts_is_said_where_strangers_may_choose(
    target: str, gateway: str | None, options: dict[str, Any], said: bool
) -> None:
    verbs = InMemoryVerbs(World(), target)
    verbs.create("churn-v1", "models:/churn/1", None, "churn", {"gateway": gateway} if gateway else {})
    verbs.release("churn", "models:/churn/2", options)
    words = [line for line in verbs.warned if "who choose their arm" in line]
    assert len(words) == said
    assert all("count for errors, latency" in line and "randomised=true" in line for line in words)
