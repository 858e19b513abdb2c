"""What those who look after one mesh share."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_istio.adapters.local.processes import Supervisor
from mlflow_istio.adapters.local.state import StateDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshParts:
    """The parts of one mesh.

    Attributes:
        state: Its state directory.
        supervisor: Its supervisor.
        mesh: Its name.
    """

    state: StateDirectory
    supervisor: Supervisor
    mesh: str
