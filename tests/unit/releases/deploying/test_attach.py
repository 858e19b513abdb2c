"""What somebody else runs as a deployment of an endpoint: every move, and nothing of it is ever written."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.traffic import attached_host
from mlflow_istio.core.mesh.attached import parse_attach
from mlflow_istio.core.moves.control_share import _shared
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.runtime.profiles import ATTACHED
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, NotReady, NotRouted, StateConflict
from mlflow_istio.ports.cluster import Address
from mlflow_istio.releases.context import deployments_of
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.deploying.deployments import deploy, update
from mlflow_istio.releases.deploying.mending import mend
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.moving.policy import set_policy
from mlflow_istio.releases.moving.scaling import is_ours_to_scale, thin
from mlflow_istio.releases.reading import views
from mlflow_istio.releases.reading.doctor import examine
from mlflow_istio.releases.reading.export import exported
from mlflow_istio.testing import InMemoryCluster
from tests.support.in_memory import World, a_request, a_shop, a_world, with_shop

PREDICTOR = "rank-predictor"


def theirs(name: str = PREDICTOR, *, replicas: int = 2, image: str = "mlserver:1.7", ports: Any = (8080,)) -> Object:
    """A Deployment as KServe's Standard mode makes one."""
    labels = {"app": f"isvc.{name}", "component": "predictor"}
    declared = [{"name": f"p{number}", "containerPort": number} for number in ports]
    pod = {"containers": [{"name": "kserve-container", "image": image, "ports": declared}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"owner": "kserve"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": f"isvc.{name}"}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def its_service(name: str = PREDICTOR, **spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    body = {"selector": {"app": f"isvc.{name}"}, "ports": ports, "clusterIP": "None", **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


def with_theirs(*deployments: str) -> World:
    world = a_world(*deployments)
    world.cluster.apply(theirs())
    world.cluster.apply(its_service())
    world.cluster.writes.clear()
    return world


def attach(world: World, what: str = f"deployment/{PREDICTOR}", name: str = "churn-v2", **changes: Any) -> Any:
    asked = {"attach": parse_attach(what), "runtime": ATTACHED, **changes}
    return deploy(world.context, a_request(name, **asked))


def untouched(world: World) -> bool:
    """Whether no write has named what is theirs."""
    return not [write for write in world.cluster.writes if write[2] == PREDICTOR]


@pytest.mark.parametrize("what", [f"deployment/{PREDICTOR}", f"service/{PREDICTOR}", "inferenceservice/rank"])
def test_it_is_released_and_taken_back_like_any_deployment(what: str) -> None:
    world = with_theirs("churn-v1")
    attach(world, what, strategy="canary", traffic_request=TrafficRequest(weight=10))
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert world.endpoint().destination("churn-v2").host == "churn-v2-attached"
    shifting.promote(world.context, "churn")
    assert world.endpoint().traffic.weights == {"churn-v2": 100}
    assert world.endpoint().stable.name == "churn-v2"
    shifting.rollback(world.context, "churn")
    assert world.endpoint().stable.name == "churn-v1"
    removal.delete(world.context, "churn-v2")
    assert world.endpoint().attached == ()
    assert world.cluster.get("Service", "churn-v2-attached") is None
    assert world.cluster.get("DestinationRule", "churn-v2-attached") is None
    assert [action for _, action in world.history()] == [
        *("deploy", "deploy", "policy", "start", "promote", "rollback", "remove")
    ]
    assert untouched(world)


def test_the_ledger_has_the_version_that_was_declared() -> None:
    world = with_theirs("churn-v1")
    attach(world, strategy="canary", traffic_request=TrafficRequest(weight=10))
    (newest,) = [one for one in world.registry.history("prod", "churn") if one.action == "start"]
    assert newest.versions == {"churn-v1": "churn/1", "churn-v2": "churn/2"}


@pytest.mark.parametrize("what", ["deployment", "endpoint"])
def test_what_somebodys_route_gets_to_by_its_service_is_not_taken_away(what: str) -> None:
    world = with_theirs("churn-v1")
    attach(world)
    shop = a_shop()
    shop["spec"]["http"][0] = {"name": "main", "route": [{"destination": {"host": attached_host("churn-v2")}}]}
    world.cluster.apply(shop)
    take = {
        "deployment": lambda **how: removal.delete(world.context, "churn-v2", **how),
        "endpoint": lambda **how: removal.delete_endpoint(world.context, "churn", **how),
    }[what]
    with pytest.raises(StateConflict, match="can't be deleted: route 'main' of VirtualService 'shop' goes to it"):
        take()
    assert world.cluster.get("Service", attached_host("churn-v2")) is not None
    take(force=True)
    assert world.cluster.get("Service", attached_host("churn-v2")) is None


def test_it_may_be_the_first_deployment_and_goes_with_the_endpoint() -> None:
    world = with_theirs()
    attach(world)
    assert world.endpoint().traffic.weights == {"churn-v2": 100}
    world.deploy("churn-v1")
    shifting.start(
        world.context,
        "churn",
        strategy="canary",
        candidates=("churn-v1",),
        traffic_request=TrafficRequest(weight=20),
    )
    assert world.endpoint().traffic.weights == {"churn-v2": 80, "churn-v1": 20}
    shifting.abort(world.context, "churn")
    assert removal.delete_endpoint(world.context, "churn")
    assert {(obj["kind"], obj["metadata"]["name"]) for obj in world.objects()} == {
        ("Deployment", PREDICTOR),
        ("Service", PREDICTOR),
    }
    assert untouched(world)


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [
        ("canary", TrafficRequest(weight=30)),
        ("ab", TrafficRequest(weight=50, cookie="arm")),
        ("ab", TrafficRequest(weight=50, header="x-arm")),
        ("blue-green", TrafficRequest()),
    ],
)
def test_every_strategy_that_moves_users_moves_them_to_it(strategy: str, asked: TrafficRequest) -> None:
    world = with_theirs("churn-v1")
    attach(world, strategy=strategy, traffic_request=asked)
    shifting.promote(world.context, "churn", candidate="churn-v2")
    assert world.endpoint().stable == world.endpoint().destination("churn-v2")
    shifting.rollback(world.context, "churn")
    assert world.endpoint().stable == world.endpoint().destination("churn-v1")
    assert untouched(world)


def test_the_same_command_again_changes_nothing() -> None:
    world = with_theirs("churn-v1")
    attach(world)
    before = world.objects()
    assert not attach(world).changed
    assert world.objects() == before


def test_its_replicas_are_those_of_its_owner() -> None:
    world = with_theirs("churn-v1")
    attach(world)
    world.cluster.apply(theirs(replicas=5))
    view = views.deployment_view(world.cluster, "churn-v2")
    assert (view["replicas"], view["ready"], view["attached"]) == (5, 5, f"deployment/{PREDICTOR}")
    assert (world.cluster.get("Deployment", "churn-v2") or {})["spec"]["replicas"] == 0, "ours runs nothing"


def test_what_it_is_exported_as_runs_nothing_either() -> None:
    world = with_theirs("churn-v1")
    attach(world)
    found = {(obj["kind"], obj["metadata"]["name"]): obj for obj in exported(world.cluster, "churn")}
    assert found["Deployment", "churn-v2"]["spec"]["replicas"] == 0
    assert {("Service", "churn-v2-attached"), ("DestinationRule", "churn-v2-attached")} <= set(found)


def test_settings_of_the_endpoint_hold_for_it_too() -> None:
    from mlflow_istio.core.policy.settings import PolicyRequest

    world = with_theirs("churn-v1")
    attach(world)
    set_policy(world.context, "churn", PolicyRequest(changes={"load_balancer": {"simple": "ROUND_ROBIN"}}))
    rule = world.cluster.get("DestinationRule", "churn-v2-attached") or {}
    assert rule["spec"]["trafficPolicy"] == {
        "connectionPool": {"http": {"idleTimeout": "4s"}},
        "loadBalancer": {"simple": "ROUND_ROBIN"},
    }
    set_policy(world.context, "churn", PolicyRequest(subset="churn-v2", changes={"tls": {"mode": "DISABLE"}}))
    rule = world.cluster.get("DestinationRule", "churn-v2-attached") or {}
    assert rule["spec"]["subsets"] == [{"name": "churn-v2", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}]


def test_a_service_of_ours_sends_to_the_named_port_of_exactly_these_pods() -> None:
    world = with_theirs("churn-v1")
    named = [{"name": "grpc", "port": 81, "targetPort": 9000}, {"name": "http", "port": 80, "targetPort": "web"}]
    world.cluster.apply(its_service(ports=named))
    with pytest.raises(InvalidInput, match=r"has the ports 81 \(grpc\), 80 \(http\): say which one of them"):
        attach(world, f"service/{PREDICTOR}")
    attach(world, f"service/{PREDICTOR}", attach_port=80)
    spec = (world.cluster.get("Service", "churn-v2-attached") or {})["spec"]
    assert spec["selector"] == {"app": f"isvc.{PREDICTOR}"}
    assert (spec["ports"][0]["port"], spec["ports"][0]["targetPort"]) == (80, "web")


@pytest.mark.parametrize(
    ("change", "what", "error", "words"),
    [
        ({}, "deployment/rank-predicter", NotFound, "there is no Deployment 'rank-predicter' to attach"),
        ({}, "service/rank-predicter", NotFound, f"did you mean '{PREDICTOR}'"),
        ({}, "deployment/churn-v1", StateConflict, "it is deployment 'churn-v1' of endpoint 'churn'"),
        ({}, "service/churn", StateConflict, "it is endpoint 'churn', which is released as it is"),
        ({"replicas": 0}, f"deployment/{PREDICTOR}", NotReady, "has no pods: it is gone, or scaled to 0"),
        ({"ports": ()}, f"deployment/{PREDICTOR}", InvalidInput, "names no port of its containers"),
        ({"ports": (8080, 9000)}, f"deployment/{PREDICTOR}", InvalidInput, r"the ports 8080 \(p8080\), 9000 \(p9000\)"),
    ],
)
def test_what_cant_be_attached_is_named_and_nothing_is_applied(
    change: dict[str, Any], what: str, error: type[MlflowIstioError], words: str
) -> None:
    world = with_theirs("churn-v1")
    world.cluster.apply(theirs(**change))
    before = world.text()
    with pytest.raises(error, match=words):
        attach(world, what, strategy="canary", traffic_request=TrafficRequest(weight=10))
    assert world.text() == before


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "ExternalName", "externalName": "gateway.local"}, "of type ExternalName"),
        ({"selector": None}, "has no selector"),
        ({"selector": {"app": "nobody"}}, "no Deployment is behind Service"),
    ],
)
def test_a_service_behind_which_no_pods_can_be_counted_is_refused(spec: dict[str, Any], words: str) -> None:
    world = with_theirs("churn-v1")
    world.cluster.apply(its_service(**spec))
    before = world.text()
    with pytest.raises(InvalidInput, match=words):
        attach(world, f"service/{PREDICTOR}")
    assert world.text() == before


