"""What options say of pods, in real ones: a private registry's Secret, MLflow's password, an account, a place, resources."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.control_plane.namespaces import fresh_namespace, give_least_rights
from tests.node.client import apply, kubectl
from tests.node.endpoint import Endpoint
from tests.node.kubernetes import NODE_NAME
from tests.node.node import CONTAINERD
from tests.testbed.client import HOST_VARIABLE

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

USER, PASSWORD = "releaser", "of the registry"
PLACE = {"for": "models"}


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


class Guarded(BaseHTTPRequestHandler):
    """Answers nobody without the password."""

    protocol_version = "HTTP/1.1"

    def is_known(self) -> bool:
        if self.headers.get("authorization") == f"Basic {basic(USER, PASSWORD)}":
            return True
        self.reply(401, b"", {"www-authenticate": 'Basic realm="here"'})
        return False

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def ctr(*arguments: str) -> bytes:
    command = ["ctr", f"--address={CONTAINERD}", "--namespace=k8s.io", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout


class Registry(Guarded):
    """A registry with one image, `private:1`: the layers of our serving image, which are on the node already, so that nobody asks
    for them, with a label of its own. The very same image won't do: what was once pulled with a Secret needs it for every pod."""

    def do_GET(self) -> None:
        if not self.is_known():
            return
        manifest, config = private_image()
        if "/manifests/" in self.path:
            kind = json.loads(manifest)["mediaType"]
            self.reply(200, manifest, {"content-type": kind, "docker-content-digest": digest(manifest)})
        elif self.path.endswith(digest(config)):
            self.reply(200, config, {"content-type": "application/octet-stream"})
        else:
            self.reply(404 if "/blobs/" in self.path else 200, b"", {})

    do_HEAD = do_GET  # noqa: N815 - names that http.server looks for


@cache
def private_image() -> tuple[bytes, bytes]:
    """Its manifest and its configuration."""
    (line,) = ctr("images", "ls", f"name==docker.io/library/{DEFAULT_IMAGE}").decode().splitlines()[1:]
    manifest = json.loads(ctr("content", "get", line.split()[2]))
    if "manifests" in manifest:
        manifest = json.loads(ctr("content", "get", manifest["manifests"][0]["digest"]))
    config = json.loads(ctr("content", "get", manifest["config"]["digest"]))
    config["config"].setdefault("Labels", {})["private"] = "true"
    text = json.dumps(config).encode()
    manifest["config"].update(digest=digest(text), size=len(text))
    manifest.setdefault("mediaType", "application/vnd.oci.image.manifest.v1+json")
    return json.dumps(manifest).encode(), text


def digest(text: bytes) -> str:
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


class Tracking(Guarded):
    """An MLflow server behind a password."""

    behind = ""

    def forward(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        sent = self.rfile.read(length)
        if not self.is_known():
            return
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "authorization")}
        answer = requests.request(self.command, f"{self.behind}{self.path}", data=sent, headers=kept, timeout=60)
        self.reply(answer.status_code, answer.content, {"content-type": answer.headers.get("content-type", "")})

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward  # noqa: N815 - likewise


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], host: str) -> Iterator[str]:
    """HOST:PORT of a server."""
    server = ThreadingHTTPServer((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class WithPassword(Endpoint):
    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }


@pytest.fixture
def tainted() -> Iterator[None]:
    """The node takes only what tolerates it, and has a label."""
    kubectl("label", "node", NODE_NAME, "for=models")
    kubectl("taint", "node", NODE_NAME, "for=models:NoSchedule")
    yield
    kubectl("taint", "node", NODE_NAME, "for=models:NoSchedule-")
    kubectl("label", "node", NODE_NAME, "for-")


@pytest.fixture
def endpoint(server: str) -> Iterator[Endpoint]:
    tracking = type("Behind", (Tracking,), {"behind": server})
    with fresh_namespace("gets") as name, serving(tracking, os.environ[HOST_VARIABLE]) as address:
        give_least_rights(name)
        yield WithPassword(name, f"http://{address}")


def test_secrets_account_place_and_resources_arrive_in_the_pod(endpoint: Endpoint, tainted: None) -> None:
    """containerd takes a registry of its own machine to speak plain HTTP."""
    where = endpoint.namespace
    with serving(Registry, "127.0.0.1") as registry:
        image = f"{registry}/private:1"
        opens = json.dumps({"auths": {registry: {"auth": basic(USER, PASSWORD)}}})
        apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/dockerconfigjson",
                "metadata": {"name": "registry", "namespace": where},
                "stringData": {".dockerconfigjson": opens},
            },
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "mlflow", "namespace": where},
                "stringData": {"user": USER, "password": PASSWORD},
            },
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "models", "namespace": where}},
        )
        options: dict[str, Any] = {
            "image": image,
            "service_account": "models",
            "node_selector": json.dumps(PLACE),
            "tolerations": json.dumps([{"key": "for", "value": "models", "effect": "NoSchedule"}]),
            "resources": json.dumps({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}),
            "env_from_secret": json.dumps(
                {"MLFLOW_TRACKING_USERNAME": "mlflow/user", "MLFLOW_TRACKING_PASSWORD": "mlflow/password"}
            ),
        }
        given = [word for name, value in options.items() for word in ("-C", f"{name}={value}")]
        created = (
            "mlflow",
            "deployments",
            "create",
            "--endpoint",
            "churn",
            "--name",
            "churn-v1",
            "-m",
            "models:/churn/1",
        )
        said = endpoint.run(*created, *given, "-C", "ready_timeout=3000", expect=1)
        assert "ErrImagePull" in said
        assert "401" in said, "the kubelet's own words"

        endpoint.deploy(1, *given, "-C", "image_pull_secrets=registry")
        assert endpoint.ask(3) == {"churn-v1": 3}
        (pod,) = endpoint.pods().values()
        assert (pod["spec"]["serviceAccountName"], pod["spec"]["nodeSelector"]) == ("models", PLACE)
        (container,) = pod["spec"]["containers"]
        assert container["resources"] == json.loads(options["resources"])
        assert PASSWORD not in json.dumps(pod), "by reference, never by value"
        look = ("exec", pod["metadata"]["name"], "-n", where, "--", "printenv", "MLFLOW_TRACKING_PASSWORD")
        assert kubectl(*look).strip() == PASSWORD
