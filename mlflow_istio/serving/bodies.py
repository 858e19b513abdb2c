"""Which bodies of requests the model gets to see. Pure.

Whoever calls chooses the body. One that nobody can read, or that is built to break a reader, is the caller's fault and no error of
the version: it is told apart here, before MLflow and pandas meet it. NaN and the infinities, which MLflow's JSON has, are values
like others and pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from mlflow_istio.serving.payloads import Json

MOST_DEPTH = 100
"""Most objects and lists inside each other. Python's own readers and writers give up somewhere below 1,000."""
MOST_DIGITS = 309
"""Most digits of a whole number: no longer one has a floating-point value, and Python refuses to read 4,301."""

# Cheap to look for, and rare: only then each number is read by ourselves.
_LONG_NUMBER = re.compile(r"[0-9]{200}|[eE]\+?[0-9]{3}")
_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class RefusedBodyError(ValueError):
    """The body is the caller's fault.

    Attributes:
        status: The HTTP status that says so.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def check_body(body: bytes, content_type: str | None) -> None:
    """Refuse a body that can't be read.

    Args:
        body: The request's body.
        content_type: Value of its header ``content-type``; None where there is none.

    Raises:
        RefusedBodyError: The body isn't UTF-8 or JSON, is nested too deep, repeats a key, or has a number that no floating-point
            value is; or there is no content type. The message quotes nothing of the body.
    """
    if content_type is None:
        raise RefusedBodyError("the request has no content-type: say application/json", 415)
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        read_json(body)
    elif kind == "text/csv":
        _text(body)


def read_json(body: bytes) -> Json:
    """A body's JSON value.

    Raises:
        RefusedBodyError: It has none, or not one that every reader understands alike; see ``check_body``.
    """
    text = _text(body)
    numbers: dict[str, Any] = {}
    if _LONG_NUMBER.search(text):
        numbers = {"parse_int": _whole, "parse_float": _finite}
    try:
        value: Json = json.loads(text, object_pairs_hook=_unrepeated, **numbers)
        if _HALF_A_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RefusedBodyError:
        raise
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError:
        raise RefusedBodyError("a string of the body has half of a surrogate pair, which is no character") from None
    except ValueError:
        raise RefusedBodyError("the body is no JSON") from None
    _refuse_depth(value)
    return value


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedBodyError(f"the body is no UTF-8 text (byte {error.start})") from None


def _unrepeated(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        # Readers differ in which of the two counts.
        raise RefusedBodyError("an object of the body has a key twice")
    return value


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise RefusedBodyError(f"a number of the body has more than {MOST_DIGITS} digits")
    _refuse_beyond_range(digits)
    return int(digits)


def _finite(digits: str) -> float:
    _refuse_beyond_range(digits)
    return float(digits)


def _refuse_beyond_range(digits: str) -> None:
    if float(digits) in (float("inf"), float("-inf")):
        raise RefusedBodyError(
            "a number of the body is beyond the range of floating point (write Infinity for infinity)"
        )


def _refuse_depth(value: Json) -> None:
    level = _containers([value])
    for _ in range(MOST_DEPTH):
        level = [
            item
            for container in level
            for item in _containers(container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return
    raise _too_deep()


def _containers(values: Iterable[Json]) -> list[list[Json] | dict[str, Json]]:
    return [value for value in values if isinstance(value, (dict, list))]


def _too_deep() -> RefusedBodyError:
    return RefusedBodyError(f"the body is nested deeper than {MOST_DEPTH} objects and lists")
