"""A user's own objects in the local mesh, by hand: local apply, get and delete, with requests to a process of the user's own."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from click.testing import CliRunner, Result

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.cli import main
from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from tests.contract.model_server import deployment, destination_rule, service, virtual_service
from tests.support.free_ports import free_port
from tests.testbed.client import wait_for

pytestmark = pytest.mark.e2e


class Web(http.server.BaseHTTPRequestHandler):
    """A service that was there before any of this."""

    def do_GET(self) -> None:
        """Say who answers, and what was asked for."""
        body = f"web {self.path}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def web_port() -> Iterator[int]:
    """A process on this machine that no Deployment runs."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Web)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a mesh of its own."""
    home = tmp_path_factory.mktemp("objects") / "home"
    yield home
    LocalMesh(home).down(purge=True)


@pytest.fixture
def mesh(home: Path) -> Iterator[LocalMesh]:
    """Its mesh, without objects."""
    mesh = LocalMesh(home)
    yield mesh
    for kind in reversed(API_VERSIONS):
        for obj in mesh.list(kind, {}):
            mesh.delete(kind, obj["metadata"]["name"])


def run(mesh: LocalMesh, *words: str, given: str | None = None, code: int = 0) -> Result:
    home = str(mesh.status().directory.parent)
    done = CliRunner().invoke(main, ["local", *words], input=given, env={"MLFLOW_ISTIO_HOME": home, "COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done


def web(port: int) -> Object:
    spec = {"type": "ExternalName", "externalName": "localhost", "ports": [{"name": "http", "port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}


def shop(**main_route: Any) -> Object:
    routes = [
        {"name": "docs", "match": [{"uri": {"prefix": "/docs"}}], "redirect": {"uri": "/help"}},
        {"name": "main", "route": [{"destination": {"host": "web"}}], **main_route},
    ]
    spec = {"hosts": ["shop.example.com"], "http": routes}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "shop", "labels": {"team": "a"}},
        "spec": spec,
    }


def tour(host: str, **main_route: Any) -> Object:
    obj = shop(**main_route)
    return {**obj, "metadata": {"name": "tour"}, "spec": {**obj["spec"], "hosts": [host]}}


def text(*objects: Object) -> str:
    return yaml.safe_dump_all(objects)


def stored(mesh: LocalMesh) -> dict[str, Object]:
    return {f"{kind}/{obj['metadata']['name']}": obj for kind in API_VERSIONS for obj in mesh.list(kind, {})}


def test_a_file_makes_a_process_of_the_users_own_reachable(mesh: LocalMesh, web_port: int, tmp_path: Path) -> None:
    """A folder, with what names another before it; shown, asked, and deleted again."""
    (tmp_path / "1-shop.yaml").write_text(text(shop()), encoding="utf-8")
    (tmp_path / "2-web.json").write_text(json.dumps(web(web_port)), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no object", encoding="utf-8")
    said = run(mesh, "apply", "-f", str(tmp_path)).output
    url = mesh.address("shop").url
    assert said.splitlines() == [f"virtualservice/shop created: {url}", "service/web created"]
    assert requests.get(f"{url}/api", timeout=30).text == "web /api"
    assert requests.get(f"{url}/docs", timeout=30, allow_redirects=False).headers["location"].endswith("/help")
    assert run(mesh, "apply", "-f", str(tmp_path)).output.splitlines()[1] == "service/web unchanged"

    everything = run(mesh, "get").output
    assert "shop.example.com" in everything
    assert "docs, main" in everything
    assert "localhost" in everything
    assert yaml.safe_load(run(mesh, "get", "VirtualServices", "shop", "-o", "yaml").output) == mesh.get(
        "VirtualService", "shop"
    )
    assert json.loads(run(mesh, "get", "svc", "-o", "json").output)["items"] == [mesh.get("Service", "web")]
    assert run(mesh, "get", "-o", "name").output.splitlines() == ["service/web", "virtualservice/shop"]
    assert run(mesh, "get", "dr").output == "mesh default holds no DestinationRule\n"

    assert "-kind: VirtualService" in run(mesh, "delete", "vs/shop", "--dry-run").output
    assert run(mesh, "delete", "vs", "shop").output == "virtualservice/shop deleted\n"
    assert set(stored(mesh)) == {"Service/web"}
    assert (
        run(mesh, "delete", "vs", "shop", code=1).output
        == "Error: there is no VirtualService 'shop' in mesh 'default'\n"
    )


def test_applying_sets_what_the_file_says_and_removes_what_it_said_before(mesh: LocalMesh, web_port: int) -> None:
    """As kubectl: what others set stays, a list is one value, and the spec's change makes the generation."""
    run(mesh, "apply", "-f", "-", given=text(web(web_port), shop(timeout="5s")))
    before = mesh.get("VirtualService", "shop")
    assert before is not None
    mesh.edit(
        "VirtualService",
        "shop",
        lambda obj: {**(obj or {}), "metadata": {**before["metadata"], "annotations": {"b": "2"}}},
    )
    bare = shop()
    del bare["metadata"]["labels"]
    said = run(mesh, "apply", "-f", "-", given=text(bare)).output
    assert said.startswith("virtualservice/shop configured")
    after = mesh.get("VirtualService", "shop")
    assert after is not None
    assert "labels" not in after["metadata"]
    assert after["metadata"]["annotations"] == {"b": "2"}
    assert after["spec"] == bare["spec"]
    assert (before["metadata"]["generation"], after["metadata"]["generation"]) == (1, 2)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_our_own_object_is_the_owners_too(mesh: LocalMesh) -> None:
    """An older copy from Git goes over it whole, annotations that the copy does not have stay; our next edit keeps both."""
    ours = virtual_service("churn", "change-1", {"churn-v1": 100})
    mesh.apply(service("churn"))
    mesh.apply(destination_rule("churn", "churn-v1", "churn-v2"))
    mesh.apply({**ours, "metadata": {"name": "churn", "annotations": {"state": "1"}}})
    newer = virtual_service("churn", "change-2", {"churn-v1": 50, "churn-v2": 50})
    mesh.apply({**newer, "metadata": {"name": "churn", "annotations": {"state": "2", "release": "r"}}})
    said = run(
        mesh, "apply", "-f", "-", given=text({**ours, "metadata": {"name": "churn", "annotations": {"state": "1"}}})
    )
    assert said.output.startswith("virtualservice/churn configured")
    after = mesh.get("VirtualService", "churn")
    assert after is not None
    assert after["spec"] == ours["spec"]
    assert after["metadata"]["annotations"] == {"state": "1", "release": "r"}
    mesh.apply({**newer, "metadata": {"name": "churn", "annotations": {"state": "2"}}})
    after = mesh.get("VirtualService", "churn")
    assert after is not None
    assert after["metadata"]["annotations"] == {"state": "2"}, "what our verbs applied and give no more goes"
    assert after["spec"] == newer["spec"]


def test_a_copy_that_was_read_before_the_last_change_is_refused(mesh: LocalMesh, web_port: int) -> None:
    run(mesh, "apply", "-f", "-", given=text(web(web_port), shop()))
    copy = yaml.safe_load(run(mesh, "get", "vs", "shop", "-o", "yaml").output)
    copy["spec"]["http"][1]["timeout"] = "1s"
    run(mesh, "apply", "-f", "-", given=text(shop(timeout="5s")))
    said = run(mesh, "apply", "-f", "-", given=text(copy), code=1).output
    assert said == "Error: VirtualService shop was changed by another command meanwhile: read it again\n"
    run(mesh, "delete", "vs", "shop")
    said = run(mesh, "apply", "-f", "-", given=text(copy), code=1).output
    assert "is that of an object that is gone: remove metadata.uid and metadata.resourceVersion" in said
    assert set(stored(mesh)) == {"Service/web"}


BAD = {
    "a field that can't be carried out": (
        {**web(80), "spec": {**web(80)["spec"], "sessionAffinity": "ClientIP"}},
        "Service web: spec.sessionAffinity can't be carried out by the local mesh",
    ),
    "a pattern that Envoy refuses": (
        tour("tour.example.com", match=[{"uri": {"regex": "(?=a)"}}]),
        "VirtualService tour: spec.http[1].match[0].uri.regex is refused by Envoy",
    ),
    "a host that another has": (
        tour("shop.example.com"),
        "VirtualService tour: spec.hosts[0] 'shop.example.com' already has the VirtualService shop",
    ),
    "the same object again": (shop(timeout="1s"), "VirtualService shop is given twice"),
    "another kind": (
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}},
        "there is no kind 'Secret' here",
    ),
    "another namespace": (
        {**web(80), "metadata": {"name": "web", "namespace": "prod"}},
        "Service web: metadata.namespace can't be carried out by the local mesh",
    ),
}


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["applied", "tried"])
@pytest.mark.parametrize("case", BAD)
def test_one_bad_document_and_nothing_is_applied(mesh: LocalMesh, case: str, dry_run: list[str]) -> None:
    bad, problem = BAD[case]
    run(mesh, "apply", "-f", "-", given=text(service("standing")))
    before = stored(mesh)
    good = (destination_rule("rule", "a"), shop())
    said = run(
        mesh,
        "apply",
        "-f",
        "-",
        *dry_run,
        given=text(*good, bad, {**service("standing"), "spec": web(9)["spec"]}),
        code=1,
    )
    assert problem in said.output
    assert len(said.output.splitlines()) == 1
    assert stored(mesh) == before
    assert mesh.status().endpoints == {}


def test_a_dry_run_starts_nothing_and_shows_the_difference(tmp_path: Path, web_port: int) -> None:
    mesh = LocalMesh(tmp_path / "home")
    said = run(mesh, "apply", "-f", "-", "--dry-run", given=text(web(web_port), shop())).output
    assert "+kind: VirtualService" in said
    assert "+++ Service/web" in said
    assert said.endswith("dry run: nothing was changed\n")
    assert not mesh.status().running
    assert stored(mesh) == {}
    mesh.down(purge=True)


def test_a_deployment_of_the_users_own_rolls(mesh: LocalMesh) -> None:
    """The command ends when the new revision has taken over."""
    route = {"name": "all", "route": [{"destination": {"host": "own"}}]}
    own = {**shop(), "metadata": {"name": "own"}, "spec": {"hosts": ["own"], "http": [route]}}
    for version in ("m/1", "m/2"):
        objects = (service("own"), deployment("own", "own-1", version=version), own)
        run(mesh, "apply", "-f", "-", given=text(*objects))
        answer = requests.get(f"{mesh.address('own').url}/", timeout=30)
        assert (answer.status_code, answer.headers["x-mlflow-model-version"]) == (200, version)
    assert "1/1" in run(mesh, "get", "deploy").output
    failing = deployment("own", "own-1", version="m/3", mode="crash")
    said = run(mesh, "apply", "-f", "-", given=text(failing), code=1).output
    assert "no such model: m/3" in said
    assert requests.get(f"{mesh.address('own').url}/", timeout=30).headers["x-mlflow-model-version"] == "m/2"
    run(mesh, "delete", "deploy", "own-1")
    wait_for("nobody behind it", lambda: requests.get(f"{mesh.address('own').url}/", timeout=30).status_code == 503)


def test_who_came_later_is_told_whose_the_host_is(mesh: LocalMesh, web_port: int) -> None:
    """Of two VirtualServices for one host the older one holds, as in Istio, whatever their names."""
    run(mesh, "apply", "-f", "-", given=text(web(web_port), tour("shop.example.com")))
    wait_for(
        "another second",
        lambda: datetime.now(timezone.utc).isoformat() > created(mesh, "tour").replace("Z", ".9999999"),
    )
    said = run(mesh, "apply", "-f", "-", given=text(shop()), code=1).output
    assert "VirtualService shop: spec.hosts[0] 'shop.example.com' already has the VirtualService tour" in said


def created(mesh: LocalMesh, name: str) -> str:
    return str((mesh.get("VirtualService", name) or {})["metadata"]["creationTimestamp"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["apply", "-f", "none.yaml"], "file 'none.yaml' can't be read: No such file or directory"),
        (["apply", "-f", "-", "-t", "istio:/models"], "target 'istio:/models' is no local mesh"),
        (["get", "pods"], "there is no kind 'pods'"),
        (["get", "vs/a", "b"], "'vs/a' and 'b' name two objects: give one"),
        (["get", "all", "b"], "'b' can't be looked for in all kinds"),
        (["get", "vs", "b"], "there is no VirtualService 'b' in mesh 'default'"),
        (["delete", "vs"], "which VirtualService is to be deleted is not said: give its name"),
    ],
)
def test_what_is_not_there_is_named(mesh: LocalMesh, words: list[str], problem: str) -> None:
    said = run(mesh, *words, given=text(service("a")), code=1).output
    assert said.startswith(f"Error: {problem}")
    assert len(said.splitlines()) == 1