def test_pods_that_no_service_can_select_are_refused() -> None:
    world = with_theirs("churn-v1")
    obj = theirs()
    obj["spec"]["selector"] = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    world.cluster.apply(obj)
    with pytest.raises(InvalidInput, match="selects its pods by matchExpressions"):
        attach(world)


def test_one_workload_is_one_deployment() -> None:
    world = with_theirs("churn-v1")
    attach(world)
    with pytest.raises(StateConflict, match="is attached already, as deployment 'churn-v2' of endpoint 'churn'"):
        attach(world, f"service/{PREDICTOR}", name="churn-v3")


def test_it_cant_have_the_name_of_what_it_stands_for() -> None:
    world = with_theirs("churn-v1")
    with pytest.raises(StateConflict, match=f"'{PREDICTOR}' exists already and serves something that is not ours"):
        attach(world, name=PREDICTOR, model_uri="models:/churn/2", endpoint="churn")
    assert untouched(world)


def test_a_deployment_never_changes_what_runs_it() -> None:
    world = with_theirs("churn-v1")
    with pytest.raises(StateConflict, match="'churn-v1' runs pods of its own and would stand for"):
        attach(world, name="churn-v1")
    attach(world)
    with pytest.raises(StateConflict, match="would run pods of its own: a deployment never changes what runs it"):
        world.deploy("churn-v2")
    with pytest.raises(StateConflict, match="which its owner scales and changes, not we"):
        update(world.context, "churn-v2", replicas=3)


