"""Evidence that grows look by look: what every sequential test here has in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from mlflow_istio.core.analysis.interval import bounded_exp
from mlflow_istio.core.basics.stored import form

AnEProcess = TypeVar("AnEProcess", bound="EProcess")


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class EProcess(ABC):
    """Evidence against a hypothesis that may be read, and acted on, at any time.

    While the hypothesis holds, the chance that the e-value ever reaches 1/alpha is alpha at most (Ville's inequality; Ramdas,
    Grünwald, Vovk & Shafer 2023, Statist. Sci. 38). A subclass says its evidence now, and ends every update with `with_peak`.

    Attributes:
        max_log_e: The largest log e-value so far.
    """

    max_log_e: float = 0.0

    @property
    @abstractmethod
    def log_e_value(self) -> float:
        """Log of the evidence now."""

    @property
    def e_value(self) -> float:
        """The evidence now: reject when it reaches 1/alpha."""
        return bounded_exp(self.log_e_value)

    @property
    def p_value(self) -> float:
        """The anytime-valid p-value, 1 / (largest e-value so far), at most 1."""
        return float(np.exp(-self.max_log_e))

    def with_peak(self: AnEProcess) -> AnEProcess:
        """Return the same with the evidence now among its largest."""
        return replace(self, max_log_e=max(self.max_log_e, self.log_e_value))
