"""The state directory: whole or not at all, refused when newer, mended after a power cut."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from mlflow_istio.adapters.local.free_ports import PortBook, is_free, port_source
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.adapters.local.state import FORMAT, KEPT_LOGS, StateDirectory, encode_ports, read_tail
from mlflow_istio.adapters.local.storage import created, ownable, updated, with_fields_applied
from mlflow_istio.adapters.local.sweeper import overdue
from mlflow_istio.errors import ClusterError, EditConflict, InvalidInput, NotFound
from mlflow_istio.releases.reading.views import endpoint_views
from tests.contract.model_server import service

ROOT = Path(__file__).parents[4]


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "home", "test")
    state.prepare()
    return state


def test_the_directory_is_its_owners_alone(state: StateDirectory) -> None:
    assert stat.S_IMODE(state.root.stat().st_mode) == 0o700
    batch = state.batch()
    batch.put(state.object_file("Service", "a"), b"{}")
    batch.carry_out()
    assert stat.S_IMODE(state.object_file("Service", "a").stat().st_mode) == 0o600


def test_a_batch_changes_nothing_until_it_is_carried_out(state: StateDirectory) -> None:
    first, second = state.root / "first", state.root / "second"
    first.write_bytes(b"old")
    batch = state.batch()
    batch.put(first, b"new")
    batch.put(second, b"new", durable=True)
    batch.remove(state.format)
    assert (first.read_bytes(), second.exists(), state.format.exists()) == (b"old", False, True)
    batch.carry_out([second])
    assert (first.read_bytes(), second.read_bytes(), state.format.exists()) == (b"old", b"new", True)
    batch.carry_out()
    assert (first.read_bytes(), state.format.exists()) == (b"new", False)
    assert list(state.staging.iterdir()) == []


def test_a_file_that_stands_there_already_is_not_written_again(state: StateDirectory) -> None:
    batch = state.batch()
    batch.put_changed(state.format, f"{FORMAT}\n".encode())
    assert batch.staged() == []
    batch.put_changed(state.format, b"other")
    assert batch.staged() == [state.format]
    batch.discard()


def test_a_full_disk_changes_nothing_and_says_so(tmp_path: Path) -> None:
    """The process may write no file longer than 1,000 bytes, as on a disk with no more room: the second one fails."""
    program = f"""
import resource
from pathlib import Path
from mlflow_istio.adapters.local.state import StateDirectory
from mlflow_istio.errors import ClusterError
state = StateDirectory(Path({str(tmp_path)!r}), "test")
state.prepare()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
batch = state.batch()
try:
    batch.put(state.root / "small", b"x" * 10)
    batch.put(state.root / "large", b"x" * 10_000)
except ClusterError as exc:
    print(exc)
print(sorted(path.name for path in state.root.iterdir() if path.is_file()), list(state.staging.iterdir()))
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    error, left = answer.stdout.splitlines()
    assert error.startswith(f"can't write {tmp_path}/test/large: File too large; nothing was changed: make room")
    assert left == "['format'] []"


def test_a_directory_of_a_newer_version_is_refused(state: StateDirectory) -> None:
    state.format.write_text(f"{FORMAT + 1}\n")
    mesh = LocalMesh(state.root.parent, "test")
    refusal = f"has format '{FORMAT + 1}' and this version of mlflow-istio reads up to {FORMAT}: upgrade mlflow-istio"
    for act in (
        lambda: mesh.get("Service", "a"),
        lambda: mesh.list("Service", {}),
        lambda: mesh.apply(service("a")),
        lambda: mesh.delete("Service", "a"),
        lambda: mesh.address("a"),
        mesh.up,
        mesh.down,
        mesh.status,
    ):
        with pytest.raises(ClusterError, match=refusal):
            act()


def test_a_directory_that_the_supervisor_could_not_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"has '%' in its path: set MLFLOW_ISTIO_HOME"):
        LocalMesh(tmp_path / "50%", "test").up()


def test_a_mesh_name_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'\.\./other' is not a DNS label, so it can't be the name of a mesh"):
        LocalMesh(tmp_path, "../other")


def test_reading_a_mesh_that_never_was_finds_nothing_and_makes_nothing(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path / "home", "test")
    assert mesh.get("Deployment", "a") is None
    assert mesh.list("VirtualService", {}) == []
    assert not mesh.status().running
    with pytest.raises(NotFound, match="no endpoint 'a' in mesh 'test'"):
        mesh.address("a")
    with pytest.raises(NotFound, match="is called 'a'"):
        mesh.logs("a")
    with pytest.raises(NotFound, match="no Deployment 'a'"):
        mesh.wait_ready("a", 1)
    assert mesh.delete("Service", "a") is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "name"), [("Pod", "a"), ("Service", "../a"), ("Service", "A"), ("Service", "")])
