"""Requests and answers that model servers recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What the recorders of a deployment's servers hold.

    Attributes:
        records: The records as written: ``request_id``, ``time``, ``deployment``, ``status``, ``ms``, perhaps ``output``,
            ``input``.
        complete_since: Unix seconds since which no record was lost to rotation; 0 when none ever was.
        dropped: Requests that were to be recorded and were not, by reason, since each recorder started.
    """

    records: Sequence[Mapping[str, Any]]
    complete_since: float = 0.0
    dropped: Mapping[str, int] = field(default_factory=dict)


class Records(Protocol):
    """The recorders of model servers, for shadow comparison."""

    def read(self, endpoint: str, deployment: str, replicas: int) -> Recorded:
        """All that the servers of a deployment have kept.

        Args:
            endpoint: The endpoint.
            deployment: The deployment.
            replicas: How many servers it has.

        Raises:
            StateConflict: They record nothing; says which variables to set.
            ClusterError: They can't be reached, or refuse.
        """
