"""What Istio's AuthorizationPolicy answers whom it keeps out, and what it takes to be let in."""

from __future__ import annotations

_WORDS = "RBAC: access denied"
"""As Envoy's RBAC filter answers, which such a policy becomes: the body of a 403, or the message of gRPC's PERMISSION_DENIED."""

NEED = (
    "an AuthorizationPolicy keeps out who asks: let in the principal of the gateway's service account, and inside the mesh that of "
    "the pod which runs the command"
)


def is_denied(answer: str) -> bool:
    """Whether an answer, or what is told of one, is such a policy's."""
    return _WORDS in answer
