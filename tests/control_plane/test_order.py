"""In which order things happen on a real cluster, and what stands in nobody's way: no weight before the subset, no leaked route."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import ClusterError, NotReady, NotRouted
from mlflow_istio.releases.moving import shifting
from tests.control_plane.foreign import SPLIT, History, route_named, route_names, start, weights
from tests.control_plane.freeze import freeze, wait_until_frozen
from tests.control_plane.office import ENDPOINT, ISTIO, Office
from tests.control_plane.standing import edit_as_user, scale
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane


def test_superseding_returns_traffic_to_stable_first_and_leaks_no_route(settled: Office) -> None:
    before, history = route_names(settled), History(settled)
    start(settled, "ab", 2, weight=30, header="x-arm")

    start(settled, "shadow", 3, supersede=True, mirror=10)

    assert route_names(settled) == before
    split = route_named(settled.raw("virtualservices"), SPLIT)
    assert [mirror["destination"]["subset"] for mirror in split["mirrors"]] == ["m-v3"]
    assert weights(settled) == {"m-v1": 100}
    assert history.steps() == [
        ("start", {"m-v1": 70, "m-v2": 30}),
        ("supersede", {"m-v1": 100}),
        ("start", {"m-v1": 100}),
    ]


def test_without_its_subset_a_candidate_gets_no_weight(settled: Office) -> None:
    """Argo Rollouts 4612: a canary sized for 5% got 70%, because the subset came late."""

    def without(rule: Object) -> Object:
        subsets = [subset for subset in rule["spec"]["subsets"] if subset["name"] != "m-v2"]
        return {**rule, "spec": {**rule["spec"], "subsets": subsets}}

    edit_as_user(settled, "destinationrules", without)
    wait_for("the gateway to lose the subset", lambda: settled.ask({"x-mlflow-deployment": "m-v2"})[0] == 503)

    with pytest.raises(NotRouted, match="deployment 'm-v2' gets no traffic.*status 503"):
        shifting.start(
            settled.context,
            ENDPOINT,
            strategy="canary",
            candidates=("m-v2",),
            traffic_request=TrafficRequest(weight=50),
            timeout=1.5,
        )

    assert weights(settled) == {"m-v1": 100}
    assert settled.count(30) == {"m/1": 30}
    settled.deploy(2)  # brings the subset back
    settled.canary(2, 50)
    assert set(settled.count(60)) == {"m/1", "m/2"}


def test_zero_desired_replicas_are_not_ready_and_get_no_weight(settled: Office) -> None:
    scale(settled.namespace, "m-v2", 0)
    with pytest.raises(NotReady, match="'m-v2' wants 0 replicas, which are never ready"):
        settled.cluster.wait_ready("m-v2", 5)

    with pytest.raises(NotReady, match="deployment 'm-v2' has no ready replica, so it gets no traffic"):
        settled.canary(2, 10)

    assert weights(settled) == {"m-v1": 100}
    assert read_endpoint(settled.raw("virtualservices"), ENDPOINT).release is None


def test_a_broken_baseline_does_not_block_the_fix_and_a_direct_abort_exists(settled: Office) -> None:
    settled.canary(2, 10)
    scale(settled.namespace, "m-v1", 0)
    wait_for("stable's pods to go", lambda: settled.ask({"x-mlflow-deployment": "m-v1"})[0] == 503)

    with pytest.raises(NotReady, match="'m-v1' has no ready replica"):
        shifting.abort(settled.context, ENDPOINT)  # would send everybody to nobody
    assert weights(settled) == {"m-v1": 90, "m-v2": 10}
    assert settled.promote().proxies

    assert settled.count(30) == {"m/2": 30}
    with pytest.raises(NotReady, match="'m-v1' has no ready replica"):
        settled.rollback()
    assert settled.count(10) == {"m/2": 10}


@pytest.mark.parametrize("end", ["promote", "abort"])
def test_the_other_version_keeps_running_after_the_end(settled: Office, end: str) -> None:
    settled.canary(2, 50)
    getattr(shifting, end)(settled.context, ENDPOINT)
    for version in (1, 2):
        assert settled.count(5, {"x-mlflow-deployment": f"m-v{version}"}) == {f"m/{version}": 5}
        settled.cluster.wait_ready(f"m-v{version}", 1)


def test_a_policy_that_refuses_is_heard_in_its_own_words_and_nothing_moves(settled: Office, tmp_path: Path) -> None:
    """A real ValidatingWebhookConfiguration, served by this test over TLS."""
    words = "change freeze until Monday: ask the platform team"
    settled.canary(2, 10)
    with freeze(settled.namespace, (ISTIO[0], "virtualservices"), words, tmp_path) as refused:
        wait_until_frozen(settled.namespace, ISTIO[0], "virtualservices", ENDPOINT, frozen=True)
        asked = len(refused)
        stored = settled.raw("virtualservices")

        with pytest.raises(ClusterError, match="VirtualService 'm' was not changed: the cluster refused it") as caught:
            settled.shift(50)

        assert words in caught.value.detail
        assert len(refused) == asked + 1, "a refusal is no passing trouble: it is not tried again"
        assert settled.raw("virtualservices") == stored
    wait_until_frozen(settled.namespace, ISTIO[0], "virtualservices", ENDPOINT, frozen=False)
    assert settled.shift(50).proxies
    assert weights(settled) == {"m-v1": 50, "m-v2": 50}
