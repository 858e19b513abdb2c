"""Waiting for the running Envoy to have what its files say."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mlflow_istio.adapters.local.envoy.admin import EnvoyAdmin
from mlflow_istio.adapters.local.envoy.clusters import active
from mlflow_istio.adapters.local.envoy.types import Config
from mlflow_istio.adapters.local.free_ports import is_free, is_open
from mlflow_istio.adapters.local.mesh_parts import MeshParts
from mlflow_istio.adapters.local.processes import ENVOY, admin_socket
from mlflow_istio.adapters.local.state import read_tail
from mlflow_istio.errors import ClusterError, NotReady

_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 2.0
_POLL = 0.004
_LOG_LINES = 15
# An Envoy that ended this often while it was waited for does not come up.
_ENDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvoyWatch(MeshParts):
    """The Envoy of one mesh, as it can be seen from outside."""

    def admin(self) -> EnvoyAdmin:
        """Its admin interface."""
        return EnvoyAdmin(path=admin_socket(self.state))

    def log(self) -> str:
        """The last lines of its log."""
        return "\n".join(read_tail(self.state.log_file(ENVOY), _LOG_LINES))

    def await_ready(self, seconds: float = _TIMEOUT) -> None:
        """Wait until it takes requests.

        Args:
            seconds: How long.

        Raises:
            NotReady: It does not; ``detail`` has its last log lines.
        """
        admin = self.admin()
        last_start = self.supervisor.starts(ENVOY) + _ENDS
        ready = False

        def settled() -> bool:
            nonlocal ready
            ready = admin.is_ready()
            return ready or self.supervisor.starts(ENVOY) >= last_start

        if not _until(settled, seconds) or not ready:
            raise NotReady(
                f"Envoy of mesh '{self.mesh}' does not come up: see its last log lines, or {self.state.log_file(ENVOY)}",
                detail=self.log(),
            )

    def await_clusters(self, clusters: Sequence[Config]) -> None:
        """Wait until these clusters are in use, as they are, and no others.

        Raises:
            ClusterError: They are not; ``detail`` has the last log lines.
        """
        admin = self.admin()
        wanted = dict(active(cluster) for cluster in clusters)
        if not _until(lambda: admin.clusters() == wanted):
            raise self._not_followed("the replicas of its endpoints")

    def await_listeners(self, names: Collection[str]) -> dict[str, str]:
        """Wait until it has tried to open these listeners, and closed all others.

        Returns:
            Why it could not, by the name of the listener.

        Raises:
            ClusterError: It did not try; ``detail`` has the last log lines.
        """
        admin = self.admin()
        seen: dict[str, str] | None = None

        def settled() -> bool:
            nonlocal seen
            seen = admin.listeners()
            return seen is not None and set(seen) == set(names)

        if not _until(settled) or seen is None:
            raise self._not_followed("its endpoints")
        return {name: reason for name, reason in seen.items() if reason}

    def await_open(self, name: str) -> None:
        """Wait a moment until it has opened a listener that it could not open before."""
        admin = self.admin()
        _until(lambda: (admin.listeners() or {}).get(name) == "", seconds=_CLOSE_TIMEOUT)

    def silent(self, ports: Mapping[str, int]) -> list[str]:
        """Names of the listeners whose ports take no connection, though they should."""
        return sorted(name for name, port in ports.items() if not is_open(port))

    def await_closed(self, port: int) -> None:
        """Wait a moment until a port is closed: Envoy's threads close it one after the other."""
        _until(lambda: is_free(port), seconds=_CLOSE_TIMEOUT)

    def _not_followed(self, what: str) -> ClusterError:
        return ClusterError(
            f"the change is stored, but Envoy of mesh '{self.mesh}' did not take over {what} within {_TIMEOUT:g} s: "
            "run the same command again, or look at 'mlflow-istio local logs envoy'",
            detail=self.log(),
        )


def _until(condition: Callable[[], bool], seconds: float = _TIMEOUT) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True