def test_a_foreign_service_of_that_name_is_not_taken_over() -> None:
    world = with_theirs("churn-v1")
    world.cluster.apply({**its_service(), "metadata": {"name": attached_host("churn-v2")}})
    before = world.text()
    with pytest.raises(StateConflict, match="Service 'churn-v2-attached' exists and is not ours"):
        attach(world)
    assert world.text() == before


@pytest.mark.parametrize("gone", [True, False])
def test_one_that_goes_away_gets_nobody_more_and_everybody_can_go_back(gone: bool) -> None:
    """Deleted, or scaled to 0, while a release is open."""
    world = with_theirs("churn-v1")
    attach(world, strategy="canary", traffic_request=TrafficRequest(weight=10))
    if gone:
        world.cluster.delete("Deployment", PREDICTOR)
    else:
        world.cluster.apply(theirs(replicas=0))
    for verb in (
        lambda: shifting.shift(world.context, "churn", TrafficRequest(weight=50)),
        lambda: shifting.promote(world.context, "churn"),
    ):
        with pytest.raises(
            NotReady, match="has no pods: it is gone, or scaled to 0 .*; its owner has to bring it up first"
        ):
            verb()
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert "not-ready" in [finding.code for finding in examine(world.context, "churn")]
    shifting.abort(world.context, "churn")
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    removal.delete(world.context, "churn-v2")


