"""What the running Envoy says of itself, through its admin interface."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_istio.adapters.local.envoy.clusters import active

_TIMEOUT = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvoyAdmin:
    """Envoy's admin interface.

    Attributes:
        port: Its port on 127.0.0.1.
    """

    port: int

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
        found: dict[str, str] = {}
        for entry in dump.get("configs", ()):
            if "error_state" in entry:
                # One that never was open has its name in the refused configuration only.
                error = entry["error_state"]
                found[str(error["failed_configuration"]["name"])] = str(error["details"])
            elif "active_state" in entry:
                found.setdefault(str(entry["name"]), "")
        return found

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
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body.decode() if answer.status == 200 else None
