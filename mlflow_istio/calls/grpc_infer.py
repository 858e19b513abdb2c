"""Predictions by the V2 protocol over gRPC: the JSON that its REST side takes, as messages, and answers as that JSON again.

The messages are made here from their fields' names and numbers, as the protocol's ``grpc_predict_v2.proto`` has them, by the
protobuf that MLflow brings along; what another server adds to them is passed over.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_istio.calls.grpc_calls import call
from mlflow_istio.calls.v2_body import flat, v2_document
from mlflow_istio.errors import ClusterError, InvalidInput
from mlflow_istio.ports.cluster import Address

MODEL = "model"
"""What MLServer and Triton call the model that we start them with."""

_PACKAGE = "inference"
_TOO_LARGE = "larger than max"
"""As grpcio, gRPC's C++ and Go servers say what their limit of a message is passed by."""
_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype to the field that holds its values; FP16 has none."""
_RAW: Mapping[str, str] = {
    "BOOL": "?",
    **{f"{sign}INT{8 * size}": f"<{letter}{size}" for sign, letter in (("", "i"), ("U", "u")) for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
"""Datatype to what its bytes are, in numpy's words."""

# Message -> its fields: name, number, type; "*" before a type: repeated.
_MESSAGES: Mapping[str, Sequence[tuple[str, int, str]]] = {
    "InferParameter": [
        *(("bool_param", 1, "bool"), ("int64_param", 2, "int64"), ("string_param", 3, "string")),
        *(("double_param", 4, "double"), ("uint64_param", 5, "uint64")),
    ],
    "Parameter": [("key", 1, "string"), ("value", 2, "InferParameter")],
    "InferTensorContents": [
        *(("bool_contents", 1, "*bool"), ("int_contents", 2, "*int32"), ("int64_contents", 3, "*int64")),
        *(("uint_contents", 4, "*uint32"), ("uint64_contents", 5, "*uint64"), ("fp32_contents", 6, "*float")),
        *(("fp64_contents", 7, "*double"), ("bytes_contents", 8, "*bytes")),
    ],
    "Tensor": [
        *(("name", 1, "string"), ("datatype", 2, "string"), ("shape", 3, "*int64")),
        *(("parameters", 4, "*Parameter"), ("contents", 5, "InferTensorContents")),
    ],
    "RequestedOutput": [("name", 1, "string"), ("parameters", 2, "*Parameter")],
    "ModelInferRequest": [
        *(("model_name", 1, "string"), ("model_version", 2, "string"), ("id", 3, "string")),
        *(("parameters", 4, "*Parameter"), ("inputs", 5, "*Tensor"), ("outputs", 6, "*RequestedOutput")),
        ("raw_input_contents", 7, "*bytes"),
    ],
    "ModelInferResponse": [
        *(("model_name", 1, "string"), ("model_version", 2, "string"), ("id", 3, "string")),
        *(("parameters", 4, "*Parameter"), ("outputs", 5, "*Tensor"), ("raw_output_contents", 6, "*bytes")),
    ],
}


