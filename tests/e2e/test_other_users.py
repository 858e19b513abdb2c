"""What other users of this machine reach of a mesh, and an Envoy that somebody made deaf."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from mlflow_istio.adapters.local.envoy.admin import EnvoyAdmin
from mlflow_istio.adapters.local.free_ports import is_open
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.adapters.local.processes import ENVOY, Supervisor
from mlflow_istio.adapters.local.state import StateDirectory
from mlflow_istio.calls import unix_sockets
from mlflow_istio.cli import main
from mlflow_istio.client.plugin import IstioDeploymentClient
from mlflow_istio.errors import ClusterError
from tests.contract.model_server import deployment, service, virtual_service, with_spec
from tests.e2e.mesh_calls import admin_path, answers, serve, shift, until
from tests.support.mlflow_addresses import mlflow_at
from tests.support.registered_models import register

pytestmark = pytest.mark.e2e

PLANTED = "s3cr3t0planted0here"
SECRET_VARIABLES = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"),
    *("MLFLOW_ISTIO_PROMETHEUS_PASSWORD", "MLFLOW_ISTIO_PROMETHEUS_TOKEN"),
)
STRANGER = 54321
"""A user that nobody is; root may become it."""

TRY = """
import os, socket, sys
os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
for path in sys.argv[2:]:
    for what, attempt in {
        "list": os.listdir, "read": lambda path: open(path).read(), "write": lambda path: open(path, "w"),
        "remove": os.unlink, "connect": lambda path: socket.socket(socket.AF_UNIX).connect(path),
    }.items():
        try:
            attempt(path)
        except PermissionError:
            continue
        except OSError as exc:
            print(what, path, exc)
        else:
            print(what, path, "worked")