def test_doctor_says_that_its_owner_changed_it() -> None:
    world = with_theirs("churn-v1")
    attach(world)
    assert [one.code for one in examine(world.context, "churn") if one.what == "churn-v2"] == []
    world.cluster.apply(theirs(image="mlserver:1.8"))
    (found,) = [one for one in examine(world.context, "churn") if one.code == "attached-changed"]
    assert "its images were mlserver:1.7, and are mlserver:1.8" in found.text
    assert "whether it still serves churn/2 is its owner's word" in found.text


def test_that_its_pods_were_started_again_is_no_change() -> None:
    world = with_theirs("churn-v1")
    attach(world)
    obj = theirs()
    obj["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "2026-01-01"}
    world.cluster.apply(obj)
    assert [one.code for one in examine(world.context, "churn") if one.what == "churn-v2"] == []
    obj["spec"]["template"]["metadata"]["annotations"]["storage-initializer-sourceuri"] = "s3://other"
    world.cluster.apply(obj)
    (found,) = [one for one in examine(world.context, "churn") if one.code == "attached-changed"]
    assert "its pod template is another" in found.text


@pytest.mark.parametrize("kind", ["Service", "DestinationRule"])
def test_what_leads_to_it_is_written_again_before_it_gets_users(kind: str) -> None:
    world = with_theirs("churn-v1")
    attach(world)
    world.cluster.delete(kind, "churn-v2-attached")
    (found,) = [one for one in examine(world.context, "churn") if one.code == "attached-unled"]
    assert found.safe
    mend(world.context, [found])
    assert world.cluster.get(kind, "churn-v2-attached") is not None
    world.cluster.delete(kind, "churn-v2-attached")
    shifting.start(
        world.context,
        "churn",
        strategy="canary",
        candidates=("churn-v2",),
        traffic_request=TrafficRequest(weight=20),
    )
    assert world.cluster.get(kind, "churn-v2-attached") is not None
    assert untouched(world)


def test_damage_to_what_says_what_it_stands_for_is_its_own() -> None:
    world = with_theirs("churn-v1")
    attach(world)
    found = world.cluster.get("Deployment", "churn-v2") or {}
    found["metadata"]["annotations"]["mlflow-istio.org/attached"] = "[]"
    world.cluster.apply({key: value for key, value in found.items() if key != "status"})
    assert "damaged-attachment" in [one.code for one in examine(world.context, "churn")]
    assert [obj["metadata"]["name"] for obj in deployments_of(world.cluster, "churn")] == ["churn-v1", "churn-v2"]
    removal.delete(world.context, "churn-v2")
    assert world.cluster.get("Service", "churn-v2-attached") is None


def test_history_goes_back_to_it_and_where_it_is_gone_says_what_runs_it() -> None:
    world = with_theirs("churn-v1")
    attach(world, strategy="canary", traffic_request=TrafficRequest(weight=10))
    shifting.abort(world.context, "churn")

    def again(name: str, uri: str) -> Any:
        return replace(a_request(name), model_uri=uri, attach=parse_attach(f"deployment/{PREDICTOR}"), runtime=ATTACHED)

    rollback_to(world.context, "churn", "4", as_request=again)
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    shifting.abort(world.context, "churn")
    removal.delete(world.context, "churn-v2")
    with pytest.raises(StateConflict, match="was not run by our own server: say what runs it"):
        rollback_to(world.context, "churn", "4", as_request=lambda name, uri: replace(a_request(name), model_uri=uri))
    rollback_to(world.context, "churn", "4", as_request=again)
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert untouched(world)


class Mute(InMemoryCluster):
    """Where nobody answers through a header route."""

    def wait_routed(self, probe: Any, timeout: float) -> Any:
        if probe.purpose.startswith("pinned route"):
            raise NotRouted(f"no proxy confirmed {probe.purpose}")
        return super().wait_routed(probe, timeout)


@pytest.mark.parametrize("first", [True, False])
def test_one_that_does_not_answer_at_its_port_is_detached_again(first: bool) -> None:
    world = World(cluster=Mute())
    if not first:
        world.cluster.__class__ = InMemoryCluster
        world.deploy("churn-v1")
        world.cluster.__class__ = Mute
    world.cluster.apply(theirs())
    before = {(obj["kind"], obj["metadata"]["name"]) for obj in world.objects()}
    world.cluster.writes.clear()
    with pytest.raises(NotRouted, match=r"it was detached again .*: look at 'port' and 'readiness' \(/ping\)"):
        attach(world)
    assert {(obj["kind"], obj["metadata"]["name"]) for obj in world.objects()} == before
    if not first:
        assert world.endpoint().attached == ()
        assert world.endpoint().traffic.weights == {"churn-v1": 100}
    assert untouched(world)


def test_an_address_where_nobody_listens_is_refused() -> None:
    world = with_theirs("churn-v1")
    before = world.text()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(NotReady, match=f"nobody listens at http://127.0.0.1:{port}: nothing was attached"):
            attach(world, f"http://127.0.0.1:{port}")
    assert world.text() == before


def test_an_address_of_this_machine_is_released_like_any_deployment() -> None:
    world = with_theirs("churn-v1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        attach(
            world,
            f"http://127.0.0.1:{server.getsockname()[1]}",
            strategy="canary",
            traffic_request=TrafficRequest(weight=10),
        )
        assert [one.code for one in examine(world.context, "churn") if one.what == "churn-v2"] == []
    shifting.promote(world.context, "churn")
    assert world.endpoint().traffic.weights == {"churn-v2": 100}
    (found,) = [one for one in examine(world.context, "churn") if one.what == "churn-v2"]
    assert (found.code, found.severity) == ("not-ready", "error")
    assert found.text.startswith("nobody listens at http://127.0.0.1:")
    service = world.cluster.get("Service", "churn-v2-attached") or {}
    assert (service["spec"]["type"], service["spec"]["externalName"]) == ("ExternalName", "localhost")


def test_where_an_endpoint_of_ours_is_called_is_nobody_elses_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests would go round between the proxy and itself until they time out."""
    world = a_world("churn-v1")
    before = world.text()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(type(world.cluster), "address", lambda _self, _name: Address(url=url))
        with pytest.raises(
            StateConflict, match=f"{url} can't be attached: it is where VirtualService 'churn' .* is called"
        ):
            attach(world, url)
    assert world.text() == before


@pytest.mark.parametrize(
    "text",
    ["churn", "pod/x", "deployment/", "deployment/A b", "http://example.com:80", "http://127.0.0.1:0", "service/x/y"],
)
def test_what_names_nothing_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(InvalidInput, match="it must be deployment/NAME, service/NAME, inferenceservice/NAME"):
        parse_attach(text)


def test_it_stands_behind_a_route_of_somebodys_too_and_the_route_is_given_back() -> None:
    world = with_shop()
    world.cluster.apply(theirs())
    before = world.cluster.get("VirtualService", "shop") or {}
    adopt(world.context, "churn", virtual_service="shop", route="main")
    attach(world, strategy="canary", traffic_request=TrafficRequest(weight=10))
    assert world.endpoint().traffic.weights == {"web": 90, "churn-v2": 10}
    assert not [line for line in world.warnings if "churn-v2" in line]
    shifting.abort(world.context, "churn")
    assert removal.delete_endpoint(world.context, "churn")
    after = world.cluster.get("VirtualService", "shop") or {}
    assert after["spec"] == before["spec"]
    assert world.cluster.get("Service", "churn-v2-attached") is None


def test_a_control_stands_beside_one_that_is_attached() -> None:
    """Of the stable that is ours; one that is attached has none, and that is said."""
    world = with_theirs("churn-v1")
    attach(world, strategy="canary", traffic_request=TrafficRequest(weight=10))
    endpoint = world.endpoint()
    assert not endpoint.owners_stable
    split = _shared(endpoint.traffic.split, endpoint.stable, endpoint.destination("churn-v1-control"), 10)
    assert [(share.destination.name, share.weight) for share in split] == [
        ("churn-v1", 80),
        ("churn-v2", 10),
        ("churn-v1-control", 10),
    ]
    shifting.promote(world.context, "churn")
    assert world.endpoint().owners_stable


def test_doctor_knows_which_predictor_kserve_deletes_when_it_promotes_another() -> None:
    def kserves(name: str) -> Object:
        obj = theirs(name)
        obj["metadata"]["labels"] = {"serving.kserve.io/inferenceservice": "rank", "component": "predictor"}
        return obj

    world = with_theirs("churn-v1")
    world.cluster.apply(kserves(PREDICTOR))
    attach(world, "inferenceservice/rank")
    assert [one.code for one in examine(world.context, "churn") if one.what == "churn-v2"] == []
    world.cluster.apply(kserves("rank-b-predictor"))
    (found,) = [one for one in examine(world.context, "churn") if one.what == "churn-v2"]
    assert found.code == "kserve-canaries"
    assert "has rank-b-predictor beside what 'churn-v2' stands for: when KServe promotes one of these" in found.text
    attach(world, "deployment/rank-b-predictor", name="churn-v3")
    world.cluster.delete("Deployment", PREDICTOR)
    with pytest.raises(NotReady, match="KServe deletes a predictor whose canary it promotes"):
        shifting.start(
            world.context,
            "churn",
            strategy="canary",
            candidates=("churn-v2",),
            traffic_request=TrafficRequest(weight=20),
        )


def test_one_that_is_kept_for_a_time_is_detached_by_the_sweep_and_left_alone() -> None:
    world = with_theirs()
    attach(world)
    world.deploy("churn-v1")
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v1",), traffic_request=TrafficRequest(weight=20)
    )
    shifting.promote(world.context, "churn", keep_old=timedelta(seconds=-1))
    assert [one.problem for one in sweep(world.context)] == [""]
    assert world.endpoint().attached == ()
    assert world.cluster.get("Deployment", "churn-v2") is None
    assert world.cluster.get("Deployment", PREDICTOR) is not None
    assert untouched(world)


def test_no_release_scales_it_and_one_by_hand_says_who_could() -> None:
    world = World()
    world.deploy("churn-v1", replicas=5)
    world.cluster.apply(theirs(replicas=1))
    attach(world, strategy="canary", traffic_request=TrafficRequest(weight=60))
    there = {obj["metadata"]["name"]: obj for obj in deployments_of(world.cluster, "churn")}
    assert not is_ours_to_scale(there["churn-v2"], 1)
    assert is_ours_to_scale(there["churn-v1"], 5)
    (line,) = thin(world.endpoint(), list(there.values()))
    assert "has 60% of the traffic with replicas=1" in line
    assert line.endswith("unless its owner gives it more")