def test_what_can_be_no_object_is_refused_before_any_file_is_touched(tmp_path: Path, kind: str, name: str) -> None:
    mesh = LocalMesh(tmp_path / "home", "test")
    for act in (mesh.get, mesh.delete):
        with pytest.raises(InvalidInput):
            act(kind, name)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_waits_for_the_first(state: StateDirectory) -> None:
    order = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with StateDirectory(state.root.parent, "test").locked():
            order.append("second")

    other = threading.Thread(target=second)
    with state.locked():
        other.start()
        entered.wait()
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_waiting_too_long_for_the_lock_is_an_error(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_istio.adapters.local.state.LOCK_TIMEOUT", 0.05)
    with (
        state.locked(),
        pytest.raises(EditConflict, match="another command has been changing the mesh"),
        StateDirectory(state.root.parent, "test").locked(),
    ):
        pass


def write(state: StateDirectory, content: bytes) -> Path:
    path = state.object_file("VirtualService", "churn")
    batch = state.batch()
    batch.put(path, content)
    batch.carry_out()
    return path


def test_the_former_object_stands_until_the_new_one_is_on_the_disk(state: StateDirectory) -> None:
    path = write(state, b'{"version":1}')
    assert state.is_finished()
    with state.former_kept("VirtualService", "churn"):
        write(state, b'{"version":2}')
        assert not state.is_finished()
    assert state.is_finished()
    assert json.loads(path.read_text()) == {"version": 2}


@pytest.mark.parametrize(("torn", "restored"), [(b"", 1), (b'{"vers', 1), (b'{"version":2}', 2)])
def test_an_object_torn_by_a_power_cut_is_put_back(state: StateDirectory, torn: bytes, restored: int) -> None:
    path = write(state, b'{"version":1}')
    os.link(path, state.former / "VirtualService.churn.json")
    path.unlink()
    path.write_bytes(torn)
    state.restore_torn()
    state.finish()
    assert json.loads(path.read_text()) == {"version": restored}
    assert state.is_finished()


def test_an_unreadable_object_is_named(state: StateDirectory) -> None:
    path = write(state, b"")
    with pytest.raises(ClusterError, match=f"{path} is not JSON"):
        state.object("VirtualService", "churn")


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert read_tail(log, 5) == ()
    log.write_bytes(b"\n".join(b"line %d" % number for number in range(1000)) + b"\n\xff broken\n")
    assert read_tail(log, 3) == ("line 998", "line 999", "\ufffd broken")
    assert read_tail(log, 0) == ()


def test_logs_of_replicas_that_are_no_more_are_kept_up_to_a_number(state: StateDirectory) -> None:
    (state.replicas / "live-0.json").write_text("{}")
    names = ["envoy.log", "supervisord.log", "live-0.log", "live-0.log.1", *(f"gone-{n}.log" for n in range(25))]
    for age, name in enumerate(names):
        (state.logs / name).touch()
        os.utime(state.logs / name, (age, age))
    state.prune_logs()
    left = {path.name for path in state.logs.iterdir()}
    assert left == {*names[:4], *names[-KEPT_LOGS:]}


def test_objects_are_numbered_as_a_server_does_it() -> None:
    first = created(service("a"), uid="u", now="t")
    assert first["metadata"] == {
        "name": "a",
        "uid": "u",
        "creationTimestamp": "t",
        "resourceVersion": "1",
        "generation": 1,
    }
    labelled = updated(first, {**first, "metadata": {**first["metadata"], "labels": {"x": "y"}}})
    assert (labelled["metadata"]["resourceVersion"], labelled["metadata"]["generation"]) == ("2", 1)
    changed = updated(labelled, {**labelled, "spec": {}})
    assert (changed["metadata"]["resourceVersion"], changed["metadata"]["generation"]) == ("3", 2)
    assert changed["metadata"]["uid"] == "u"


def test_an_object_made_from_an_older_version_is_refused() -> None:
    first = created(service("a"), uid="u", now="t")
    second = updated(first, first)
    with pytest.raises(EditConflict, match="Service a was changed by another command"):
        updated(second, first)


def test_what_applying_claims_is_what_the_user_wrote() -> None:
    obj = created(service("a"), uid="u", now="t")
    assert ownable(obj)["metadata"] == {"name": "a"}
    assert with_fields_applied(None, {}, service("a")) == service("a")


def test_a_port_is_free_when_nobody_listens() -> None:
    new_port = port_source(())
    port = new_port()
    assert is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
    with socket.create_server(("0.0.0.0", port)):
        assert not is_free(port)


def test_ports_are_given_once_and_never_those_promised() -> None:
    promised = set(range(20_000, 31_990))
    new_port = port_source(promised)
    given = [new_port() for _ in range(5)]
    assert len(set(given)) == 5
    assert not promised & set(given)


def test_no_free_port_is_an_error() -> None:
    with pytest.raises(ClusterError, match="no free port between"):
        port_source(range(20_000, 32_001))()


def whole(kind: str = "VirtualService", name: str = "churn") -> dict[str, Any]:
    metadata = {"name": name, "uid": "u", "creationTimestamp": "t", "resourceVersion": "1", "generation": 1}
    return {"object": {"kind": kind, "metadata": metadata, "spec": {"hosts": [name]}}, "applied": {}}


DAMAGES: tuple[Any, ...] = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe",
    b"[" * 2_000 + b"]" * 2_000,
    b'{"object": null, "applied": {}}',
    {**whole(), "applied": None},
    {**whole(), "object": {**whole()["object"], "metadata": []}},
    {**whole(), "object": {**whole()["object"], "spec": None}},
    {**whole(), "object": {**whole()["object"], "kind": "Service"}},
    whole(name="other"),
    {
        **whole(),
        "object": {**whole()["object"], "metadata": {**whole()["object"]["metadata"], "annotations": {"a": 1}}},
    },
    {**whole(), "object": {**whole()["object"], "metadata": {**whole()["object"]["metadata"], "generation": "x"}}},
)


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
def test_a_damaged_file_is_one_objects_own_trouble(tmp_path: Path, damage: Any) -> None:
    mesh = LocalMesh(tmp_path / "home", "test")
    state = StateDirectory(tmp_path / "home", "test")
    state.prepare()
    (state.objects / "VirtualService").mkdir()
    state.object_file("VirtualService", "good").write_text(json.dumps(whole(name="good")))
    content = damage if isinstance(damage, bytes) else json.dumps(damage).encode()
    state.object_file("VirtualService", "churn").write_bytes(content)
    with pytest.raises(ClusterError, match=r"VirtualService/churn\.json") as refused:
        mesh.get("VirtualService", "churn")
    assert refused.value.message.isprintable()
    churn, good = mesh.list("VirtualService", {})
    assert good == whole(name="good")["object"]
    assert churn["unreadable"] == refused.value.message
    assert mesh.list("VirtualService", {"a": "b"}) == []
    views = endpoint_views(mesh)
    assert [(view["name"], view["problem"]) for view in views] == [("churn", refused.value.message)]
    assert overdue(state.objects / "VirtualService", datetime.now(timezone.utc)) == frozenset()


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"replica": 1}', b"[" * 2_000 + b"]" * 2_000])
def test_a_damaged_replica_is_left_out_by_readers_and_named_to_writers(state: StateDirectory, damage: bytes) -> None:
    (state.replicas / "churn-v1-0.json").write_bytes(damage)
    assert state.all_replicas(damaged=False) == []
    with pytest.raises(ClusterError, match=r"churn-v1-0\.json"):
        state.all_replicas()
    assert state.replica_names() == {"churn-v1-0"}
    assert state.promised_ports() == set()


