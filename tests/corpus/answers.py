"""What a case's requests are answered with, made comparable, and istiod's answers as recorded.

``DIFFERS`` is the one list of what legitimately differs between a gateway told by istiod and the local mesh.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "answers"

# Header (of the request as the model sees it, or of the answer) -> why it is not compared.
DIFFERS_IN_REQUEST = {
    "x-corpus-id": "the runner's own, new for each request",
    "x-forwarded-for": "a gateway is an edge and appends the caller's address; a proxy in the mesh does not",
    "x-envoy-internal": "a gateway's word on the caller's address",
    "x-envoy-external-address": "a gateway's word on the caller's address",
    "x-envoy-decorator-operation": "istiod's name of the route for traces, which the local mesh does not have",
    "x-envoy-peer-metadata": "istio-proxy's telemetry",
    "x-envoy-peer-metadata-id": "istio-proxy's telemetry",
    "user-agent": "of a call: the version of grpcio",
}
DIFFERS_IN_ANSWER = {
    "date": "time",
    "content-length": "the body is compared, and the echo holds headers of different lengths",
    "server": "a gateway overwrites it with its own name; the local mesh passes the model's on",
    "x-envoy-upstream-service-time": "time",
    "x-echo-answer": "the runner's own mark of an answer by the echo",
}
RANDOM = ("x-request-id",)
LEFT_OVER = ("x-envoy-expected-rq-timeout-ms",)
"""What another try says of the time that the tries before have left, and a call of the time until its caller's deadline."""
PRESENT = "(any)"
LATE_TRIES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One answer as it came.

    Attributes:
        status: Its status; of a call its name, such as ``UNAVAILABLE``.
        headers: Names in lower case, and values.
        body: Its body.
        seconds: How long it took.
    """

    status: int | str
    headers: Sequence[tuple[str, str]]
    body: str
    seconds: float


def comparable(reply: Reply) -> dict[str, Any]:
    """The answer without what legitimately differs."""
    answer: dict[str, Any] = {"status": reply.status}
    headers = _kept(reply.headers, DIFFERS_IN_ANSWER)
    subset = dict(reply.headers).get("x-echo-answer")
    if subset is not None:
        answer["subset"] = subset
    if subset is not None and reply.body.startswith("{"):
        seen = json.loads(reply.body)
        answer["seen"] = {
            "request": f"{seen['method']} {seen['path']}",
            "headers": _kept(seen["headers"], DIFFERS_IN_REQUEST, is_call=seen["method"] == "CALL"),
            **({"body": seen["body"]} if seen["body"] else {}),
        }
    elif reply.body:
        answer["body"] = reply.body
    if headers:
        answer["headers"] = headers
    return answer


def replica_of(reply: Reply) -> str | None:
    """Which replica answered; None when it was none."""
    if not any(name == "x-echo-answer" for name, _ in reply.headers) or not reply.body.startswith("{"):
        return None
    return str(json.loads(reply.body)["replica"])


def distinct(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each different answer once, in a fixed order."""
    return [json.loads(text) for text in sorted({json.dumps(answer, sort_keys=True) for answer in answers})]


def recorded(family: str) -> dict[str, Any]:
    """Istiod's answers to a family's cases, by the name of the case; empty when there are none yet."""
    path = FOLDER / f"{family}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def record(family: str, answers: Mapping[str, Any]) -> None:
    """Keep istiod's answers to a family's cases."""
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(answers, indent=1, sort_keys=True, ensure_ascii=False)
    (FOLDER / f"{family}.json").write_text(text + "\n", encoding="utf-8")


def _kept(headers: Sequence[Sequence[str]], differing: Mapping[str, str], *, is_call: bool = False) -> list[str]:
    """Headers that are compared, as lines in a fixed order; several of one name in theirs."""
    again = any(name == "x-envoy-attempt-count" and value != "1" for name, value in headers)
    any_value = (*RANDOM, *(LEFT_OVER if again or is_call else ()))
    kept = [(name, PRESENT if name in any_value else value) for name, value in headers if name not in differing]
    return [f"{name}: {value}" for name, value in sorted(kept, key=lambda pair: pair[0])]
