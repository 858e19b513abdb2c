"""Floats packed into short JSON text, exactly.

A release's state lives in an annotation of a Kubernetes object, so the many numbers of a test are stored as
base64 of little-endian IEEE doubles: 11 characters for a number instead of about 20, and the very same bits back.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_istio.core.basics.stored import stored
from mlflow_istio.errors import InvalidInput


def pack_floats(values: Sequence[float]) -> str:
    """Return `values` as base64 text of little-endian doubles."""
    return _packed(values, "<f8")


def unpack_floats(text: str, _context: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the numbers that `pack_floats` wrote.

    Raises:
        InvalidInput: If the text isn't base64 of finite doubles.
    """
    return _unpacked(text, "<f8")


def single(values: Sequence[float]) -> tuple[float, ...]:
    """Return the nearest numbers of single precision, which `PACKED_SINGLE` keeps in half the text, exactly."""
    return tuple(np.asarray(values, dtype="<f4").astype(np.float64).tolist())


def _packed(values: Sequence[float], kind: str) -> str:
    return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode("ascii")


def _unpacked(text: str, kind: str) -> tuple[float, ...]:
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype=kind).astype(np.float64)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidInput(f"must be packed numbers: {error}") from error
    if not np.isfinite(values).all():
        raise InvalidInput("holds a number that isn't finite")
    return tuple(values.tolist())


PACKED = stored(write=pack_floats, read=unpack_floats)
"""``metadata`` of a field that holds many numbers."""

PACKED_SINGLE = stored(write=lambda values: _packed(values, "<f4"), read=lambda text, _context: _unpacked(text, "<f4"))
"""``metadata`` of a field that holds many numbers of single precision (see `single`)."""
