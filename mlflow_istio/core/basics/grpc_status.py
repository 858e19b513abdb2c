"""The statuses of gRPC: their numbers, and whose fault each is.

A status is told as the HTTP status that gRPC itself says it is like (``google/rpc/code.proto``), so that whatever counts classes
of answers counts calls, too: 5xx is the version's, 4xx the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping

GRPC_CODES: Mapping[str, int] = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""Name to number, as Istio takes the names in ``grpcStatus``."""

LIKE: Mapping[str, int] = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
"""Name to the HTTP status that it is like. A status that is none of these is like UNKNOWN, as gRPC's own clients read it."""

_LEFT = frozenset({"DC", "DR", "DPE"})
"""What proxies write of a call whose caller ended it: by its connection, by its stream, or by what no HTTP/2 may say."""

_CLASSES = {str(GRPC_CODES[name]): str(status)[0] for name, status in LIKE.items()}


def class_of_status(number: str) -> str:
    """The class of answers, ``2`` to ``5``, of a status as proxies write it; empty where they wrote none."""
    return _CLASSES.get(number, "5") if number.isdigit() else ""


def class_of_call(number: str, flags: str) -> str:
    """The class of answers of a call, from what a proxy writes at its end (Envoy's access log, Istio's series).

    Of a call that its caller ended the status means nothing: where the answer had begun, as a stream's has, Envoy takes HTTP's
    200 for ``UNKNOWN`` (``Grpc::Common::getGrpcStatus``). It counts as ``CANCELLED`` does.

    Args:
        number: The status; empty or ``-`` where nobody said one.
        flags: Envoy's response flags, with commas between them.
    """
    if _LEFT & set(flags.split(",")):
        return str(LIKE["CANCELLED"])[0]
    return class_of_status(number)
