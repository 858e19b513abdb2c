"""A cluster that is not as it must be gives one error that names the thing, and nothing is applied."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml
from kubernetes import client

from mlflow_istio.adapters.kubernetes import KubernetesCluster, connect
from mlflow_istio.core.basics.target import Target
from mlflow_istio.errors import ClusterError, Forbidden, NotFound
from mlflow_istio.verbs import Verbs
from tests.control_plane.namespaces import admin, kubeconfig
from tests.control_plane.office import ENDPOINT, Office, open_office
from tests.testbed.client import Testbed, wait_for
from tests.testbed.network import BRIDGE_ADDRESS

pytestmark = pytest.mark.control_plane

_PORT = "16443"


@contextmanager
def cluster_with(folder: Path, *, server: str | None = None, token: str | None = None) -> Iterator[KubernetesCluster]:
    """The admin's cluster with another server or token in its kubeconfig."""
    config = yaml.safe_load(Path(kubeconfig("admin")).read_text(encoding="utf-8"))
    config["clusters"][0]["cluster"]["server"] = server or config["clusters"][0]["cluster"]["server"]
    config["users"][0]["user"]["token"] = token or config["users"][0]["user"]["token"]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(path))
        cluster = connect(Target(kind="istio", place="default"))
    yield cluster
    cluster.close()


@pytest.fixture
def plain_server(bed: Testbed, tmp_path: Path) -> Iterator[str]:
    """The address of a second real API server on the same etcd, whose cluster never heard of Istio."""
    pid = bed.programs()["kube-apiserver"]["pid"]
    argv = [word.decode() for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if word]
    argv = [word for word in argv if not word.startswith("--secure-port")]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*argv, f"--secure-port={_PORT}", "--etcd-prefix=/plain"],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"https://{BRIDGE_ADDRESS}:{_PORT}"

    def ready() -> bool:
        try:
            # Its certificate is not what this is about.
            return bool(requests.get(f"{address}/readyz", verify=False, timeout=2).ok)
        except requests.RequestException:
            return False

    try:
        wait_for("the second API server", ready)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_cluster_without_istio_is_told_to_install_it(plain_server: str, tmp_path: Path) -> None:
    with cluster_with(tmp_path, server=plain_server) as cluster:
        office = Office(namespace="default", cluster=cluster)

        for ask in (lambda: office.deploy(1), lambda: cluster.list("VirtualService", {})):
            with pytest.raises(
                ClusterError, match=r"does not know virtualservices\.networking\.istio\.io/v1: install Istio"
            ) as caught:
                ask()
            assert "\n" not in str(caught.value)

        assert cluster.list("Deployment", {}) == []
        assert cluster.get("Service", ENDPOINT) is None


@pytest.mark.parametrize("user", ["admin", "least"])
def test_a_namespace_that_does_not_exist_is_named(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig(user))
    cluster = connect(Target(kind="istio", place="nowhere"))
    office = Office(namespace="nowhere", cluster=cluster)
    # Who has rights in single namespaces only has none in one that is not there.
    expected: tuple[type[Exception], str] = (
        (NotFound, "namespace 'nowhere' does not exist: create it")
        if user == "admin"
        else (Forbidden, "'least' .* may not .* in namespace 'nowhere'")
    )
    for ask in (
        lambda: cluster.list("VirtualService", {}),
        lambda: cluster.get("Deployment", "m-v1"),
        lambda: office.deploy(1),
        lambda: cluster.wait_ready("m-v1", 1),
        lambda: cluster.address(ENDPOINT),
    ):
        with pytest.raises(expected[0], match=expected[1]):
            ask()
    cluster.close()


def test_a_gateway_that_does_not_exist_names_the_nearest_and_nothing_is_applied(
    office: Office, monkeypatch: pytest.MonkeyPatch, tracking_uri: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig("least"))
    verbs = Verbs(f"istio:/{office.namespace}")

    with pytest.raises(NotFound, match="no Gateway 'istio-system/gatewy': did you mean 'istio-system/gateway'"):
        verbs.create("m-v1", "models:/m/1", None, ENDPOINT, {"gateway": "istio-system/gatewy"})

    assert office.cluster.list("Deployment", {}) == []
    assert office.cluster.list("Service", {}) == []


def test_an_expired_token_is_told_to_log_in_again(tmp_path: Path) -> None:
    with (
        cluster_with(tmp_path, token="expired") as cluster,
        pytest.raises(ClusterError, match=r"does not know user 'admin' of context 'testbed' \(401\).*log in again"),
    ):
        cluster.list("VirtualService", {})


@pytest.mark.parametrize(
    ("without", "verb", "resource"),
    [
        ("deployments", "get", "deployments.apps"),
        ("services", "get", "services"),
        ("virtualservices", "get", "virtualservices.networking.istio.io"),
        ("destinationrules", "get", "destinationrules.networking.istio.io"),
    ],
)
def test_a_missing_right_is_named_with_its_verb_and_resource(without: str, verb: str, resource: str) -> None:
    with open_office(without=without) as office:
        with pytest.raises(
            Forbidden, match=f"user 'least' .* may not {verb} {resource} in namespace '{office.namespace}'"
        ):
            office.deploy(1)
        with admin() as api:
            custom = client.CustomObjectsApi(api)
            found = custom.list_namespaced_custom_object(
                "networking.istio.io", "v1", office.namespace, "virtualservices"
            )
        assert found["items"] == []


@pytest.mark.parametrize("without", ["replicasets", "pods", "events", "pods/log"])
def test_without_the_rights_to_look_at_pods_a_deployment_still_comes_up_and_still_fails_with_its_name(
    without: str,
) -> None:
    with open_office(without=without) as office:
        office.deploy(1)
        with pytest.raises(Exception, match="deployment 'm-v2' did not come up"):
            office.deploy(2, env={"MODE": "crash"}, ready_timeout=4.0)
        assert office.count(5) == {"m/1": 5}


def test_a_refusal_by_istio_is_shown_in_its_own_words_and_nothing_is_written(office: Office) -> None:
    office.deploy(1)
    before = office.cluster.get("VirtualService", ENDPOINT)
    assert before is not None

    def negative(obj: object) -> dict[str, object]:
        routes = [
            {**route, "route": [{**one, "weight": -5} for one in route["route"]]} if "route" in route else route
            for route in before["spec"]["http"]
        ]
        return {**before, "spec": {**before["spec"], "http": routes}}

    with pytest.raises(ClusterError, match="VirtualService 'm' was not changed: the cluster refused it") as caught:
        office.cluster.edit("VirtualService", ENDPOINT, negative)

    assert "weight -5 < 0" in caught.value.detail
    assert office.cluster.get("VirtualService", ENDPOINT) == before


def test_an_unknown_field_is_refused_by_name_instead_of_dropped(office: Office) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x"},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}], "sessionAfinity": "ClientIP"},
    }
    with pytest.raises(ClusterError) as caught:
        office.cluster.apply(service)
    assert "sessionAfinity" in caught.value.detail
    assert office.cluster.get("Service", "x") is None


def test_the_gateway_url_can_be_given_where_it_cannot_be_found_out() -> None:
    with open_office(without="services", user="admin") as office:
        office.deploy(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", kubeconfig("admin"))
            given = connect(Target(kind="istio", place=office.namespace), None, "http://10.244.0.2:80/")
        assert given.address(ENDPOINT).url == "http://10.244.0.2:80"
        assert given.address(ENDPOINT).headers == {"Host": f"{ENDPOINT}.{office.namespace}.svc.cluster.local"}
        given.close()
    assert os.environ["GATEWAY_URL"] == "http://10.244.0.2"
