"""What breaks on a real cluster is one clear error, traffic stays where it was, and the same command later finishes."""

from __future__ import annotations

import threading

import pytest
from kubernetes import client

from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import ClusterError, NotReady, NotRouted
from mlflow_istio.releases.moving import shifting
from tests.control_plane.namespaces import admin
from tests.control_plane.office import ENDPOINT, Office, open_office
from tests.testbed.client import Testbed, wait_for

pytestmark = pytest.mark.control_plane


def only_line(error: Exception) -> str:
    """The error's first line; there is no second one but detail."""
    return str(error).splitlines()[0]


def test_an_image_that_cannot_be_pulled_is_named_early_and_taken_away_and_the_same_name_later_works(
    office: Office,
) -> None:
    office.deploy(1)

    with pytest.raises(NotReady, match="m-v2.*ImagePullBackOff.*taken away") as caught:
        office.deploy(2, image="invalid/image:1", strategy="canary")

    assert 'Back-off pulling image "invalid/image:1"' in caught.value.detail
    assert office.cluster.get("Deployment", "m-v2") is None
    assert office.count(20) == {"m/1": 20}
    office.deploy(2, image="serving", strategy="canary")
    assert office.count(5, {"x-mlflow-deployment": "m-v2"}) == {"m/2": 5}


def test_a_server_that_crashes_is_shown_with_its_last_log_lines(office: Office) -> None:
    office.deploy(1)

    with pytest.raises(NotReady, match="m-v2.*CrashLoopBackOff") as caught:
        office.deploy(2, env={"MODE": "crash"})

    assert "no such model: m/2" in caught.value.detail
    assert office.count(10) == {"m/1": 10}


def test_a_server_that_never_gets_ready_is_reported_when_the_time_is_up(office: Office) -> None:
    office.deploy(1)

    with pytest.raises(NotReady, match="m-v2' did not come up within 2 s: 0 of 1 replicas are ready"):
        office.deploy(2, env={"MODE": "unready"}, ready_timeout=2.0)

    assert office.count(10) == {"m/1": 10}


def test_a_broken_update_leaves_the_old_pods_serving(office: Office) -> None:
    from mlflow_istio.releases.deploying.deployments import update

    office.deploy(1)

    with pytest.raises(NotReady, match="ImagePullBackOff"):
        update(office.context, "m-v1", image="invalid/image:2")

    assert office.count(20) == {"m/1": 20}
    update(office.context, "m-v1", image="serving")
    assert office.count(20) == {"m/1": 20}


def test_a_quota_on_pods_is_told_in_its_own_words_and_once_it_is_gone_the_same_command_finishes(office: Office) -> None:
    office.deploy(1)
    with admin() as api:
        core = client.CoreV1Api(api)
        core.create_namespaced_resource_quota(
            office.namespace, {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
        )
        wait_for("the quota", lambda: core.read_namespaced_resource_quota("few", office.namespace).status.used or {})

        with pytest.raises(NotReady, match="m-v2.*FailedCreate.*taken away") as caught:
            office.deploy(2)
        assert "exceeded quota: few" in caught.value.detail

        assert office.cluster.get("Deployment", "m-v2") is None
        assert office.count(10) == {"m/1": 10}
        core.delete_namespaced_resource_quota("few", office.namespace)
    office.deploy(2)
    assert office.count(5, {"x-mlflow-deployment": "m-v2"}) == {"m/2": 5}


def test_a_quota_on_deployments_refuses_with_its_own_words_and_leaves_nothing_behind(office: Office) -> None:
    with admin() as api:
        core = client.CoreV1Api(api)
        hard = {"count/deployments.apps": "0"}
        core.create_namespaced_resource_quota(office.namespace, {"metadata": {"name": "none"}, "spec": {"hard": hard}})
        wait_for("the quota", lambda: core.read_namespaced_resource_quota("none", office.namespace).status.used or {})

        with pytest.raises(ClusterError, match="Deployment 'm-v1' was not applied: the cluster refused it") as caught:
            office.deploy(1)

        assert "exceeded quota: none" in caught.value.detail
        assert office.cluster.get("Service", ENDPOINT) is None
        core.delete_namespaced_resource_quota("none", office.namespace)
    office.deploy(1)
    assert office.count(5) == {"m/1": 5}


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        (
            PodSettings(env_from_secret={"TOKEN": "absent/key"}),
            "CreateContainerConfigError",
            'secret "absent" not found',
        ),
        (PodSettings(service_account="nobody"), "FailedCreate", 'serviceaccount "nobody" not found'),
        (PodSettings(node_selector={"disk": "gold"}), "Unschedulable", "node selector"),
    ],
    ids=["secret", "service-account", "node"],
)
def test_what_a_pod_needs_and_does_not_get_is_named(office: Office, pod: PodSettings, reason: str, words: str) -> None:
    with pytest.raises(NotReady, match=reason) as caught:
        office.deploy(1, pod=pod, ready_timeout=10.0)

    assert words in caught.value.detail
    assert office.cluster.get("Deployment", "m-v1") is None
    assert office.cluster.get("Service", ENDPOINT) is None