DAMAGES = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"admin": "x", "endpoints": {}}',
    b'{"admin": [], "endpoints": 3}',
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_ports_are_as_they_were_written_last_or_named(state: StateDirectory, damage: bytes) -> None:
    state.ports.write_bytes(damage)
    with pytest.raises(ClusterError, match=r"ports\.json") as refused:
        state.port_book()
    assert refused.value.message.isprintable()
    state.twin(state.ports).write_bytes(encode_ports(PortBook(statistics=20_001, endpoints={"churn": 20_002})))
    assert state.port_book() == PortBook(statistics=20_001, endpoints={"churn": 20_002})


@pytest.mark.parametrize("port", [-1, "20002", None, [], True, 70_000])
def test_the_damaged_port_of_one_endpoint_is_its_own(state: StateDirectory, port: object) -> None:
    state.ports.write_text(json.dumps({"admin": 20_001, "endpoints": {"churn": port, "other": 20_003}}))
    assert state.port_book() == PortBook(statistics=20_001, endpoints={"other": 20_003})
    state.twin(state.ports).write_bytes(encode_ports(PortBook(statistics=20_009, endpoints={"churn": 20_002})))
    assert state.port_book() == PortBook(statistics=20_001, endpoints={"churn": 20_002, "other": 20_003})


@pytest.mark.parametrize("damage", [b"", b"[", b"null", b"[]", b'{"churn": 3}', b'{"churn": {"v1": []}}'])
def test_damaged_hashes_are_found_again(state: StateDirectory, damage: bytes) -> None:
    assert state.known_hashes() is None
    state.hashes.write_bytes(b'{"churn": {"": {"a": 1}}}')
    assert state.known_hashes() == {"churn": {"": {"a": 1}}}
    state.hashes.write_bytes(damage)
    assert state.known_hashes() is None


def test_a_disk_that_is_full_leaves_nothing_of_an_identity(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    beside = state.identity_file.parent
    state.identity_file.unlink(missing_ok=True)
    before = sorted(beside.iterdir())
    with pytest.raises(ClusterError, match="No space left on device"):
        state.identity()
    assert sorted(beside.iterdir()) == before
