"""Another model server than ours behind an endpoint: what stands on the objects, and what is refused before anything is applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_istio.cli import main
from mlflow_istio.core.mesh.manifests import runtime_of_deployment
from mlflow_istio.core.mesh.pods import variable_of
from mlflow_istio.errors import InvalidInput, MlflowIstioError
from mlflow_istio.verbs.runtimes import runtime_views
from mlflow_istio.wiring.connection import load_runtime
from tests.support.in_memory import World, a_world
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs, everything

THEIRS: dict[str, Any] = {
    "runtime": "container",
    "image": "theirs:1",
    "command": ["serve", "--port", "$PORT"],
    "readiness": "/healthz",
    "scoring": "/score",
}


def created(world: World, name: str = "churn-v1", **options: Any) -> World:
    uri = f"models:/churn/{name.rpartition('v')[2]}"
    InMemoryVerbs(world, target=CLUSTER).create(name, uri, None, "churn", {**THEIRS, **options})
    return world


def container_of(world: World, name: str) -> Any:
    found = world.cluster.get("Deployment", name)
    assert found is not None
    return found["spec"]["template"]["spec"]["containers"][0]


def test_its_container_runs_what_was_said_and_is_ready_where_it_says() -> None:
    container = container_of(created(World()), "churn-v1")
    assert (container["image"], container["command"]) == ("theirs:1", ["serve", "--port", "$(MLFLOW_ISTIO_PORT)"])
    assert {container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "startupProbe")} == {"/healthz"}
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert {"name": "MLFLOW_ISTIO_PORT", "value": "8080"} in container["env"]


def test_the_image_runs_its_own_command_where_none_is_said() -> None:
    container = container_of(created(World(), command=None, args=["--quiet"]), "churn-v1")
    assert "command" not in container
    assert container["args"] == ["--quiet"]


def test_routes_say_the_version_since_the_server_does_not() -> None:
    world = created(created(World()), "churn-v2", strategy="canary", weight=10)
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    said = {
        entry["destination"]["subset"]: entry["headers"]["response"]["set"]
        for route in found["spec"]["http"]
        for entry in route.get("route", ())
    }
    assert said == {f"churn-v{n}": {"x-mlflow-model-version": f"churn/{n}"} for n in (1, 2)}


def test_headers_of_a_users_do_not_take_the_version_away() -> None:
    world = created(World())
    verbs = InMemoryVerbs(world, target=CLUSTER)
    for headers in ({"response": {"set": {"x-team": "risk"}}}, "none"):
        verbs.policy("churn", {"subset": "churn-v1", "headers": headers})
        found = world.cluster.get("VirtualService", "churn")
        assert found is not None
        last = found["spec"]["http"][-1]["route"][0]["headers"]["response"]["set"]
        assert last["x-mlflow-model-version"] == "churn/1"
    assert "x-team" not in last


def test_a_deployment_that_goes_leaves_no_version_behind() -> None:
    world = created(created(World()), "churn-v2")
    InMemoryVerbs(world, target=CLUSTER).delete("churn-v2", "churn", {})
    assert dict(world.endpoint().traffic.policy.versions) == {"churn-v1": "churn/1"}


@pytest.mark.parametrize(
    ("said", "server", "beside"),
    [
        (
            {"runtime": "mlserver", "image": "theirs:1", "env": {"MLFLOW_ISTIO_RECORD": "1"}},
            "theirs:1",
            {"here/ours:1"},
        ),
        ({}, "here/ours:1", set()),
        ({"image": "theirs:1", "model_source": "init"}, "theirs:1", {"theirs:1"}),
    ],
    ids=["another runtime", "ours", "ours in an image of its own"],
)
def test_the_serving_image_is_the_one_that_is_said(said: dict[str, Any], server: str, beside: set[str]) -> None:
    world = World()
    InMemoryVerbs(world, target=CLUSTER).create(
        "churn-v1", "models:/churn/1", None, "churn", {**said, "serving_image": "here/ours:1"}
    )
    pod = pod_of(world, "churn-v1")
    assert container_of(world, "churn-v1")["image"] == server
    assert {one["image"] for one in pod.get("initContainers", ())} == beside


def test_views_say_which_server_runs_and_where_it_is_asked() -> None:
    verbs = InMemoryVerbs(created(World()), target=CLUSTER)
    view = verbs.endpoint("churn")
    assert view["scoring_url"].endswith("/score")
    assert view["deployments"][0]["runtime"] == "container"


def test_a_server_that_takes_the_models_files_gets_them_from_an_init_container() -> None:
    world = World()
    options = {"runtime": "mlserver", "image": "theirs:1"}
    InMemoryVerbs(world, target=CLUSTER).create("churn-v1", "models:/churn/1", None, "churn", options)
    found = world.cluster.get("Deployment", "churn-v1")
    assert found is not None
    pod = found["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["image"].startswith("mlflow-istio-serving:")
    env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert env["MLFLOW_ISTIO_MODEL_URI"] == "/model"
    assert env["MLSERVER_MODEL_URI"] == "$(MLFLOW_ISTIO_MODEL_URI)"
    assert list(env).index("MLFLOW_ISTIO_MODEL_URI") < list(env).index("MLSERVER_MODEL_URI")  # references look back


def test_the_same_command_again_changes_nothing() -> None:
    world = created(World())
    before = world.text()
    assert created(world).text() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"name: a\nname: b\n", "is no YAML: line 2 gives 'name' a second time"),
        (b"name: a\nenv: {A: '1', A: '2'}\n", "is no YAML: line 2 gives 'A' a second time"),
        (b"name: \xff\n", "can't be read: 'utf-8' codec"),
        (b"a: [\n", "is no YAML: "),
        (b"- a\n", "must hold keys and values"),
        (b"", "must hold keys and values"),
        (b"command: !!python/object/apply:os.getcwd []\n", "is no YAML: could not determine a constructor"),
    ],
)
def test_a_profile_that_can_not_be_read_is_one_line(tmp_path: Path, text: bytes, words: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(text)
    with pytest.raises(InvalidInput) as refused:
        load_runtime(str(file))
    assert refused.value.message.startswith(f"runtime profile '{file}'")
    assert words in refused.value.message
    assert "\n" not in refused.value.message


def test_the_port_of_a_service_link_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes' documentation, "Accessing the Service": a Service named mlflow-istio puts tcp://... there in every pod."""
    monkeypatch.setenv("MLFLOW_ISTIO_PORT", "tcp://10.0.0.11:80")
    assert runtime_of_deployment(created(World()).cluster.get("Deployment", "churn-v1") or {}).port == 8080


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "mlsever"}, "unknown runtime 'mlsever': did you mean 'mlserver'?"),
        ({"runtime": "/no/such.yaml"}, "runtime profile '/no/such.yaml' can't be read: No such file"),
        ({"image": "mlflow-istio-serving:0.1.0"}, "runtime 'container' has no image of its own"),
        ({"runtime": "mlflow"}, "option 'command' has no effect with runtime=mlflow"),
        ({"env_manager": "uv"}, "option 'env_manager' has no effect with runtime=container"),
        ({"max_body": 5}, "option 'max_body' has no effect with runtime=container"),
        ({"scoring": "/other"}, "is asked at /other, but callers of endpoint 'churn' ask at /score"),
        ({"strategy": "shadow"}, "strategy shadow compares recorded answers, and runtime 'container' records none"),
        ({"command": ["x", "$HTSO"]}, "'command' has $HTSO, which stands for nothing"),
        ({"port": 0}, "option 'port' can't be 0"),
        ({"readiness": "healthz"}, "option 'readiness' can't be 'healthz': it must be a path"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_applied(options: dict[str, Any], words: str) -> None:
    world = created(World())
    before = everything(world)
    with pytest.raises(MlflowIstioError) as found:
        created(world, "churn-v2", **options)
    assert words in found.value.message
    assert everything(world) == before


def test_a_deployment_never_changes_its_server() -> None:
    world = created(World())
    with pytest.raises(MlflowIstioError, match="a deployment never changes its server"):
        created(world, command=["another"])


def test_a_port_that_the_service_does_not_send_to_is_named() -> None:
    world = a_world("churn-v1")
    service = world.cluster.get("Service", "churn")
    assert service is not None
    service["spec"]["ports"][0]["targetPort"] = 8080  # as the version before wrote it
    world.cluster.apply(service)
    with pytest.raises(MlflowIstioError, match=r"sends requests to port 8080, and runtime 'container' listens at 9000"):
        created(world, "churn-v2", port=9000, scoring="/invocations")


def test_what_comes_back_needs_a_word_on_its_server() -> None:
    world = created(created(World()), "churn-v2", strategy="canary", weight=10)
    verbs = InMemoryVerbs(world, target=CLUSTER)
    to = world.endpoint().sequence
    verbs.update_endpoint("churn", {"action": "abort"})
    verbs.delete("churn-v2", "churn", {})
    with pytest.raises(MlflowIstioError, match="was not run by our own server: say what runs it"):
        verbs.update_endpoint("churn", {"action": "rollback", "to": to})
    verbs.update_endpoint("churn", {"action": "rollback", "to": to, "redeploy": THEIRS})
    assert world.endpoint().traffic.weights["churn-v2"] == 10


RECORDING = {"env": {"MLFLOW_ISTIO_RECORD": "1"}}


def pod_of(world: World, name: str) -> Any:
    found = world.cluster.get("Deployment", name)
    assert found is not None
    return found["spec"]["template"]["spec"]


def test_a_server_that_can_not_record_is_a_shadow_where_both_have_a_recorder() -> None:
    world = created(created(World(), **RECORDING), "churn-v2", strategy="shadow", mirror=100, **RECORDING)
    assert world.endpoint().release.strategy == "shadow"  # type: ignore[union-attr]
    for name in ("churn-v1", "churn-v2"):
        (recorder,) = pod_of(world, name)["initContainers"]
        assert recorder["image"].startswith("mlflow-istio-serving:")
        (token,) = (one["value"] for one in recorder["env"] if one["name"] == "MLFLOW_ISTIO_RECORD_TOKEN")
        assert token not in str(container_of(world, name)), "the model's code does not know it"
        assert variable_of(world.cluster.get("Deployment", name) or {}, "MLFLOW_ISTIO_RECORD_TOKEN") == token


@pytest.mark.parametrize("recording", ["churn-v1", "churn-v2"])
def test_a_shadow_of_which_one_side_has_no_recorder_is_refused(recording: str) -> None:
    first, second = (RECORDING if name == recording else {} for name in ("churn-v1", "churn-v2"))
    world = created(World(), **first)
    before = everything(world)
    with pytest.raises(MlflowIstioError, match="runtime 'container' records none: .*let both record"):
        created(world, "churn-v2", strategy="shadow", mirror=100, **second)
    assert everything(world) == before


def test_the_same_command_again_keeps_a_recorders_token() -> None:
    world = created(World(), **RECORDING)
    before = world.text()
    assert created(world, **RECORDING).text() == before


def test_an_update_reaches_the_recorder_by_what_is_about_records() -> None:
    world = created(World(), **RECORDING)
    changed = {"env": {"MLFLOW_ISTIO_RECORD": "0.5", "PRICE": "2"}, "image": "theirs:2"}
    InMemoryVerbs(world, target=CLUSTER).update("churn-v1", None, None, changed)
    (recorder,), server = pod_of(world, "churn-v1")["initContainers"], container_of(world, "churn-v1")
    assert {"name": "MLFLOW_ISTIO_RECORD", "value": "0.5"} in recorder["env"]
    assert "PRICE" not in str(recorder)
    assert {"name": "PRICE", "value": "2"} in server["env"]
    assert "MLFLOW_ISTIO_RECORD" not in str(server)
    assert (server["image"], recorder["image"].partition(":")[0]) == ("theirs:2", "mlflow-istio-serving")


def test_the_same_command_with_a_word_on_records_brings_the_recorder() -> None:
    world = created(created(World()), **RECORDING)
    (recorder,) = pod_of(world, "churn-v1")["initContainers"]
    assert recorder["name"] == "recorder"
    created(world, "churn-v2", strategy="shadow", mirror=100, **RECORDING)


def test_an_update_that_asks_for_records_which_nobody_keeps_is_refused() -> None:
    world = created(World())
    before = everything(world)
    with pytest.raises(MlflowIstioError, match="'churn-v1' runs runtime 'container' without a recorder"):
        InMemoryVerbs(world, target=CLUSTER).update("churn-v1", None, None, RECORDING)
    assert everything(world) == before


def test_a_service_that_leads_past_the_recorder_is_named() -> None:
    world = created(World())
    service = world.cluster.get("Service", "churn")
    assert service is not None
    service["spec"]["ports"][0]["targetPort"] = 8080
    world.cluster.apply(service)
    words = "sends requests to port 8080, past the recorder beside runtime 'container', which listens at 8790: set targetPort"
    with pytest.raises(MlflowIstioError, match=words):
        created(world, "churn-v2", **RECORDING)


def test_who_records_is_listed() -> None:
    by_name = {view["name"]: view for view in runtime_views()}
    assert {name: view["recorded by"] for name, view in by_name.items()} == {
        "mlflow": "server",
        **dict.fromkeys(("mlserver", "openai", "triton", "container"), "recorder"),
    }
    assert all("shadow" in view["strategies"] for view in by_name.values())


def test_a_kind_that_speaks_grpc_is_recorded_by_nobody(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("name: mine\nprotocol: grpc\nreadiness: ''\nscoring: ''\nbody: none\n")
    (view,) = runtime_views(str(profile))
    assert (view["recorded by"], "shadow" in view["strategies"]) == ("", False)
    assert "nobody" in CliRunner().invoke(main, ["runtimes", str(profile)]).output


def test_the_command_lists_and_checks(tmp_path: Path) -> None:
    listed = CliRunner().invoke(main, ["runtimes"])
    assert listed.exit_code == 0
    assert "/v2/models/model/infer" in listed.output
    profile = tmp_path / "mine.yaml"
    profile.write_text("name: mine\nredines: /ready\n")
    checked = CliRunner().invoke(main, ["runtimes", str(profile)])
    assert checked.exit_code != 0
    assert "there is no 'redines': did you mean 'readiness'?" in checked.output + repr(checked.exception)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"port": 9000},
            "option 'port' has no effect with runtime=container on this machine, .*: leave it out, and say .PORT",
        ),
        ({"env": {"A=B": "c"}}, "no variable can have the name 'A=B'"),
        ({"env": {"": "c"}}, "no variable can have the name ''"),
        ({"env": {"A": "b\0c"}}, "variable 'A' holds what no variable can"),
    ],
)
def test_what_no_process_of_this_machine_can_have_is_refused_with_nothing_applied(
    options: dict[str, Any], says: str
) -> None:
    theirs = {name: value for name, value in THEIRS.items() if name != "image"}
    world = World()
    with pytest.raises(InvalidInput, match=says):
        InMemoryVerbs(world).create("churn-v1", "models:/churn/1", None, "churn", {**theirs, **options})
    assert world.cluster.get("Deployment", "churn-v1") is None