print("tried as", os.getuid())
"""


@pytest.fixture(scope="module")
def served(shared: LocalMesh) -> LocalMesh:
    serve(shared, "churn", {"churn-a": 100})
    return shared


def ask(mesh: LocalMesh, method: str, path: str, **headers: str) -> tuple[int, str]:
    """What the port of the statistics answers."""
    connection = http.client.HTTPConnection(urlsplit(mesh.status().statistics_url).netloc, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_user_gets_at_neither_the_sockets_nor_the_files(served: LocalMesh) -> None:
    root = served.status().directory
    supervisor = root / "run" / "supervisor.sock"
    if not supervisor.exists():  # the folder's name was too long for a socket
        supervisor = next(Path(f"/tmp/mlflow-istio-{os.getuid()}").glob("*.sock"))
    paths = [supervisor, admin_path(served), root, root / "run", root / "ports.json", root / "logs" / "envoy.log"]
    assert all(path.exists() for path in paths)
    answer = subprocess.run(
        [sys.executable, "-I", "-c", TRY, str(STRANGER), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == f"tried as {STRANGER}\n"
    assert answers(served, "churn", 4) == [(200, "m/churn-a")] * 4


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/drain_listeners"),
        ("POST", "/quitquitquit"),
        ("GET", "/quitquitquit"),
        ("GET", "/config_dump"),
        ("GET", "/stats"),
        ("GET", "/stats/prometheus/../../config_dump"),
        ("POST", "/stats/prometheus"),
        ("POST", "/stats/prometheus/../quitquitquit"),
    ],
)
def test_the_port_of_the_statistics_serves_nothing_else(served: LocalMesh, method: str, path: str) -> None:
    status, body = ask(served, method, path)
    assert (status, body) == (403, "only GET /stats/prometheus is served here\n")
    assert ask(served, "GET", "/stats/prometheus?filter=server.live")[0] == 200


def test_a_web_page_whose_name_leads_here_gets_no_statistics(served: LocalMesh) -> None:
    assert ask(served, "GET", "/stats/prometheus", Host="evil.example")[0] == 404
    assert ask(served, "GET", "/stats/prometheus", Host="localhost:9999")[0] == 200


@pytest.mark.parametrize("damage", ["", "null", "[" * 3000, '{"object": {"kind": "x"}}', "a spec that can't be right"])
def test_a_damaged_file_of_one_endpoint_holds_back_no_other(served: LocalMesh, damage: str) -> None:
    """Objects and a replica; what runs goes on as it was, and its own commands name the file."""
    root = served.status().directory
    replica = next((root / "replicas").glob("churn-a-*.json"))
    files = [root / "objects" / kind / "churn.json" for kind in ("VirtualService", "Service", "DestinationRule")]
    files += [root / "objects/Deployment/churn-a.json", replica]
    for file in files:
        was = file.read_text()
        spec = json.loads(was)
        if damage.startswith("a spec"):
            if file == replica:
                continue
            spec["object"]["spec"] = {"http": 3, "ports": "x", "subsets": 3, "template": [], "hosts": ["churn"]}
        file.write_text(json.dumps(spec) if damage.startswith("a spec") else damage)
        try:
            if damage and not damage.startswith("a spec") and file != replica:
                with pytest.raises(ClusterError, match=file.name):
                    served.get(file.parent.name, file.stem)
            served.apply(service("other"))
            served.edit("VirtualService", "other", with_spec(virtual_service("other", "first", {"nobody": 100})))
            assert served.delete("VirtualService", "other")
            assert served.delete("Service", "other")
            assert answers(served, "churn", 4) == [(200, "m/churn-a")] * 4
        finally:
            file.write_text(was)


@pytest.mark.parametrize(
    "damage", ["", "null", "[]", "[" * 3000, "{}", '{"admin": 1, "endpoints": {"churn": "x"}}', '{"pid": "x"}']
)
def test_a_damaged_file_of_all_endpoints_holds_back_none(served: LocalMesh, damage: str) -> None:
    """Ports, what routes hash, and the notes of who runs: everybody keeps port and answers, and changes go on."""
    root = served.status().directory
    served.apply(service("other"))
    before = served.status()
    notes = sorted((root / "run").glob("*.json")) + sorted((root / "run").glob("*.ready"))
    assert len(notes) > 2
    for file in (root / "ports.json", root / "hashes.json", *notes):
        was = file.read_text()
        file.write_text(damage)
        try:
            assert served.status().endpoints == before.endpoints
            shift(served, "churn", f"change-{file.stem}-{len(damage)}", {"churn-a": 100})
            served.edit("VirtualService", "other", with_spec(virtual_service("other", "first", {"nobody": 100})))
            assert served.up().endpoints["churn"] == before.endpoints["churn"]
            assert served.delete("VirtualService", "other")
            assert answers(served, "churn", 4) == [(200, "m/churn-a")] * 4
        finally:
            if file in notes:
                file.write_text(was)
    assert served.delete("Service", "other")
    assert json.loads((root / "ports.json").read_text())["endpoints"]["churn"] == before.endpoints["churn"]


def test_a_program_that_takes_the_port_of_the_statistics_keeps_nobody_waiting(served: LocalMesh) -> None:
    """It comes while Envoy is down: endpoints answer as soon as Envoy is back, and the statistics move when somebody looks."""
    before = served.status()
    supervisor = Supervisor(StateDirectory(before.directory.parent, served.name), served.name)
    supervisor.end([ENVOY])
    with socket.create_server(("127.0.0.1", urlsplit(before.statistics_url).port or 0)):
        supervisor.add([ENVOY])
        until(EnvoyAdmin(path=admin_path(served)).is_ready)
        until(lambda: is_open(before.endpoints["churn"]))
        assert answers(served, "churn", 4) == [(200, "m/churn-a")] * 4
        environment = {"MLFLOW_ISTIO_HOME": str(before.directory.parent)}
        said = CliRunner().invoke(main, ["local", "up", "-t", f"istio-local:/{served.name}"], env=environment)
        after = served.status()
        assert said.output.splitlines()[0] == (
            f"another program has taken the port of {before.statistics_url}: Envoy's statistics are at {after.statistics_url} now"
        )
        assert after.statistics_url != before.statistics_url
        assert ask(served, "GET", "/stats/prometheus?filter=server.live")[0] == 200
    assert after.endpoints == before.endpoints
    assert answers(served, "churn", 4) == [(200, "m/churn-a")] * 4


def test_what_stands_in_files_of_a_replica_s_environment_is_its_owner_s_alone(tmp_path: Path) -> None:
    """Whatever the umask: the folder lets nobody else in, and no file of ours that has the value could be read by others."""
    mesh, mask = LocalMesh(tmp_path / "meshes", "own", pause=0.1), os.umask(0)
    try:
        mesh.apply(deployment("churn", "churn-a", version="m/churn-a", GIVEN=PLANTED))
        mesh.wait_ready("churn-a", 120)
        root = mesh.status().directory
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        holding = [path for path in root.rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]
        assert {path.parent.name for path in holding} == {"Deployment", "replicas"}  # as they are, and as written last
        assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in holding} == {"0o600"}
        ours = [
            path for path in root.rglob("*") if path.is_file() and path.suffix in (".json", ".ini", ".ready", ".id")
        ]
        assert [str(path) for path in ours if stat.S_IMODE(path.stat().st_mode) & 0o022] == []
    finally:
        os.umask(mask)
        mesh.down(purge=True)


def drained(mesh: LocalMesh) -> None:
    """Envoy lives and closes its ports."""
    connection = unix_sockets.UnixConnection(admin_path(mesh), timeout=60)
    connection.request("POST", "/drain_listeners")
    assert connection.getresponse().status == 200
    connection.close()


def frozen(mesh: LocalMesh) -> None:
    """Envoy lives and does nothing; its ports still take connections."""
    os.kill(mesh.status().processes[0].pid, signal.SIGSTOP)


def of_before(mesh: LocalMesh) -> None:
    """Envoy's admin interface listens where an older version looks for it."""
    admin_path(mesh).unlink()


