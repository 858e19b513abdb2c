"""What calls of the V2 protocol over gRPC said: their status, and their messages as the JSON of the protocol's REST side.

The fields are those of the protocol's ``grpc_predict_v2.proto``, read by the protobuf that MLflow brings along. Whatever else is in
a message is passed over.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from mlflow_istio.serving.compressed import UnreadableBody, plain
from mlflow_istio.serving.recorder import Recording

# Number -> name, and the HTTP status that google/rpc/code.proto says it is like.
_STATUSES = (
    *(("OK", 200), ("CANCELLED", 499), ("UNKNOWN", 500), ("INVALID_ARGUMENT", 400), ("DEADLINE_EXCEEDED", 504)),
    *(("NOT_FOUND", 404), ("ALREADY_EXISTS", 409), ("PERMISSION_DENIED", 403), ("RESOURCE_EXHAUSTED", 429)),
    *(("FAILED_PRECONDITION", 400), ("ABORTED", 409), ("OUT_OF_RANGE", 400), ("UNIMPLEMENTED", 501)),
    *(("INTERNAL", 500), ("UNAVAILABLE", 503), ("DATA_LOSS", 500), ("UNAUTHENTICATED", 401)),
)
_UNKNOWN = ("UNKNOWN", 500)
_HEAD = 5
"""Bytes before a message: whether it is compressed, and its length."""

# Message -> its fields, each with number and type; "*": repeated.
_MESSAGES: Mapping[str, str] = {
    "Choice": "bool_param=1 bool, int64_param=2 int64, string_param=3 string, double_param=4 double, uint64_param=5 uint64",
    "Parameter": "key=1 string, value=2 Choice",
    "Contents": (
        "bools=1 *bool, ints=2 *int32, int64s=3 *int64, uints=4 *uint32, uint64s=5 *uint64, fp32s=6 *float, fp64s=7 *double, "
        "texts=8 *bytes"
    ),
    "Tensor": "name=1 string, datatype=2 string, shape=3 *int64, parameters=4 *Parameter, contents=5 Contents",
    "Request": "id=3 string, parameters=4 *Parameter, tensors=5 *Tensor, raw=7 *bytes",
    "Response": "id=3 string, parameters=4 *Parameter, tensors=5 *Tensor, raw=6 *bytes",
}
_FIELDS: Mapping[str, str] = {
    "BOOL": "bools",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "ints"),
    "INT64": "int64s",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uints"),
    "UINT64": "uint64s",
    "FP32": "fp32s",
    "FP64": "fp64s",
    "BYTES": "texts",
}
"""Datatype to the field of its values; FP16 and BF16 stand as bytes alone."""
_RAW: Mapping[str, str] = {
    "BOOL": "?",
    **{f"{sign}INT{8 * size}": f"<{letter}{size}" for sign, letter in (("", "i"), ("U", "u")) for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    "BF16": "<u2",
}
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,15}")
_MOST_NAMES = 8


def status_of(headers: Mapping[bytes, bytes]) -> tuple[str, int]:
    """How a call ended: its status by name, and the HTTP status that it is like.

    Args:
        headers: Its last ones.
    """
    number = headers.get(b"grpc-status", b"")
    if number.isdigit() and int(number) < len(_STATUSES):
        return _STATUSES[int(number)]
    answered = headers.get(b":status", b"")
    return (_UNKNOWN[0], int(answered)) if answered.isdigit() and answered >= b"400" else _UNKNOWN


class V2Bodies:
    """Messages of ModelInfer, as the protocol's JSON. Implements ``recorder.Bodies``."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def input(self, recording: Recording, most: int) -> bytes:
        """See ``recorder.Bodies``."""
        message = _message("Request", recording.input, recording.input_coding, most)
        return self._written(message, "inputs")

    def output(self, recording: Recording, most: int) -> bytes:
        """See ``recorder.Bodies``; of a call that failed its status alone, since what is said beside it may quote the request."""
        if recording.grpc_status != "OK":
            return json.dumps({"error_code": recording.grpc_status}).encode()
        message = _message("Response", recording.output, recording.output_coding, most)
        return self._written(message, "outputs")

    def _written(self, message: Any, what: str) -> bytes:
        raw = list(message.raw)
        if raw and len(raw) != len(message.tensors):
            raise _unreadable(f"{len(raw)} contents for {len(message.tensors)} tensors")
        tensors = [self._tensor(tensor, raw[number] if raw else None) for number, tensor in enumerate(message.tensors)]
        parameters = _parameters(message)
        document = {
            **({"id": message.id} if message.id else {}),
            **({"parameters": parameters} if parameters else {}),
            what: tensors,
        }
        return json.dumps(document).encode()

    def _tensor(self, tensor: Any, raw: bytes | None) -> dict[str, Any]:
        kind = tensor.datatype
        shape = list(tensor.shape)
        if raw is not None:
            values = self._of_raw(kind, raw, shape)
        elif kind in _FIELDS:
            values = list(getattr(tensor.contents, _FIELDS[kind]))
        else:
            raise self._unknown(kind)
        parameters = _parameters(tensor)
        return {
            "name": tensor.name,
            "shape": shape,
            "datatype": kind,
            **({"parameters": parameters} if parameters else {}),
            "data": [
                value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else value
                for value in values
            ],
        }

    def _of_raw(self, kind: str, raw: bytes, shape: list[int]) -> list[Any]:
        if kind == "BYTES":
            values = _texts(raw)
        elif kind in _RAW:
            values = _numbers(kind, raw)
        else:
            raise self._unknown(kind)
        if len(values) != math.prod(shape):
            raise _unreadable(f"{len(values)} values of {kind} in a tensor of shape {shape}")
        return values

    def _unknown(self, kind: str) -> UnreadableBody:
        # Whoever sends a message chooses the name, and each name is a series of its own.
        if _NAME.fullmatch(kind) and len(self._named | {kind}) <= _MOST_NAMES:
            self._named.add(kind)
            return UnreadableBody(f"a tensor of datatype {kind}, which is not read", f"datatype {kind}")
        return UnreadableBody("a tensor of an unknown datatype", "datatype")


