"""Counts from Envoy's own statistics, read at its admin interface (``/stats/prometheus``).

On the local mesh Envoy counts live traffic apart (see ``adapters.local.envoy_stats``), so only requests that the weights gave a
deployment are read: whoever chose the arm, by its header or cookie, is no evidence about it. An Envoy that istiod configures has
one count for each subset's cluster: **pinned and mirrored requests, and those that chose their arm, are in it**, and nothing there
tells them apart, which is why pins ask for a key at a gateway; requests of the probe route never are, since Envoy answers them
itself. Neither are requests that found no cluster, or that a fault ended before a version was asked.

Calls over gRPC are counted by their status, on the local mesh; an Envoy that istiod configures has HTTP's 200 of each, so that
nobody can be judged by it: Istio's series in Prometheus have the status.

Envoy doubles its counters for internal and external callers and for retries; those are left out. A retried request counts
once, with the answer the caller got. One whose caller went away before the answer isn't counted by Envoy at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_istio.adapters.envoy.statistics import CALLS, call_of, process_of, read_statistics
from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import ASSIGNMENTS, ERRORS, REQUESTS, latency_series
from mlflow_istio.core.endpoint.traffic import attached_host
from mlflow_istio.core.runtime.runtime import PROTOCOLS
from mlflow_istio.errors import MetricsError

LIVE_TREES = ("split",)
"""Of the trees of ``adapters.local.envoy_stats``, what the weights gave a deployment."""
_TREES = ("split", "arm")

_ANY = ""
_SAMPLE = re.compile(
    rf"(?:(?P<calls>{CALLS})|envoy_cluster_(?P<middle>\w*?)upstream_rq(?:_(?P<what>xx|time_bucket))?)"
    r"\{(?P<labels>[^}]*)\} (?P<value>\S+)"
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_CLUSTER = re.compile(r"outbound\|\d+\|(?P<subset>[^|]+)\|(?P<host>[^|;]+);?")


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvoySample:
    """One counter of one subset's cluster.

    Attributes:
        tree: ``split``, ``arm``, or nothing for the cluster's own count of everything.
        deployment: The subset.
        host: The Service's host, as the cluster's name has it; with a plain bootstrap without its namespace.
        namespace: The host's namespace, or None where the name has none.
        series: In the words of ``core.measures``; ``requests`` for every class of answers.
        answers: Class of the answers (``2`` to ``5``); nothing for a histogram.
        value: The counter.
    """

    tree: str
    deployment: str
    host: str
    namespace: str | None
    series: str
    answers: str
    value: float


def read_samples(text: str) -> list[EnvoySample]:
    """The counters of subsets among Envoy's statistics. Pure.

    Envoy cuts a cluster's name at its first dot; then the host's namespace stands in the metric's name:
    ``envoy_cluster_NAMESPACE_svc_cluster_local__upstream_rq_xx``. Istio's own bootstrap has the whole name as a label, and makes a
    label of the class, too: ``envoy_cluster_upstream_rq{response_code_class="2xx",cluster_name=...}``; its counters of single
    codes bear the same name with ``response_code``.
    """
    samples = []
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        labels: dict[str, str] = dict(_LABEL.findall(match["labels"]))
        cluster = _CLUSTER.fullmatch(labels.get("envoy_cluster_name", labels.get("cluster_name", "")))
        is_time = match["what"] == "time_bucket"
        answers = labels.get("envoy_response_code_class", labels.get("response_code_class", "")).removesuffix("xx")
        place = None if match["calls"] else _place(match["middle"], is_time=is_time)
        call = call_of(labels) if match["calls"] else None
        if call is not None:
            place, answers = (call[0], None), call[1]
        if cluster is None or place is None or not (is_time or answers):
            continue
        tree, namespace = place
        host, _, rest = cluster["host"].partition(".")
        samples.append(
            EnvoySample(
                tree=tree,
                deployment=cluster["subset"],
                host=host,
                namespace=rest.split(".")[0] if rest else namespace,
                series=latency_series(float(labels["le"])) if is_time else REQUESTS,
                answers=answers,
                value=float(match["value"]),
            )
        )
    return samples


def _place(middle: str, *, is_time: bool) -> tuple[str, str | None] | None:
    """Tree and namespace in the middle of a metric's name; None for a double that must not be counted.

    Of the trees of calls over gRPC the histograms alone are read: how a call ended stands elsewhere.
    """
    if middle == "":
        return _ANY, None
    if middle.endswith("_svc_cluster_local__"):
        return _ANY, middle.removesuffix("_svc_cluster_local__")
    tree = middle.removesuffix("_")
    if is_time:
        tree = tree.removesuffix("_calls")
    return (tree, None) if tree in _TREES else None


class EnvoyMetrics:
    """Implements ``ports.Metrics`` on the admin interfaces of Envoys.

    Args:
        admins: Where the admin interfaces are now (``http://127.0.0.1:15000``, ``unix:///PATH``); asked at each read, for an Envoy
            that starts again may listen elsewhere.
        live: Whether live traffic is counted apart, as on the local mesh; else the clusters' own counts are read.
        namespace: Namespace of the endpoints, or None where there are none.
        errors: Classes of answers that count as errors: ``5``, or ``45``.
        chosen: Whether requests that chose their arm count, too, where live traffic is counted apart: somebody vouches for callers.
        latency_edges: Upper edges of the histograms, where whoever configures these Envoys fixes them.
        timeout: Seconds for each Envoy.
    """

    def __init__(
        self,
        admins: Callable[[], Sequence[str]],
        *,
        live: bool = True,
        namespace: str | None = None,
        errors: str = "5",
        chosen: bool = False,
        latency_edges: Sequence[float] = (),
        timeout: float = 5.0,
    ) -> None:
        self.latency_edges = tuple(latency_edges)
        self.protocols = PROTOCOLS if live else ("http",)
        self._admins = admins
        self._trees = (_TREES if chosen else LIVE_TREES) if live else (_ANY,)
        self._namespace = namespace
        self._errors = errors
        self._timeout = timeout

    @property
    def name(self) -> str:
        """See ``ports.Metrics``."""
        return "Envoy's statistics"

    @property
    def counts_chosen(self) -> bool:
        """See ``ports.Metrics``: a subset's cluster counts whatever reaches it."""
        return self._trees == (_ANY,)

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        """See ``ports.Metrics``."""
        admins = self._admins()
        if not admins:
            raise MetricsError(f"{self.name} can't be read: no Envoy runs; bring the mesh up first")
        wanted = frozenset(deployments)
        readings: dict[str, dict[str, dict[str, float]]] = {}
        for admin in admins:
            text = self._text(admin, (endpoint, *map(attached_host, deployments)))
            if self._trees == (_ANY,) and "envoy_cluster_" not in text:
                raise MetricsError(
                    f"the Envoy at {admin} keeps no statistics of endpoint '{endpoint}': it must be the gateway that routes it, "
                    "and Istio's proxies keep them only when their pods have the annotation proxy.istio.io/config with "
                    "proxyStatsMatcher: {inclusionPrefixes: [cluster.outbound]}; in a pod with a sidecar its own proxy answers at "
                    "port 15090, unless the annotation traffic.sidecar.istio.io/excludeOutboundPorts has that port"
                )
            for sample in read_samples(text):
                if sample.deployment in wanted and self._is_counted(sample, endpoint):
                    counters = readings.setdefault(sample.deployment, {}).setdefault(process_of(admin), {})
                    _add(counters, sample, self._errors)
        return readings

    def _is_counted(self, sample: EnvoySample, endpoint: str) -> bool:
        if sample.tree not in self._trees or sample.host not in (endpoint, attached_host(sample.deployment)):
            return False
        # In a metric's name a dash is written as an underscore.
        return None in (self._namespace, sample.namespace) or _flat(str(sample.namespace)) == _flat(
            str(self._namespace)
        )

    def _text(self, admin: str, hosts: Sequence[str]) -> str:
        host = "|".join(map(re.escape, hosts))
        pattern = rf"^cluster\.outbound\|\d+\|[^|]+\|({host})[.;].*upstream_rq_(xx|[0-9]xx|time|total)"
        if self._trees != (_ANY,):
            pattern += rf"|^mlflow_istio\.calls.*\|({host})"
        return read_statistics(admin, pattern, name=self.name, timeout=self._timeout)


def _add(counters: dict[str, float], sample: EnvoySample, errors: str) -> None:
    counters[sample.series] = counters.get(sample.series, 0.0) + sample.value
    if sample.series != REQUESTS:
        return
    # A class of answers that never came has no counter: that is a true 0 where others came.
    counters[ERRORS] = counters.get(ERRORS, 0.0) + (sample.value if sample.answers in tuple(errors) else 0.0)
    if sample.tree == "split":
        counters[ASSIGNMENTS] = counters.get(ASSIGNMENTS, 0.0) + sample.value


def _flat(namespace: str) -> str:
    return namespace.replace("-", "_")
