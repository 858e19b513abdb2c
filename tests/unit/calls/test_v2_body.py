"""What MLServer and Triton are asked with: the V2 protocol's JSON, made of whatever MLflow's models take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pandas as pd
import pytest

from mlflow_istio.calls.grpc_infer import request_message
from mlflow_istio.calls.request_body import RequestBody, read_body
from mlflow_istio.calls.scoring import score
from mlflow_istio.calls.v2_body import as_v2, v2_document
from mlflow_istio.core.runtime.profiles import RUNTIMES
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput
from mlflow_istio.ports.cluster import Address

FRAME = pd.DataFrame({"tenure": [3.0, 4.0], "plan": ["a", "b"]})
AS_TENSORS = {
    "parameters": {"content_type": "pd"},
    "inputs": [
        {
            "name": "tenure",
            "shape": [2, 1],
            "datatype": "FP64",
            "parameters": {"content_type": "np"},
            "data": [3.0, 4.0],
        },
        {
            "name": "plan",
            "shape": [2, 1],
            "datatype": "BYTES",
            "parameters": {"content_type": "str"},
            "data": ["a", "b"],
        },
    ],
}


def tensor() -> dict[str, Any]:
    return {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.5]}


@pytest.mark.parametrize(
    ("body", "names", "kinds", "shapes"),
    [
        ({"inputs": [[1.0, 2]]}, ["input-0"], ["FP64"], [[1, 2]]),
        ({"instances": [1, 2]}, ["input-0"], ["INT64"], [[2]]),
        ({"inputs": {"a": ["x"], "b": [True]}}, ["a", "b"], ["BYTES", "BOOL"], [[1], [1]]),
        ({"dataframe_split": {"columns": ["a"], "data": [[1.5]]}}, ["a"], ["FP64"], [[1, 1]]),
        ({"dataframe_records": [{"a": 1}, {"a": 2}]}, ["a"], ["INT64"], [[2, 1]]),
    ],
)
def test_bodies_of_mlflows_protocol_become_tensors(body: Any, names: Any, kinds: Any, shapes: Any) -> None:
    inputs = as_v2(body)["inputs"]
    assert [one["name"] for one in inputs] == names
    assert [one["datatype"] for one in inputs] == kinds
    assert [one["shape"] for one in inputs] == shapes
    request_message(as_v2(body))


def test_what_is_v2_already_stays_and_mixed_values_are_refused() -> None:
    assert as_v2({"inputs": [tensor()]}) == {"inputs": [tensor()]}
    with pytest.raises(InvalidInput, match="input 'a' can't be a tensor"):
        as_v2({"inputs": {"a": [1, "x"]}})


def test_a_frame_an_example_and_a_file_become_the_same_tensors(tmp_path: Any) -> None:
    example = {"dataframe_split": {"columns": ["tenure", "plan"], "data": [[3.0, "a"], [4.0, "b"]]}}
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(example))
    assert v2_document(FRAME) == v2_document(example) == v2_document(read_body(str(file))) == AS_TENSORS
    file.write_text('[{"tenure": 3.0, "plan": "a"}, {"tenure": 4.0, "plan": "b"}]')
    assert v2_document(read_body(str(file))) == AS_TENSORS
    file.write_text(json.dumps(AS_TENSORS))
    assert v2_document(read_body(str(file))) == AS_TENSORS
    with pytest.raises(InvalidInput, match="not text/csv"):
        v2_document(RequestBody(content=b"a,b", content_type="text/csv"))


@pytest.fixture
def asked() -> Iterator[tuple[str, list[Any]]]:
    """A server that keeps what it is sent; its address."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["mlserver", "triton"])
def test_over_rest_they_are_sent_as_json(asked: tuple[str, list[Any]], name: str) -> None:
    url, got = asked
    runtime = RUNTIMES[name]
    address = Address(url=url, scoring=runtime.scoring, body=runtime.body)
    score(address, FRAME, headers={}, timeout=10)
    score(address, AS_TENSORS, headers={}, timeout=10)
    assert got == [("/v2/models/model/infer", AS_TENSORS)] * 2


def test_a_profile_of_ones_own_may_ask_for_it() -> None:
    assert Runtime(name="own", body="v2").body == "v2"
    with pytest.raises(InvalidInput, match="without protocol: grpc"):
        Runtime(name="own", body="none")
