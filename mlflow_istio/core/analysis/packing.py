"""Floats packed into short JSON text, exactly.

A release's state lives in an annotation of a Kubernetes object, so the many numbers of a test are stored as
base64 of little-endian IEEE doubles: 11 characters for a number instead of about 20, and the very same bits back.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_istio.errors import InvalidInput


def pack_floats(values: Sequence[float]) -> str:
    """Return `values` as base64 text of little-endian doubles."""
    return base64.b64encode(np.asarray(values, dtype="<f8").tobytes()).decode("ascii")


def unpack_floats(text: str, *, count: int, field: str) -> tuple[float, ...]:
    """Return the `count` numbers that `pack_floats` wrote.

    Args:
        text: What `pack_floats` returned.
        count: How many numbers there must be.
        field: The name used in an error.

    Raises:
        InvalidInput: If the text isn't base64 of exactly `count` finite doubles.
    """
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"stored state: field {field!r} isn't packed numbers: {error}") from error
    if len(values) != count:
        raise InvalidInput(f"stored state: field {field!r} holds {len(values)} numbers, this version needs {count}")
    if not np.isfinite(values).all():
        raise InvalidInput(f"stored state: field {field!r} holds a number that isn't finite")
    return tuple(values.tolist())


def read_fields(data: Mapping[str, Any], fields: Sequence[str], *, kind: str) -> dict[str, Any]:
    """Return exactly `fields` of `data`, refusing unknown and missing ones by name.

    Raises:
        InvalidInput: If `data` has another set of keys.
    """
    missing = sorted(set(fields) - set(data))
    unknown = sorted(set(data) - set(fields))
    if missing or unknown:
        raise InvalidInput(f"stored state of {kind}: missing fields {missing}, unknown fields {unknown}")
    return {name: data[name] for name in fields}
