"""Messages of the V2 protocol as its JSON. They are made by our caller's side, which has the protocol's fields once more."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import numpy
import pytest

from mlflow_istio.calls.grpc_infer import _classes, request_message, response_document
from mlflow_istio.core.basics.grpc_status import GRPC_CODES, LIKE
from mlflow_istio.serving.compressed import UnreadableBody
from mlflow_istio.serving.grpc_answers import V2Bodies, status_of

MOST = 1024 * 1024


class Seen:
    """A recording, as far as its bodies are read."""

    def __init__(self, message: bytes, coding: str = "", status: str = "OK", flag: int = 0) -> None:
        self.input = self.output = bytes((flag,)) + len(message).to_bytes(4, "big") + message
        self.input_coding = self.output_coding = coding
        self.grpc_status = status


def output(message: bytes, bodies: V2Bodies | None = None, **more: Any) -> Any:
    seen: Any = Seen(message, **more)
    return json.loads((bodies or V2Bodies()).output(seen, MOST))


def response(*tensors: dict[str, Any], raw: tuple[bytes, ...] = ()) -> bytes:
    message = _classes()["ModelInferResponse"](model_name="m", raw_output_contents=raw)
    for tensor in tensors:
        contents = tensor.pop("contents", {})
        made = message.outputs.add(**tensor)
        for name, values in contents.items():
            getattr(made.contents, name).extend(values)
    return bytes(message.SerializeToString())


def test_statuses_are_those_that_count_everywhere() -> None:
    """The model server knows nothing of the core, so it has the table once more."""
    for name, number in GRPC_CODES.items():
        assert status_of({b"grpc-status": str(number).encode()}) == (name, LIKE[name])
    for said in (b"99", b"x", b""):
        assert status_of({b"grpc-status": said, b":status": b"200"}) == ("UNKNOWN", 500)
    assert status_of({b":status": b"404"}) == ("UNKNOWN", 404)


def test_a_request_reads_as_it_was_said() -> None:
    document = {
        "id": "r-1",
        "parameters": {"content_type": "pd", "flag": True, "n": 3, "share": 0.5},
        "inputs": [
            {"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, float("inf")]},
            {"name": "s", "shape": [1, 2], "datatype": "BYTES", "parameters": {"a": "b"}, "data": ["ä", "b"]},
        ],
    }
    seen: Any = Seen(request_message(document))
    assert json.loads(V2Bodies().input(seen, MOST)) == document


KINDS = {
    "BOOL": ("bool_contents", [True, False], numpy.array([True, False])),
    "INT8": ("int_contents", [-1, 2], numpy.array([-1, 2], "<i1")),
    "INT16": ("int_contents", [-1, 300], numpy.array([-1, 300], "<i2")),
    "INT32": ("int_contents", [-1, 70_000], numpy.array([-1, 70_000], "<i4")),
    "INT64": ("int64_contents", [-1, 2**62 + 1], numpy.array([-1, 2**62 + 1], "<i8")),
    "UINT8": ("uint_contents", [1, 200], numpy.array([1, 200], "<u1")),
    "UINT16": ("uint_contents", [1, 60_000], numpy.array([1, 60_000], "<u2")),
    "UINT32": ("uint_contents", [1, 2**32 - 1], numpy.array([1, 2**32 - 1], "<u4")),
    "UINT64": ("uint64_contents", [1, 2**64 - 1], numpy.array([1, 2**64 - 1], "<u8")),
    "FP16": (None, [0.5, -2.0], numpy.array([0.5, -2.0], "<f2")),
    "BF16": (None, [0.5, -2.0], numpy.array([0x3F00, 0xC000], "<u2")),
    "FP32": ("fp32_contents", [0.5, 1e30], numpy.array([0.5, 1e30], "<f4")),
    "FP64": ("fp64_contents", [0.1, -2.0], numpy.array([0.1, -2.0], "<f8")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_reads_alike_from_its_contents_and_from_bytes(kind: str) -> None:
    field, values, raw = KINDS[kind]
    tensor = {"name": "a", "datatype": kind, "shape": [1, 2]}
    from_bytes = response(dict(tensor), raw=(raw.tobytes(),))
    (found,) = output(from_bytes)["outputs"]
    assert found == {**tensor, "data": pytest.approx(values)}
    assert response_document(from_bytes)["outputs"] == [found], "as our callers read it"
    if field is not None:
        assert output(response({**tensor, "contents": {field: values}}))["outputs"] == [found]


def test_texts_read_alike_and_no_two_become_one() -> None:
    texts = [b"", "ä".encode(), b"\xff", b"a" * 300]
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    tensor = {"name": "a", "datatype": "BYTES", "shape": [4]}
    (found,) = output(response(dict(tensor), raw=(raw,)))["outputs"]
    assert found["data"] == ["", "ä", "\\xff", "a" * 300]
    assert output(response({**tensor, "contents": {"bytes_contents": texts}}))["outputs"] == [found]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff\xff", "unreadable"),
        (response({"name": "a", "datatype": "FP32", "shape": [2]}, raw=(b"1234",)), "unreadable"),
        (response({"name": "a", "datatype": "FP32", "shape": [1]}, raw=(b"12345",)), "unreadable"),
        (response({"name": "a", "datatype": "BYTES", "shape": [1]}, raw=(b"\x09\x00\x00\x00ab",)), "unreadable"),
        (response({"name": "a", "datatype": "BYTES", "shape": [1]}, raw=(b"\x09",)), "unreadable"),
        (response({"name": "a", "datatype": "FP32", "shape": [1]}, raw=(b"1234", b"1234")), "unreadable"),
        (response({"name": "a", "datatype": "FP8", "shape": [1]}, raw=(b"1",)), "datatype FP8"),
        (response({"name": "a", "datatype": "FP16", "shape": [1]}), "datatype FP16"),
        (response({"name": "a", "datatype": "no such, surely", "shape": [1]}, raw=(b"1",)), "datatype"),
    ],
)
def test_what_is_not_read_has_a_reason(message: bytes, reason: str) -> None:
    with pytest.raises(UnreadableBody) as refused:
        output(message)
    assert refused.value.reason == reason


def test_callers_do_not_make_reasons_without_end() -> None:
    bodies, reasons = V2Bodies(), set()
    for number in range(50):
        with pytest.raises(UnreadableBody) as refused:
            output(response({"name": "a", "datatype": f"FP{number}X", "shape": [1]}, raw=(b"1",)), bodies)
        reasons.add(refused.value.reason)
    assert len(reasons) == 9
    assert "datatype" in reasons


def test_a_compressed_message_is_one_that_is_read_within_the_limit() -> None:
    message = response({"name": "a", "datatype": "FP64", "shape": [1], "contents": {"fp64_contents": [1.5]}})
    assert output(gzip.compress(message), coding="gzip", flag=1) == output(message)
    assert output(message, coding="gzip") == output(message), "a message of a compressed call may be plain"
    for coding in ("snappy", ""):
        with pytest.raises(UnreadableBody) as refused:
            output(message, coding=coding, flag=1)
        assert refused.value.reason == "encoded"
    with pytest.raises(ValueError, match="too large"):
        output(gzip.compress(b"x" * (MOST + 1)), coding="gzip", flag=1)


def test_a_body_that_is_not_one_message_is_not_read() -> None:
    for body in (b"", b"\0\0\0\0", b"\0\0\0\0\5abc", b"\0\0\0\0\0\0\0\0\0\0"):
        seen: Any = Seen(b"")
        seen.output = body
        with pytest.raises(UnreadableBody) as refused:
            V2Bodies().output(seen, MOST)
        assert refused.value.reason == "unreadable"


def test_of_a_call_that_failed_its_status_is_all_that_is_kept() -> None:
    assert output(b"", status="INTERNAL") == {"error_code": "INTERNAL"}
