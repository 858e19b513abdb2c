"""Lost questions, lost answers, 409, 429 and 5xx from the API server are survived, and every change happens exactly once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_istio import IstioDeploymentClient
from mlflow_istio.adapters.kubernetes import KubernetesCluster
from mlflow_istio.adapters.kubernetes.api_calls import Call, Caller
from mlflow_istio.adapters.kubernetes.api_server import open_connection
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.target import Target
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.errors import ClusterError, EditConflict
from tests.contract.model_server import service
from tests.control_plane.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.control_plane.namespaces import kubeconfig
from tests.control_plane.office import ENDPOINT, Office
from tests.support.registered_models import register

pytestmark = [pytest.mark.control_plane, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]

_PASSING: list[str | int] = ["lose-question", "lose-answer", 429, 500, 503, 504]


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    with faulty_proxy(kubeconfig("least")) as made:
        yield made


@pytest.fixture
def shaky(office: Office, proxy: FaultyProxy, tmp_path: Path) -> Iterator[Office]:
    """The office again, with the faulty proxy between it and the API server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", proxy.kubeconfig(kubeconfig("least"), tmp_path / "kubeconfig"))
        connection = open_connection(Target(kind="istio", place=office.namespace))
    cluster = KubernetesCluster(connection, gateway=os.environ["MLFLOW_ISTIO_GATEWAY"], patience=5.0)
    yield Office(namespace=office.namespace, cluster=cluster, registry=office.registry)
    cluster.close()


def counting(obj: Object | None) -> Object:
    """An edit that is not idempotent: done twice, it counts twice."""
    found = obj or service("counter")
    count = int(found["metadata"].get("annotations", {}).get("count", "0"))
    return {**found, "metadata": {**found["metadata"], "annotations": {"count": str(count + 1)}}}


@pytest.mark.parametrize("what", _PASSING)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_reading_applying_and_deleting_survive(shaky: Office, proxy: FaultyProxy, method: str, what: str | int) -> None:
    proxy.faults = [Fault(method, "/services", what, times=2)]

    shaky.cluster.apply(service("thing"))
    assert shaky.cluster.get("Service", "thing") is not None
    assert [obj["metadata"]["name"] for obj in shaky.cluster.list("Service", {})] == ["thing"]
    assert shaky.cluster.delete("Service", "thing") is True

    assert shaky.cluster.get("Service", "thing") is None
    assert proxy.broken == [(method, what)] * 2


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("GET", "lose-answer"),
        ("GET", 503),
        ("POST", "lose-question"),
        ("POST", "lose-answer"),
        ("POST", 500),
        ("PUT", "lose-question"),
        ("PUT", "lose-answer"),
        ("PUT", 429),
        ("PUT", 504),
    ],
)
def test_a_whole_canary_survives_and_each_change_is_there_once(
    office: Office, shaky: Office, proxy: FaultyProxy, method: str, what: str | int
) -> None:
    proxy.faults = [Fault(method, "/virtualservices", what)]
    shaky.deploy(1)
    proxy.faults.append(Fault(method, "/virtualservices", what))

    shaky.deploy(3)
    proxy.faults.append(Fault(method, "/virtualservices", what))
    shaky.canary(3, 30)
    proxy.faults.append(Fault(method, "/virtualservices", what))
    shaky.promote()

    assert office.count(10) == {"m/3": 10}
    history = office.registry.history(office.namespace, ENDPOINT)
    assert [change.action for change in history] == ["deploy", "deploy", "start", "promote"]
    assert [change.sequence for change in history] == [1, 2, 3, 4]
    assert len(proxy.broken) == (1 if method == "POST" else 4)