@pytest.mark.parametrize("deaf", [drained, frozen, of_before])
def test_up_mends_an_envoy_that_does_not_answer(served: LocalMesh, deaf: object) -> None:
    before = served.status()
    assert callable(deaf)
    deaf(served)
    after = served.up()
    assert after.processes[0].ready
    assert (after.endpoints, after.statistics_url) == (before.endpoints, before.statistics_url)
    assert [one.pid for one in after.replicas] == [one.pid for one in before.replicas]
    assert answers(served, "churn", 4) == [(200, "m/churn-a")] * 4


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, _fresh_database: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder with all that a release leaves, driven by somebody with secrets in environment and options; what was printed."""
    folder = tmp_path_factory.mktemp("released")
    uri = f"sqlite:///{shutil.copy(_fresh_database, folder / 'mlflow.db')}"

    class Gate(http.server.BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def do_POST(self) -> None:
            self.asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch, mlflow_at(uri):
        patch.setenv("MLFLOW_ISTIO_HOME", str(folder / "meshes"))
        for name in SECRET_VARIABLES:
            patch.setenv(name, PLANTED)
        patch.setenv("GATE", f"http://127.0.0.1:{gate.server_port}/{PLANTED}?token={PLANTED}")
        patch.chdir(folder)
        for version in (1, 2):
            register(uri, "churn", float(version), folder / "artifacts")
        client = IstioDeploymentClient("istio-local")
        plan = {"analysis": "none", "warmup": 0, "hold": 0, "min_requests": 0, "interval": 0.2, "steps": "50"}
        address = f"http://ada:{PLANTED}@prometheus.example:9090"
        said = {"webhooks": ["env:GATE"], "reason": f"see {address}", "prometheus_url": address}
        try:
            client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
            client.release("churn", "models:/churn/2", **plan, **said)
            commands = (
                ["status"],
                ["history", "churn"],
                ["export", "churn"],
                ["report", "churn"],
                ["doctor"],
                ["local", "status"],
            )
            printed = [CliRunner().invoke(main, command).output for command in commands]
            assert any(PLANTED in path for path in Gate.asked)
            yield folder, printed
        finally:
            gate.shutdown()
            gate.server_close()
            LocalMesh(folder / "meshes").down(purge=True)


def test_no_secret_of_who_drives_is_written_anywhere(released: tuple[Path, list[str]]) -> None:
    """Mesh, logs, ledger, artifacts, page and output; nor does it stand among the arguments of a process."""
    folder, printed = released
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"mlflow.db", "envoy.log", "churn.json", "ports.json"} <= names
    assert any(name.endswith(".html") for name in names)
    assert [str(path) for path in files if PLANTED.encode() in path.read_bytes()] == []
    assert all(printed)
    assert [text for text in printed if PLANTED in text] == []
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            commands.append(path.read_bytes())
    assert any(str(folder).encode() in command for command in commands) or sys.platform != "linux"
    assert [command for command in commands if PLANTED.encode() in command] == []


def test_doctor_notices_closed_ports_and_mends_them(released: tuple[Path, list[str]]) -> None:
    drained(LocalMesh(Path(os.environ["MLFLOW_ISTIO_HOME"])))
    seen = json.loads(CliRunner().invoke(main, ["doctor", "churn", "--json"]).stdout)
    assert [(finding["code"], finding["safe"]) for finding in seen["findings"]] == [("proxy-behind", True)]
    mended = json.loads(CliRunner().invoke(main, ["doctor", "churn", "--json", "--fix"]).stdout)
    assert [(one["code"], one["problem"]) for one in mended["mended"]] == [("proxy-behind", "")]
    assert mended["healthy"]
    assert IstioDeploymentClient("istio-local").predict(endpoint="churn", inputs={"inputs": [[1.0, 2.0]]}) is not None


def test_a_socket_that_somebody_else_put_there_is_not_believed(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path, "own")
    mesh.up()
    path = admin_path(mesh)
    mesh.down()
    path.parent.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as forged:
        forged.bind(str(path))
        forged.listen()
        with pytest.raises(ClusterError, match="must be a folder that only you can enter"):
            unix_sockets.get(path, "/ready", timeout=5)
        path.parent.chmod(0o700)
        if os.getuid() == 0:
            os.lchown(path, STRANGER, STRANGER)
            with pytest.raises(ClusterError, match="is no socket of yours"):
                unix_sockets.get(path, "/ready", timeout=5)
