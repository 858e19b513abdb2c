"""What callers of an endpoint of the local mesh saw, from its listener's own counts in Envoy.

A cluster's counts know nothing of requests that a fault ended, nor of the time a fault held them back; the listener's do. They
count every request at the endpoint's port: pinned ones and the probes of our own commands, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from mlflow_istio.adapters.envoy.statistics import read_statistics
from mlflow_istio.core.analysis.measures import latency_series

_SAMPLE = re.compile(r"envoy_http_(?P<what>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_FAULTS = {"fault_aborts_injected": "aborted", "fault_delays_injected": "delayed"}


def read_callers(text: str, prefix: str) -> dict[str, float]:
    """The counts of one listener among Envoy's statistics: ``2xx`` to ``5xx``, ``aborted``, ``delayed``, ``le/EDGE_MS``. Pure."""
    totals: dict[str, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        labels = dict(_LABEL.findall(match["labels"])) if match else {}
        if match is None or labels.get("envoy_http_conn_manager_prefix") != prefix:
            continue
        what = match["what"]
        if what == "downstream_rq_xx":
            series = f"{labels.get('envoy_response_code_class', '?')}xx"
        elif what == "downstream_rq_time_bucket":
            series = latency_series(float(labels["le"]))
        elif what in _FAULTS:
            series = _FAULTS[what]
        else:
            continue
        totals[series] = totals.get(series, 0.0) + float(match["value"])
    return totals


class EnvoyCallers:
    """Reads a listener's counts.

    Args:
        admins: Where the admin interfaces are now.
        timeout: Seconds for each.
    """

    def __init__(self, admins: Callable[[], Sequence[str]], *, timeout: float = 5.0) -> None:
        self._admins = admins
        self._timeout = timeout

    def read(self, virtual_service: str) -> Mapping[str, float]:
        """The counts now, cumulative since Envoy started.

        Raises:
            MetricsError: Envoy does not answer.
        """
        totals: dict[str, float] = {}
        pattern = rf"^http\.{re.escape(virtual_service)}\.(downstream_rq_([0-9]xx|time)|fault\.)"
        for admin in self._admins():
            text = read_statistics(admin, pattern, name="Envoy's statistics", timeout=self._timeout)
            for series, value in read_callers(text, virtual_service).items():
                totals[series] = totals.get(series, 0.0) + value
        return totals
