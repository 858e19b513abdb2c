"""The life of the local mesh with real processes: rolling, dying, coming back, refusing; what a user sees."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest

from mlflow_istio.adapters.local.free_ports import is_free
from mlflow_istio.adapters.local.launch import identity
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import ClusterError
from tests.contract.cluster_contract import request
from tests.contract.model_server import deployment, destination_rule, service
from tests.e2e.mesh_calls import admin, answers, at_once, held_back, serve, shift, until
from tests.e2e.mesh_load import Load

pytestmark = pytest.mark.e2e


def test_a_rolling_update_and_scaling_lose_no_request(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    with Load(shared, endpoint) as load:
        for number, replicas in enumerate((1, 3, 2, 1)):
            shared.apply(deployment(endpoint, a, version=f"m/{number}", replicas=replicas))
            shared.wait_ready(a, 120)
            before = load.count
            until(lambda before=before: load.count > before + 200)  # type: ignore[misc]
    assert not load.failures
    assert set(load.versions) == {f"m/{a}", "m/0", "m/1", "m/2", "m/3"}


def test_open_requests_of_a_replaced_replica_end_in_their_own_time(shared: LocalMesh, endpoint: str) -> None:
    """Answers take 0.2 s and the server does not wait for them when it is stopped, but ``preStop`` gives it 1 s."""

    def patient(version: str) -> Object:
        wanted = deployment(endpoint, f"{endpoint}-a", version=version, mode="slow")
        wanted["spec"]["template"]["spec"]["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": 1}}}
        return wanted

    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    shared.apply(patient("m/slow"))
    shared.wait_ready(a, 120)
    with Load(shared, endpoint, threads=8) as load:
        until(lambda: load.count > 16)
        shared.apply(patient("m/slower"))
        shared.wait_ready(a, 120)
        until(lambda: load.versions["m/slower"] > 0)
    assert not load.failures


def test_a_killed_replica_is_restarted_and_serves_again(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    (replica,) = [one for one in shared.status().replicas if one.deployment == a]
    os.kill(replica.pid, signal.SIGKILL)
    until(lambda: identity(replica.pid) is None)
    shared.wait_ready(a, 120)
    (again,) = [one for one in shared.status().replicas if one.deployment == a]
    assert again.pid != replica.pid
    assert (again.restarts, again.ready, again.port) == (1, True, replica.port)
    until(lambda: request(shared, endpoint)[0] == 200)


def test_a_replica_that_stops_answering_gets_no_requests_until_it_answers_again(
    shared: LocalMesh, endpoint: str
) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    wanted = deployment(endpoint, a, version="m/checked", replicas=2)
    wanted["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["failureThreshold"] = 1
    shared.apply(wanted)
    shared.wait_ready(a, 120)
    frozen = next(one for one in shared.status().replicas if one.deployment == a)
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        until(lambda: frozen.port in held_back(shared))
        assert Counter(answers(shared, endpoint, 200)) == {(200, "m/checked"): 200}
        found = shared.get("Deployment", a)
        assert found is not None
        assert (found["status"]["replicas"], found["status"]["readyReplicas"]) == (2, 1)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    until(lambda: frozen.port not in held_back(shared))


def test_envoy_comes_back_after_it_was_killed(mesh: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(mesh, endpoint, {a: 100})
    pid = mesh.status().processes[0].pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: identity(pid) is None)
    shift(mesh, endpoint, "after", {a: 100})
    assert request(mesh, endpoint)[0] == 200


def test_down_and_up_keep_ports_and_objects(mesh: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(mesh, endpoint, {a: 100})
    before = mesh.status()
    objects = {kind: mesh.list(kind, {}) for kind in ("Service", "DestinationRule", "VirtualService")}
    pids = [process.pid for process in before.processes]
    mesh.down()
    assert all(identity(pid) is None for pid in pids)
    assert not mesh.status().running
    found = mesh.get("Deployment", a)
    assert found is not None
    assert found["status"]["readyReplicas"] == 0

    again = LocalMesh(mesh.status().directory.parent, mesh.name)
    after = again.up()
    assert after.endpoints == before.endpoints
    assert {kind: again.list(kind, {}) for kind in objects} == objects
    again.wait_ready(a, 120)
    assert request(again, endpoint)[1]["x-mlflow-model-version"] == f"m/{a}"


def test_up_again_changes_nothing(mesh: LocalMesh, endpoint: str) -> None:
    serve(mesh, endpoint, {f"{endpoint}-a": 100})
    before = [(process.name, process.pid) for process in mesh.status().processes]
    mesh.up()
    assert [(process.name, process.pid) for process in mesh.status().processes] == before


def test_a_taken_port_is_an_error_that_names_port_and_endpoint(mesh: LocalMesh, endpoint: str) -> None:
    serve(mesh, endpoint, {f"{endpoint}-a": 100})
    port = mesh.status().endpoints[endpoint]
    mesh.down()
    with occupied(port):
        with pytest.raises(ClusterError, match=f"port {port} of endpoint '{endpoint}' is taken") as caught:
            mesh.up()
        assert "--new-ports" in str(caught.value)
        assert not mesh.status().running
        moved = mesh.up(new_ports=True).endpoints[endpoint]
        assert moved != port
        mesh.wait_ready(f"{endpoint}-a", 120)
        assert request(mesh, endpoint)[0] == 200


def test_an_endpoint_made_anew_gets_another_port_when_its_former_one_is_taken(mesh: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(mesh, endpoint, {a: 100})
    port = mesh.status().endpoints[endpoint]
    mesh.delete("VirtualService", endpoint)
    shift(mesh, endpoint, "again", {a: 100})
    assert mesh.status().endpoints[endpoint] == port
    mesh.delete("VirtualService", endpoint)
    with occupied(port):
        shift(mesh, endpoint, "elsewhere", {a: 100})
        assert mesh.status().endpoints[endpoint] != port


def test_a_port_taken_while_envoy_was_away_is_named_and_holds_up_no_other_endpoint(mesh: LocalMesh) -> None:
    serve(mesh, "churn", {"churn-a": 100})
    serve(mesh, "fraud", {"fraud-a": 100})
    status = mesh.status()
    port, envoy = status.endpoints["churn"], status.processes[0].pid
    supervisor = int((status.directory / "run" / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(envoy, signal.SIGKILL)
        until(lambda: is_free(port))
        taken = occupied(port)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    with taken:
        until(lambda: mesh.status().processes[0].ready)
        with pytest.raises(ClusterError, match=f"Envoy can't open the port of endpoint 'churn' .*{port}"):
            mesh.up()
        mesh.apply(destination_rule("fraud", "fraud-a", loadBalancer={"simple": "RANDOM"}))
        shift(mesh, "fraud", "second", {"fraud-a": 100})
    mesh.up()
    assert request(mesh, "churn")[0] == 200


def occupied(port: int) -> socket.socket:
    """Another program's server on a port."""
    return socket.create_server(("127.0.0.1", port))


