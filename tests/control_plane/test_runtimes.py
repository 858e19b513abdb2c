"""A model server that knows nothing of us, in pods behind the real istiod and Envoy: its routes say which version answered."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import pytest

from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.releases.context import address_of
from mlflow_istio.releases.deploying import deployments
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.wiring.connection import load_templates
from tests.control_plane.office import ENDPOINT, Office

pytestmark = pytest.mark.control_plane

SOURCE = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        known = {"GET": "/ready", "POST": "/score"}
        self.send_response(200 if self.path == known.get(self.command) else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
THEIRS = Runtime(
    name="theirs", command=("python", "-c", SOURCE), args=("$PORT",), port=9000, readiness="/ready", scoring="/score"
)


def test_another_server_at_another_port_is_released(office: Office) -> None:
    context = replace(office.context, templates=load_templates(None))
    for version, more in ((1, {}), (2, {"strategy": "canary", "traffic_request": TrafficRequest(weight=50)})):
        request = DeployRequest(
            name=f"m-v{version}",
            endpoint=ENDPOINT,
            model_uri=f"models:/m/{version}",
            image="theirs",
            runtime=THEIRS,
            pod=PodSettings(),
            gateways=(os.environ["MLFLOW_ISTIO_GATEWAY"], "mesh"),
            ready_timeout=120.0,
            **more,
        )
        deployments.deploy(context, request)
    assert address_of(office.cluster, ENDPOINT).scoring == "/score"
    answers = Counter(office.ask(path="/score") for _ in range(60))
    assert set(answers) == {(200, "m/1"), (200, "m/2")}
    office.rollback()
    assert Counter(office.ask(path="/score") for _ in range(20)) == {(200, "m/1"): 20}
