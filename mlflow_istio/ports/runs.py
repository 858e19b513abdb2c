"""Where a release's figures and pages are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One point of a metric of a run.

    Attributes:
        time: When it was taken, in UTC.
        step: Number of the look, or sequence of the change.
        value: Its value.
    """

    time: datetime
    step: int
    value: float


@runtime_checkable
class Runs(Protocol):
    """What a release's MLflow run holds besides its routing changes: figures of each look, and texts such as the report."""

    def keep(
        self,
        run: str,
        *,
        figures: Mapping[str, float] | None = None,
        step: int = 0,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Write metrics at a step, and text artifacts by path; a text of the same path is replaced.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def figures(self, run: str) -> Mapping[str, Sequence[Figure]]:
        """Every metric of the run with its history, by step.

        Raises:
            NotFound: There is no such run.
            RegistryError: The tracking server can't be reached.
        """

    def text(self, run: str, path: str) -> str | None:
        """One text artifact, or None when there is none.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def tag(self, label: str, key: str) -> str | None:
        """A tag of the model version ``MODEL/VERSION``, or None when it does not have it: how a person approves in the registry.

        Raises:
            NotFound: There is no such model version.
            RegistryError: The registry can't be reached.
        """