def test_without_istiod_a_change_is_refused_in_the_webhooks_words_and_the_same_command_later_finishes(
    bed: Testbed,
) -> None:
    with open_office(patience=1.0) as office:
        office.deploy(1)
        office.deploy(2)
        office.canary(2, 0)
        before = office.cluster.get("VirtualService", ENDPOINT)
        bed.kill("istiod")

        with pytest.raises(ClusterError, match=f"VirtualService '{ENDPOINT}' could not be changed") as caught:
            office.shift(100)

        assert 'failed calling webhook "validation.istio.io"' in caught.value.detail
        assert office.cluster.get("VirtualService", ENDPOINT) == before
        assert office.count(20) == {"m/1": 20}

        bed.start("istiod")
        assert office.shift(100).proxies
        assert office.count(20) == {"m/2": 20}


def test_without_istiod_and_its_webhook_a_change_is_stored_no_success_is_claimed_and_the_same_command_later_finishes(
    bed: Testbed,
) -> None:
    """Some clusters let writes pass while istiod is away: the change is then on the object, and no proxy has it."""
    with open_office(patience=1.0) as office, admin() as api:
        office.deploy(1)
        office.deploy(2)
        office.canary(2, 0)
        bed.kill("istiod")
        hooks = client.AdmissionregistrationV1Api(api)
        lenient = [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]
        hooks.patch_validating_webhook_configuration("istiod-default-validator", lenient)

        with pytest.raises(NotRouted, match="did not confirm routing change .*the change is stored") as caught:
            shifting.shift(office.context, ENDPOINT, TrafficRequest(weight=100), timeout=2.0)

        assert str(caught.value) == only_line(caught.value)
        stored = office.cluster.get("VirtualService", ENDPOINT)
        assert stored is not None
        assert read_endpoint(stored, ENDPOINT).traffic.weights == {"m-v1": 0, "m-v2": 100}
        assert len(read_endpoint(stored, ENDPOINT).outbox) == 1
        assert office.count(20) == {"m/1": 20}

        bed.start("istiod")
        outcome = office.shift(100)
        assert outcome.proxies
        assert not outcome.changed
        assert office.count(20) == {"m/2": 20}
        assert [change.action for change in office.registry.history(office.namespace, ENDPOINT)].count("shift") == 1


def test_without_the_api_server_one_line_says_so_traffic_flows_and_the_same_command_later_finishes(
    bed: Testbed,
) -> None:
    with open_office(patience=1.0) as office:
        office.deploy(1)
        office.deploy(2)
        bed.kill("kube-apiserver")

        with pytest.raises(ClusterError, match="the API server at https://.* can't be reached") as caught:
            office.canary(2, 50)

        assert str(caught.value) == only_line(caught.value)
        assert "run the same command again" in str(caught.value)
        assert office.count(20) == {"m/1": 20}

        bed.start("kube-apiserver")
        office.canary(2, 50)
        assert set(office.count(60)) == {"m/1", "m/2"}


def test_an_api_server_that_restarts_in_the_middle_of_a_command_is_waited_for(bed: Testbed) -> None:
    with open_office(patience=60.0) as office:
        office.deploy(1)
        office.deploy(2)
        office.canary(2, 0)
        bed.kill("kube-apiserver")
        starting = threading.Thread(target=bed.start, args=("kube-apiserver",))
        starting.start()

        outcome = office.shift(100)

        starting.join()
        assert outcome.proxies
        assert office.count(20) == {"m/2": 20}


def test_a_gateway_that_is_down_leaves_the_change_stored_and_unproved_and_says_so(bed: Testbed, office: Office) -> None:
    office.deploy(1)
    office.deploy(2)
    office.canary(2, 10)
    bed.kill("gateway")

    outcome = office.shift(40)

    assert outcome.proxies == ()
    assert any("stored, not proved" in warning for warning in outcome.warnings)
    stored = office.cluster.get("VirtualService", ENDPOINT)
    assert stored is not None
    assert read_endpoint(stored, ENDPOINT).traffic.weights == {"m-v1": 60, "m-v2": 40}
    bed.start("gateway")
    assert office.shift(40).proxies
