"""What the supervisor is told, who a process is, and what importing the mesh costs."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlflow_istio.adapters.local import launch
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.adapters.local.processes import Supervisor, program_config, supervisor_config
from mlflow_istio.adapters.local.state import StateDirectory
from mlflow_istio.errors import ClusterError

ROOT = Path(__file__).parents[4]


def parsed(text: str) -> configparser.ConfigParser:
    """The file as supervisor reads it."""
    parser = configparser.ConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    return parser


def test_the_supervisor_listens_on_a_socket_that_only_its_owner_may_use() -> None:
    config = parsed(supervisor_config(mesh="default", root=Path("/s"), socket_path=Path("/s/run/supervisor.sock")))
    assert config["unix_http_server"] == {"file": "/s/run/supervisor.sock", "chmod": "0700"}
    assert not any(section.startswith("inet_http_server") for section in config)
    assert config["include"]["files"] == "programs/*.ini"


def test_a_program_is_restarted_without_end_and_stopped_with_its_children() -> None:
    root = Path("/home/some one/mesh")
    text = program_config(
        "churn-v1-0",
        root=root,
        document=root / "replicas/churn-v1-0.json",
        note=root / "run/churn-v1-0.json",
        grace=7,
        start_seconds=10,
    )
    program = parsed(text)["program:churn-v1-0"]
    assert shlex.split(program["command"]) == [
        sys.executable,
        "-I",
        launch.__file__,
        "/home/some one/mesh/replicas/churn-v1-0.json",
        "/home/some one/mesh/run/churn-v1-0.json",
    ]
    assert (program["autorestart"], program["stopasgroup"], program["killasgroup"]) == ("true", "true", "true")
    assert int(program["startretries"]) > 10_000
    assert program["stopwaitsecs"] == "7"
    assert program["stdout_logfile"] == "/home/some one/mesh/logs/churn-v1-0.log"


def test_the_socket_of_a_long_state_directory_is_short_and_its_own(tmp_path: Path) -> None:
    long = [Supervisor(StateDirectory(tmp_path / ("x" * 100), name), name) for name in ("one", "two", "one")]
    paths = [supervisor.socket_path for supervisor in long]
    assert all(len(os.fsencode(path)) < 100 for path in paths)
    assert paths[0] == paths[2] != paths[1]
    short = StateDirectory(Path("/m"), "one")
    assert Supervisor(short, "one").socket_path == short.run / "supervisor.sock"


def test_a_folder_for_sockets_that_others_may_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"mlflow-istio-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(ClusterError, match="must be a folder that only you can enter"):
        LocalMesh(tmp_path / ("x" * 100), "test").up()


def test_a_process_is_known_by_more_than_its_id() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    mine, its = launch.identity(os.getpid()), launch.identity(child.pid)
    assert mine is not None
    assert its is not None
    assert mine != its
    assert launch.identity(child.pid) == its
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert launch.identity(child.pid) is None, "one that ended and was not collected yet is none"
    child.stdin.close()
    child.wait()
    assert launch.identity(child.pid) is None


def test_notes_count_the_starts(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    for starts in (1, 2, 3):
        launch.note(path, os.getpid())
        assert json.loads(path.read_text()) == {
            "pid": os.getpid(),
            "identity": launch.identity(os.getpid()),
            "starts": starts,
        }


def test_leftovers_are_ended_by_who_they_are_and_never_by_their_id_alone(tmp_path: Path) -> None:
    """One note is true; the other has the id of a process that is not the noted one."""
    state = StateDirectory(tmp_path, "test")
    state.prepare()
    source = "import sys, time; print('up', flush=True); time.sleep(600)"
    ours, other = (
        subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, start_new_session=True)
        for _ in range(2)
    )
    try:
        for child in (ours, other):
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
        supervisor = Supervisor(state, "test")
        launch.note(supervisor.note_file("ours"), ours.pid)
        supervisor.note_file("other").write_text(json.dumps({"pid": other.pid, "identity": "another", "starts": 1}))
        supervisor.end_leftovers()
        assert ours.wait(10) != 0
        assert other.poll() is None
        assert list(state.run.iterdir()) == []
    finally:
        for child in (ours, other):
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


def test_importing_the_mesh_is_cheap() -> None:
    """Help texts and status must not pay for MLflow, nor for a supervisor that is not asked."""
    program = "import sys, mlflow_istio.adapters.local.mesh; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in answer.stdout.split()}
    assert not loaded & {
        *(
            "mlflow",
            "pandas",
            "numpy",
            "kubernetes",
            "requests",
            "supervisor",
            "envoy",
            "filelock",
            "pydantic",
            "jinja2",
        )
    }


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def test_a_supervisors_socket_is_believed_only_where_it_is_ones_own(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    state = StateDirectory(folder, "m")
    state.prepare()
    supervisor = Supervisor(state, "m")
    path = supervisor.socket_path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    assert not supervisor.is_alive()
    with listening(path):
        assert supervisor.is_alive()
        path.parent.chmod(0o755)
        with pytest.raises(ClusterError, match="only you can enter"):
            supervisor.is_alive()
        path.parent.chmod(0o700)
        path.rename(path.with_name("other"))
        path.symlink_to(path.with_name("other"))
        with pytest.raises(ClusterError, match="no socket of yours"):
            supervisor.is_alive()
        path.unlink()
        path.with_name("other").rename(path)
        if os.getuid() == 0:
            os.chown(path, 65534, 65534)
            with pytest.raises(ClusterError, match="no socket of yours"):
                supervisor.is_alive()
    shutil.rmtree(folder)
