"""The V2 protocol's JSON as messages and back."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.calls.grpc_health import health_request
from mlflow_istio.calls.grpc_infer import _classes, request_message, response_document
from mlflow_istio.errors import ClusterError, InvalidInput


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, 2.5], **changes}


def test_a_request_has_its_tensors_and_parameters() -> None:
    document = {
        "id": "r-1",
        "parameters": {"content_type": "pd", "flag": True, "n": 3},
        "inputs": [tensor(), tensor(name="s", datatype="BYTES", shape=[1, 2], data=[["ä", "b"]])],
    }
    message = _classes()["ModelInferRequest"].FromString(request_message(document))
    assert (message.model_name, message.id) == ("model", "r-1")
    assert {entry.key for entry in message.parameters} == {"content_type", "flag", "n"}
    assert list(message.inputs[0].contents.fp64_contents) == [1.0, 2.5]
    assert list(message.inputs[1].contents.bytes_contents) == ["ä".encode(), b"b"]
    assert list(message.inputs[1].shape) == [1, 2]


def test_an_answer_is_read_from_its_contents_and_from_raw_bytes() -> None:
    response = _classes()["ModelInferResponse"](model_name="model")
    plain = response.outputs.add(name="a", datatype="INT64", shape=[2])
    plain.contents.int64_contents.extend([1, 2])
    assert response_document(response.SerializeToString())["outputs"] == [
        {"name": "a", "shape": [2], "datatype": "INT64", "data": [1, 2]}
    ]
    raw = _classes()["ModelInferResponse"](raw_output_contents=[b"\x00\x00\x80?", b"\x02\x00\x00\x00ok"])
    raw.outputs.add(name="a", datatype="FP32", shape=[1])
    raw.outputs.add(name="b", datatype="BYTES", shape=[1])
    assert [one["data"] for one in response_document(raw.SerializeToString())["outputs"]] == [[1.0], ["ok"]]


def test_what_is_no_answer_is_an_error() -> None:
    with pytest.raises(ClusterError, match="no ModelInferResponse"):
        response_document(b"\xff\xff")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([1], "takes the V2 protocol"),
        ({"inputs": [[1.0]]}, "has a name, shape, datatype and data"),
        ({"inputs": [tensor(datatype="FP16")]}, "input 'x' can't have datatype 'FP16'"),
        ({"inputs": [tensor(shape=None)]}, "input 'x' must have a shape"),
        ({"inputs": [tensor(data=["a"])]}, "input 'x' has data that are not FP64"),
        ({"inputs": [tensor(parameters={"a": []})]}, "input 'x': parameter 'a' must be a text"),
    ],
)
def test_a_request_that_is_none_is_refused_by_what_is_wrong(document: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        request_message(document)


def test_the_health_of_a_long_named_service_is_asked_for_as_protobuf_writes_it() -> None:
    assert health_request("") == b""
    assert health_request("a.B") == b"\x0a\x03a.B"
    assert health_request("s" * 200) == b"\x0a\xc8\x01" + b"s" * 200