def infer(address: Address, payload: Any, *, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
    """Ask a model by the V2 protocol over gRPC, on a connection that is kept, and return its answer as the protocol's JSON.

    Args:
        address: The endpoint's address; its path of scoring is the method.
        payload: The protocol's JSON: ``{"inputs": [{"name": ..., "shape": ..., "datatype": ..., "data": ...}]}``; or a body of
            MLflow's scoring protocol, such as an input example, which MLServer's MLflow runtime reads as it was meant.
        headers: Further metadata, such as the one that pins a deployment.
        timeout: Seconds for the answer.

    Raises:
        InvalidInput: The input is none of the protocol, the model refused it, or nobody knows how the server is asked.
        ClusterError: Nothing answered, or it failed.
    """
    if not address.scoring or address.body == "none":
        raise InvalidInput(
            f"the endpoint at {address.url} is a gRPC service of your own: only its own client knows its messages"
        )
    message = request_message(v2_document(payload))
    metadata = {**address.headers, **headers}
    reply = call(address.url, address.scoring, message, headers=metadata, timeout=timeout)
    details = " ".join(reply.details.split())[:300]
    if reply.code == "INVALID_ARGUMENT":
        raise InvalidInput(f"the model refused the input: {details}")
    if reply.code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in details:
        raise InvalidInput(
            f"the server at {address.url} takes no message of {len(message)} bytes: {details}; send less, or raise its limit"
        )
    if reply.code != "OK":
        raise ClusterError(f"{address.url} answered {reply.code}: {details}; see 'mlflow-istio status'")
    return response_document(reply.body)


def request_message(document: Any) -> bytes:
    """A request's JSON as its message.

    Raises:
        InvalidInput: It is no request of the protocol; names what is wrong.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("inputs"), list):
        raise InvalidInput(
            'this model server takes the V2 protocol: {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}'
        )
    message = _classes()["ModelInferRequest"]()
    message.model_name = str(document.get("model_name", MODEL))
    message.id = str(document.get("id", ""))
    _put_parameters(message, document.get("parameters"), "the request")
    for entry in document["inputs"]:
        _put_tensor(message.inputs.add(), entry)
    for entry in document.get("outputs") or ():
        output = message.outputs.add()
        output.name = str(entry.get("name", ""))
        _put_parameters(output, entry.get("parameters"), f"output '{output.name}'")
    return bytes(message.SerializeToString())


def response_document(body: bytes) -> dict[str, Any]:
    """An answer's message as the protocol's JSON.

    Raises:
        ClusterError: It is no message of the protocol.
    """
    from google.protobuf.message import DecodeError

    message = _classes()["ModelInferResponse"]()
    try:
        message.ParseFromString(body)
    except DecodeError as exc:
        raise ClusterError("the model server answered something that is no ModelInferResponse") from exc
    raw = list(message.raw_output_contents)
    outputs = [
        _tensor(tensor, raw[index] if index < len(raw) else None) for index, tensor in enumerate(message.outputs)
    ]
    named = {"model_name": message.model_name, "model_version": message.model_version, "id": message.id}
    parameters = _parameters(message.parameters)
    return {
        **{name: text for name, text in named.items() if text},
        **({"parameters": parameters} if parameters else {}),
        "outputs": outputs,
    }


def _put_tensor(tensor: Any, entry: Any) -> None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise InvalidInput(f"an input of the V2 protocol has a name, shape, datatype and data, not {str(entry)[:80]!r}")
    where = f"input '{entry['name']}'"
    kind, shape, data = str(entry.get("datatype")), entry.get("shape"), entry.get("data")
    if kind not in _CONTENTS:
        raise InvalidInput(f"{where} can't have datatype {kind!r}: use one of {', '.join(_CONTENTS)}")
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        raise InvalidInput(f"{where} must have a shape, such as [1, 2]")
    values = list(flat(data))
    if kind == "BYTES":
        values = [value.encode() if isinstance(value, str) else value for value in values]
    tensor.name, tensor.datatype = entry["name"], kind
    tensor.shape.extend(shape)
    _put_parameters(tensor, entry.get("parameters"), where)
    try:
        getattr(tensor.contents, _CONTENTS[kind]).extend(values)
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"{where} has data that are not {kind}: {' '.join(str(exc).split())[:120]}") from exc


def _put_parameters(holder: Any, parameters: Any, where: str) -> None:
    if not isinstance(parameters, Mapping):
        return
    for key, value in parameters.items():
        entry = holder.parameters.add()
        entry.key = str(key)
        kinds: Sequence[tuple[type, str]] = (
            *((bool, "bool_param"), (int, "int64_param"), (str, "string_param"), (float, "double_param")),
        )
        field = next((field for kind, field in kinds if isinstance(value, kind)), None)
        if field is None:
            raise InvalidInput(f"{where}: parameter '{key}' must be a text, a number, or true or false")
        setattr(entry.value, field, value)


def _tensor(tensor: Any, raw: bytes | None) -> dict[str, Any]:
    field = _CONTENTS.get(tensor.datatype)
    data: list[Any] = _of_raw(tensor.datatype, raw) if raw is not None else []
    if raw is None and field is not None:
        data = list(getattr(tensor.contents, field))
    parameters = _parameters(tensor.parameters)
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "datatype": tensor.datatype,
        **({"parameters": parameters} if parameters else {}),
        "data": [_text(value) if isinstance(value, bytes) else value for value in data],
    }


def _of_raw(kind: str, raw: bytes) -> list[Any]:
    """Values that stand as bytes beside the tensors; texts each behind its length."""
    if kind == "BYTES":
        values, at = [], 0
        while at + 4 <= len(raw):
            size = int.from_bytes(raw[at : at + 4], "little")
            values.append(raw[at + 4 : at + 4 + size])
            at += 4 + size
        return values
    import numpy

    if kind == "BF16":  # the upper half of a float32
        halves = numpy.frombuffer(raw, dtype="<u2").astype("<u4")
        return list((halves << 16).view("<f4").tolist())
    if kind not in _RAW:
        raise ClusterError(f"the model server answered with datatype {kind!r}, which can't be read")
    return list(numpy.frombuffer(raw, dtype=_RAW[kind]).tolist())


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="backslashreplace")


def _parameters(entries: Any) -> dict[str, Any]:
    parameters = {}
    for entry in entries:
        kinds = [field.name for field, _ in entry.value.ListFields()]
        parameters[entry.key] = getattr(entry.value, kinds[0]) if kinds else None
    return parameters


@functools.cache
def _classes() -> Mapping[str, Any]:
    """The messages' classes, made once; in a pool of their own, so that a client of the user's may bring the same messages."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="v2.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "InferParameter":
            message.oneof_decl.add(name="parameter_choice")
        for field, number, kind in fields:
            entry = message.field.add(name=field, number=number, label=3 if kind.startswith("*") else 1)
            bare = kind.removeprefix("*")
            if bare in _MESSAGES:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{bare}"
            else:
                entry.type = getattr(kinds, f"TYPE_{bare.upper()}")
            if name == "InferParameter":
                entry.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in classes.items()}
