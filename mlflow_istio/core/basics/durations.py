"""Durations as Istio and Go write them: ``2s``, ``250ms``, ``1m30s``; never a bare number."""

from __future__ import annotations

import re

from mlflow_istio.errors import InvalidInput

_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def seconds_of(text: object, what: str = "duration") -> float:
    """The seconds of a duration.

    Args:
        text: Such as ``2s`` or ``1m30s``.
        what: What it is, for messages.

    Raises:
        InvalidInput: It has no unit, or is no duration.
    """
    if not isinstance(text, str) or not text:
        raise InvalidInput(f"{what} must be a duration with its unit, such as 2s or 250ms, not {text!r}")
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"{what} must be a duration with its unit, such as 2s or 250ms, not {text!r}")
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def check_duration(text: object, what: str = "duration", *, at_least: float = 0.001) -> str:
    """Return the duration if it is one and not shorter than ``at_least`` seconds (Istio's least is 1 ms).

    Raises:
        InvalidInput: It is not.
    """
    if seconds_of(text, what) < at_least:
        raise InvalidInput(f"{what} must be at least {at_least * 1000:g}ms, not {text!r}")
    return str(text)
