"""What the running Envoy says of itself, through its admin interface.

It listens on a unix socket that only the mesh's owner may use: whoever reaches it can end the mesh.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_istio.adapters.local.envoy.clusters import active
from mlflow_istio.calls import unix_sockets

_TIMEOUT = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvoyAdmin:
    """Envoy's admin interface.

    Attributes:
        path: Its socket.
    """

    path: Path

    def is_there(self) -> bool:
        """Whether its socket is: an Envoy that an older version started has none, and neither has one whose socket was removed."""
        return self.path.exists()

    def is_ready(self) -> bool:
        """Whether Envoy has read its configuration and takes requests."""
        return (self._get("/ready") or "").strip() == "LIVE"

    def clusters(self) -> dict[str, str] | None:
        """The clusters in use and the hash of the content that each carries; None when Envoy does not answer."""
        dump = self._json("/config_dump?resource=dynamic_active_clusters&mask=cluster.name,cluster.metadata")
        return None if dump is None else dict(active(entry["cluster"]) for entry in dump.get("configs", ()))

    def listeners(self) -> dict[str, str] | None:
        """The listeners in use, or refused with the reason (empty for those in use); None when Envoy is silent."""
        dump = self._json("/config_dump?resource=dynamic_listeners")
        if dump is None:
            return None
        addresses: dict[str, str] = {}
        for entry in dump.get("configs", ()):
            if "error_state" in entry:
                # One that never was open has its name in the refused configuration only.
                error = entry["error_state"]
                addresses[str(error["failed_configuration"]["name"])] = str(error["details"])
            elif "active_state" in entry:
                addresses.setdefault(str(entry["name"]), "")
        return addresses

    def unhealthy_ports(self) -> frozenset[int] | None:
        """Ports of the replicas that some cluster holds back; None when Envoy does not answer."""
        dump = self._json("/clusters?format=json")
        if dump is None:
            return None
        return frozenset(
            int(host["address"]["socket_address"]["port_value"])
            for cluster in dump.get("cluster_statuses", ())
            for host in cluster.get("host_statuses", ())
            if host.get("health_status", {}).get("failed_active_health_check")
        )

    def _json(self, path: str) -> Mapping[str, Any] | None:
        text = self._get(path)
        return None if text is None else json.loads(text)

    def _get(self, path: str) -> str | None:
        try:
            status, body = unix_sockets.get(self.path, path, timeout=_TIMEOUT)
        except (OSError, http.client.HTTPException):
            return None
        return body if status == 200 else None
