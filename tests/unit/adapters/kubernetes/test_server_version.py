"""A Deployment with a native sidecar on an API server that would drop what makes it one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from mlflow_istio.adapters.kubernetes import connect
from mlflow_istio.core.basics.target import parse_target
from mlflow_istio.errors import Unsupported


@contextmanager
def an_api_server(version: Mapping[str, str] | None) -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked; None: it tells nobody its version."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
            asked.append(f"{self.command} {self.path.partition('?')[0]}")
            if self.path.startswith("/version"):
                body = version or {"kind": "Status", "reason": "Forbidden", "code": 403}
            self.send_response(403 if body.get("code") else 200)
            said = json.dumps(body).encode()
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def do_GET(self) -> None:
            self.answer()

        def do_PATCH(self) -> None:
            self.answer()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def applied(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *init: Mapping[str, Any]) -> None:
    """Apply a Deployment whose pods have these init containers."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "me", "namespace": "models"}}],
        "current-context": "x",
    }
    (folder / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(folder / "config"))
    cluster = connect(parse_target("istio"))
    pod = {"containers": [{"name": "model-server"}], "initContainers": list(init)}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "m-v1"}}
    try:
        cluster.apply({**deployment, "spec": {"template": {"spec": pod}}})
    finally:
        cluster.close()


RECORDER = {"name": "recorder", "restartPolicy": "Always"}
APPLIED = "PATCH /apis/apps/v1/namespaces/models/deployments/m-v1"


@pytest.mark.parametrize("minor", ["28", "27+"])
def test_an_older_server_is_named_before_anything_is_applied(
    minor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with an_api_server({"major": "1", "minor": minor}) as (url, asked):
        with pytest.raises(Unsupported, match=rf"'recorder'.*needs Kubernetes 1.29; the API server is 1.{minor[:2]}: "):
            applied(url, tmp_path, monkeypatch, RECORDER)
        assert asked == ["GET /version/"]


@pytest.mark.parametrize(
    "version", [{"major": "1", "minor": "29+"}, {"major": "2", "minor": "0"}, {"minor": "?"}, None]
)
def test_a_newer_one_and_one_that_does_not_say_are_given_it(
    version: Mapping[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with an_api_server(version) as (url, asked):
        applied(url, tmp_path, monkeypatch, RECORDER)
    assert asked == ["GET /version/", APPLIED]


def test_without_a_sidecar_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with an_api_server({"major": "1", "minor": "20"}) as (url, asked):
        applied(url, tmp_path, monkeypatch, {"name": "model-download"})
    assert asked == [APPLIED]
