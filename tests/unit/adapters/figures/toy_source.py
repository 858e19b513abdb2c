"""A source of figures as a package of its own would bring it, such as one for a vendor's API: `make_toy` is its entry point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.ports.metrics import SourceTerms

SAYS: dict[str, Any] = {}
"""What the toy's API says of each deployment; an exception is raised."""
ASKED: list[SourceTerms] = []
NOT_A_FACTORY = "text"


class Toy:
    """Implements ``ports.Metrics`` and ``ports.MetricsHistory``."""

    name = "Toy at https://toy.example"
    counts_chosen = False

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        for said in SAYS.values():
            if isinstance(said, Exception):
                raise said
        return SAYS

    def history(self, endpoint: str, deployment: str, seconds: float, step: float) -> Sequence[Reading]:
        return [SAYS[deployment]] * 3


def make_toy(terms: SourceTerms) -> Toy:
    """What the entry point names."""
    ASKED.append(terms)
    return Toy()


def make_nothing(terms: SourceTerms) -> str:
    """A mistake."""
    return "no source"


def make_trouble(terms: SourceTerms) -> Toy:
    """A key that isn't set, as such a package would find out."""
    raise KeyError("TOY_API_KEY")


def make_leaving(terms: SourceTerms) -> Toy:
    """What a package does that takes itself for a program."""
    raise SystemExit("no licence")