def _message(name: str, body: bytes, coding: str, most: int) -> Any:
    from google.protobuf.message import DecodeError

    if len(body) < _HEAD or int.from_bytes(body[1:_HEAD], "big") != len(body) - _HEAD:
        raise _unreadable("it is not one message")
    payload = plain(body[_HEAD:], coding or "?", most) if body[0] else body[_HEAD:]
    message = _classes()[name]()
    try:
        message.ParseFromString(payload)
    except DecodeError:
        raise _unreadable("it is no message of the V2 protocol") from None
    return message


def _unreadable(why: str) -> UnreadableBody:
    return UnreadableBody(why, "unreadable")


def _texts(raw: bytes) -> list[bytes]:
    """Texts, each behind its length."""
    values, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        values.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(raw):
        raise _unreadable("a text is cut off")
    return values


def _numbers(kind: str, raw: bytes) -> list[Any]:
    import numpy

    try:
        values = numpy.frombuffer(raw, dtype=_RAW[kind])
    except ValueError:
        raise _unreadable(f"a tensor of {kind} is cut off") from None
    if kind == "BF16":  # the upper half of a float32
        return list((values.astype("<u4") << 16).view("<f4").tolist())
    return list(values.tolist())


def _parameters(holder: Any) -> dict[str, Any]:
    parameters = {}
    for entry in holder.parameters:
        kinds = [field.name for field, _ in entry.value.ListFields()]
        parameters[entry.key] = getattr(entry.value, kinds[0]) if kinds else None
    return parameters


@functools.cache
def _classes() -> Mapping[str, Any]:
    """The messages' classes, made once, in a pool of their own."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="recorded.proto", package="recorded", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "Choice":
            message.oneof_decl.add(name="choice")
        for declaration in fields.split(", "):
            field, kind = declaration.split()
            label, number = field.split("=")
            entry = message.field.add(name=label, number=int(number), label=3 if kind.startswith("*") else 1)
            bare = kind.removeprefix("*")
            if bare in _MESSAGES:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".recorded.{bare}"
            else:
                entry.type = getattr(kinds, f"TYPE_{bare.upper()}")
            if name == "Choice":
                entry.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"recorded.{name}")) for name in _MESSAGES}