def test_a_change_of_weight_makes_a_fixed_number_of_calls(
    shaky: Office, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven before the gateway has it, and so many after it to keep the ledger; no call is repeated for nothing."""
    # A proxy that takes long makes one more: whether somebody else has changed the endpoint. This machine may be slow.
    monkeypatch.setattr("mlflow_istio.releases.moving.proof._FIRST_WAIT", 15.0)
    for version in (1, 2):
        shaky.deploy(version)
    shaky.canary(2, 10)
    routes = "virtualservices"
    # Whoever gains users is asked for: its pods, its address and its subset; that takes a moment, so the route is read once more.
    # That others carry the endpoint, too, is seen in the list of all routes.
    asked = [("GET", routes), ("GET", routes), ("GET", "deployments"), ("GET", "services"), ("GET", "destinationrules")]
    stored = [*asked, ("GET", routes), ("PUT", routes)]
    recorded = [("GET", routes), ("GET", "deployments"), ("GET", routes), ("PUT", routes)]
    for weight in (20, 60):
        proxy.asked.clear()
        assert shaky.shift(weight).proxies
        assert proxy.asked == stored + recorded
    proxy.asked.clear()
    shaky.cluster.edit("VirtualService", ENDPOINT, lambda obj: obj or {})
    assert proxy.asked == [("GET", routes)], "nothing to write: found on the object as it is, not on a remembered one"


def test_the_clients_verb_adds_nothing_to_that_but_the_view_it_answers_with(
    office: Office, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_istio.releases.moving.proof._FIRST_WAIT", 15.0)
    for version in (1, 2):
        register(tracking_uri, ENDPOINT, float(version), tmp_path / "artifacts")
        office.deploy(version)
    client = IstioDeploymentClient(f"istio:/{office.namespace}")
    client.update_endpoint(ENDPOINT, {"strategy": "canary", "candidate": "m-v2", "weight": 10})
    made: list[tuple[str, str]] = []
    send = Caller.send

    def noted(caller: Caller, call: Call) -> object:
        made.append((call.verb, call.resource.plural))
        return send(caller, call)

    monkeypatch.setattr(Caller, "send", noted)
    client.update_endpoint(ENDPOINT, {"weight": 20})

    routes = "virtualservices"
    asked = [
        ("get", routes),
        ("list", routes),
        ("list", "deployments"),
        ("get", "services"),
        ("get", "destinationrules"),
    ]
    stored = [*asked, ("get", routes), ("update", routes)]
    recorded = [("get", routes), ("list", "deployments"), ("get", routes), ("update", routes)]
    view = [("get", routes), ("list", "deployments")]
    assert made == stored + recorded + view


def test_a_remembered_object_that_somebody_changed_is_read_again_and_their_change_stays(
    office: Office, shaky: Office, proxy: FaultyProxy
) -> None:
    shaky.deploy(1)
    assert shaky.cluster.get("VirtualService", ENDPOINT) is not None
    theirs = office.raw("virtualservices")
    theirs["metadata"]["annotations"]["example.com/theirs"] = "yes"
    office.write_raw("virtualservices", theirs)
    proxy.asked.clear()

    shaky.cluster.edit("VirtualService", ENDPOINT, labelled)

    assert proxy.asked == [(method, "virtualservices") for method in ("PUT", "GET", "PUT")]
    found = office.raw("virtualservices")
    assert found["metadata"]["annotations"]["example.com/theirs"] == "yes"
    assert found["metadata"]["labels"]["ours"] == "yes"


def test_a_remembered_object_that_somebody_deleted_is_made_anew(
    office: Office, shaky: Office, proxy: FaultyProxy
) -> None:
    shaky.deploy(1)
    rule = shaky.cluster.get("DestinationRule", ENDPOINT)
    assert rule is not None
    assert office.cluster.delete("DestinationRule", ENDPOINT)
    bare = {key: value for key, value in rule["metadata"].items() if key in ("name", "labels")}

    before, after = shaky.cluster.edit(
        "DestinationRule", ENDPOINT, lambda obj: labelled(obj or {**rule, "metadata": bare})
    )

    assert before is None
    assert after["metadata"]["uid"] != rule["metadata"]["uid"]


def labelled(obj: Object | None) -> Object:
    assert obj is not None
    labels = {**obj["metadata"].get("labels", {}), "ours": "yes"}
    return {**obj, "metadata": {**obj["metadata"], "labels": labels}}


def test_a_write_whose_answer_was_lost_gives_the_object_as_it_was_before(shaky: Office, proxy: FaultyProxy) -> None:
    shaky.deploy(1)
    shaky.deploy(2)
    proxy.faults = [Fault("PUT", "/virtualservices", "lose-answer")]

    outcome = shaky.canary(2, 20)

    assert proxy.broken
    assert outcome.changed
    change = shaky.registry.history(shaky.namespace, ENDPOINT)[-1]
    recorded = shaky.registry.artifacts[change.id]
    assert read_endpoint(recorded["before"], ENDPOINT).traffic.weights == {"m-v1": 100}
    assert read_endpoint(recorded["after"], ENDPOINT).traffic.weights == {"m-v1": 80, "m-v2": 20}


def test_a_lost_question_is_asked_again_and_counts_once(shaky: Office, proxy: FaultyProxy) -> None:
    shaky.cluster.edit("Service", "counter", counting)
    proxy.faults = [Fault("PUT", "/services", "lose-question")]

    _, after = shaky.cluster.edit("Service", "counter", counting)

    assert after["metadata"]["annotations"]["count"] == "2"


def test_a_conflict_is_read_and_done_again(shaky: Office, proxy: FaultyProxy) -> None:
    shaky.cluster.edit("Service", "counter", counting)
    proxy.faults = [Fault("PUT", "/services", 409, times=3)]

    _, after = shaky.cluster.edit("Service", "counter", counting)

    assert after["metadata"]["annotations"]["count"] == "2"
    assert len(proxy.broken) == 3


def test_conflicts_without_end_are_an_error_that_says_so_and_nothing_is_written(
    shaky: Office, proxy: FaultyProxy
) -> None:
    shaky.cluster.edit("Service", "counter", counting)
    proxy.faults = [Fault("PUT", "/services", 409, times=10_000)]

    with pytest.raises(EditConflict, match="Service 'counter' kept being changed by others"):
        shaky.cluster.edit("Service", "counter", counting)

    found = shaky.cluster.get("Service", "counter")
    assert found is not None
    assert found["metadata"]["annotations"]["count"] == "1"


@pytest.mark.parametrize("what", [429, 503])
def test_an_overload_without_end_is_an_error_with_the_servers_words(
    shaky: Office, proxy: FaultyProxy, what: int
) -> None:
    proxy.faults = [Fault("PATCH", "/services", what, times=10_000)]

    with pytest.raises(ClusterError, match=f"Service 'thing' could not be applied: .* answered {what}") as caught:
        shaky.cluster.apply(service("thing"))

    assert caught.value.detail == f"made up {what}"


def test_a_line_that_breaks_for_good_in_the_middle_of_a_write_does_not_claim_to_know(
    shaky: Office, proxy: FaultyProxy
) -> None:
    shaky.cluster.edit("Service", "counter", counting)
    proxy.faults = [Fault("PUT", "/services", "lose-answer"), Fault("GET", "/services", "lose-question", times=10_000)]

    # The read before the write must pass, so the faults of reading begin with the write.
    proxy.faults[1].times = 0

    def breaking(obj: Object | None) -> Object:
        proxy.faults[1].times = 10_000
        return counting(obj)

    with pytest.raises(ClusterError, match="can't be reached.*whether Service 'counter' was changed can't be told"):
        shaky.cluster.edit("Service", "counter", breaking)