def test_what_a_killed_supervisor_left_is_ended_by_the_next_command(mesh: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(mesh, endpoint, {a: 100})
    directory = mesh.status().directory
    old = {process.pid for process in mesh.status().processes}
    supervisor = int((directory / "run" / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: identity(supervisor) is None)
    assert all(identity(pid) is not None for pid in old), "without its supervisor the mesh goes on serving"
    shift(mesh, endpoint, "after", {a: 100})
    assert all(identity(pid) is None for pid in old)
    mesh.wait_ready(a, 120)
    assert request(mesh, endpoint)[0] == 200


def test_down_after_a_killed_supervisor_leaves_nothing(mesh: LocalMesh, endpoint: str) -> None:
    serve(mesh, endpoint, {f"{endpoint}-a": 100})
    old = {process.pid for process in mesh.status().processes}
    supervisor = int((mesh.status().directory / "run" / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: identity(supervisor) is None)
    mesh.down()
    assert all(identity(pid) is None for pid in old)


def test_two_processes_that_edit_at_once_lose_nothing(mesh: LocalMesh, endpoint: str) -> None:
    serve(mesh, endpoint, {f"{endpoint}-a": 100})
    at_once("count", mesh, endpoint)
    found = mesh.get("VirtualService", endpoint)
    assert found is not None
    assert found["metadata"]["annotations"]["count"] == "100"


def test_two_processes_that_bring_it_up_at_once_start_it_once(mesh: LocalMesh) -> None:
    at_once("up", mesh)
    status = mesh.status()
    assert status.running
    assert status.processes[0].ready


def test_two_meshes_side_by_side_do_not_meet(tmp_path: Path) -> None:
    one, two = LocalMesh(tmp_path, "one"), LocalMesh(tmp_path, "two")
    try:
        serve(one, "churn", {"churn-a": 100})
        serve(two, "churn", {"churn-b": 100})
        assert request(one, "churn")[1]["x-mlflow-deployment"] == "churn-a"
        assert request(two, "churn")[1]["x-mlflow-deployment"] == "churn-b"
    finally:
        one.down(purge=True)
        two.down(purge=True)


def test_a_long_state_directory_works(tmp_path: Path) -> None:
    """Paths of unix sockets have a limit of about a hundred characters; state directories have not."""
    mesh = LocalMesh(tmp_path / ("long" * 40), "own")
    try:
        assert mesh.up().processes[0].ready
    finally:
        mesh.down(purge=True)


def test_a_directory_with_spaces_works(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path / "my meshes & more", "own")
    try:
        serve(mesh, "churn", {"churn-a": 100})
        assert request(mesh, "churn")[0] == 200
    finally:
        mesh.down(purge=True)


def test_replicas_inherit_the_environment_and_get_their_own(
    mesh: LocalMesh, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_THE_SHELL", "inherited")
    source = (
        "import http.server, json, os\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        body = json.dumps(dict(os.environ)).encode()\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(body)\n"
        "    def log_message(self, *a): pass\n"
        "http.server.HTTPServer((os.environ['MLFLOW_ISTIO_HOST'], int(os.environ['MLFLOW_ISTIO_PORT'])), H)"
        ".serve_forever()\n"
    )
    a = f"{endpoint}-a"
    wanted = deployment(
        endpoint, a, GREETING='with "quotes", 100% and ; semicolons', BASE="x", DERIVED="$(BASE)/$$(BASE)"
    )
    wanted["spec"]["template"]["spec"]["containers"][0]["command"] = ["python", "-c", source]
    mesh.apply(wanted)
    mesh.wait_ready(a, 120)
    mesh.apply(service(endpoint))
    mesh.apply(destination_rule(endpoint, a))
    shift(mesh, endpoint, "first", {a: 100})
    seen = json.loads(request(mesh, endpoint)[2])
    assert seen["FROM_THE_SHELL"] == "inherited"
    assert seen["GREETING"] == 'with "quotes", 100% and ; semicolons'
    assert seen["DERIVED"] == "x/$(BASE)"
    assert seen["MLFLOW_ISTIO_HOST"] == "127.0.0.1"
    assert not [name for name in seen if name.startswith("SUPERVISOR_")]


def test_metrics_name_the_subset_and_hold_histograms(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    answers(shared, endpoint, 20)
    text = admin(shared, "/stats/prometheus")
    cluster = f'envoy_cluster_name="outbound|80|{a}|{endpoint}"'
    assert f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="2",{cluster}}}' in text
    assert f"envoy_cluster_upstream_rq_time_bucket{{{cluster}," in text


def test_deleting_an_endpoint_closes_its_port_and_ends_its_processes(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    port = shared.status().endpoints[endpoint]
    pids = [one.pid for one in shared.status().replicas if one.deployment == a]
    for kind, name in (("VirtualService", endpoint), ("DestinationRule", endpoint), ("Service", endpoint)):
        assert shared.delete(kind, name)
    assert shared.delete("Deployment", a)
    assert all(identity(pid) is None for pid in pids)
    assert endpoint not in shared.status().endpoints

    def refused() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) != 0

    until(refused)


def test_purge_leaves_nothing_but_the_lock(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path, "gone")
    mesh.up()
    mesh.down(purge=True)
    assert [path.name for path in tmp_path.iterdir()] == ["gone.lock"]
