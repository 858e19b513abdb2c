"""How one request reaches a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mlflow_istio.ports.cluster import Address


class Score(Protocol):
    """Sends one request, as ``calls.scoring.score`` does."""

    def __call__(self, address: Address, payload: Any, *, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        """The JSON answer."""
