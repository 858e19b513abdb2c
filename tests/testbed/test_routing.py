"""The real path of a request: gateway, routes from istiod, endpoints from the controllers, a pod's answer."""

from __future__ import annotations

import math

import pytest

from tests.testbed.workloads import Cluster

pytestmark = pytest.mark.control_plane

_SENT = 600
# A split is wrong when it lies outside this many standard deviations; by chance that is one run in 15 million.
_DEVIATIONS = 5.5


def test_requests_reach_the_subsets_in_the_ratio_of_their_weights(cluster: Cluster) -> None:
    endpoint = cluster.create_endpoint({"v1": 80, "v2": 20})

    counts = endpoint.count(_SENT)

    assert set(counts) == {"v1", "v2"}
    assert abs(counts["v2"] - 0.2 * _SENT) < _DEVIATIONS * math.sqrt(_SENT * 0.2 * 0.8)


def test_once_the_probe_route_answers_with_a_change_no_request_follows_the_old_weights(cluster: Cluster) -> None:
    endpoint = cluster.create_endpoint({"v1": 100, "v2": 0})
    assert endpoint.count(100) == {"v1": 100}

    endpoint.shift({"v1": 0, "v2": 100}, change="second")
    endpoint.wait_routed("second")

    assert endpoint.count(100) == {"v2": 100}
