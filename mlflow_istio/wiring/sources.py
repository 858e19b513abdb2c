"""Which source of metrics a target has: the part of ``wiring`` that chooses it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from mlflow_istio.core.analysis.source_names import BUILT_IN
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.errors import ClusterError, InvalidInput, MetricsError, NotFound
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.ports.metrics import Metrics, SourceTerms
from mlflow_istio.releases.context import endpoint_of

ERRORS = {"5xx": "5", "4xx+5xx": "45"}


def metrics_source(
    kind: str,
    cluster: Cluster,
    source: str,
    *,
    prometheus_url: str | None = None,
    envoy_url: str | None = None,
    kpis: Sequence[Kpi] = (),
    errors: str = "5xx",
    chosen: bool = False,
    streams: bool = False,
) -> Metrics | None:
    """The source of metrics; see ``wiring.Connection.metrics``.

    Args:
        kind: Kind of the target: ``istio-local`` or ``istio``.
        cluster: The target's cluster.
        source: ``auto``, ``prometheus``, ``envoy`` or ``none``, or the name of one that an installed package brings.
        prometheus_url: The Prometheus.
        envoy_url: Admin address of a gateway's Envoy.
        kpis: KPIs to count beside.
        errors: One of ``ERRORS``.
        chosen: Whether requests that chose their arm by its header or cookie count, too, where they can be told apart.
        streams: Whether what the model servers say of streamed answers is wanted, too.

    Raises:
        InvalidInput: An unknown word, or an address is missing.
    """
    if errors not in ERRORS:
        raise InvalidInput(f"unknown errors {errors!r}: {nearest(errors, tuple(ERRORS))}")
    local = kind == "istio-local"
    if source == "auto":
        source = "prometheus" if prometheus_url or not (local or envoy_url) else "envoy"
    if source == "prometheus" and not prometheus_url:
        raise InvalidInput(
            "no source of metrics: set prometheus_url to the Prometheus that scrapes the mesh (-C prometheus_url=http://... or "
            "MLFLOW_ISTIO_PROMETHEUS_URL), envoy_url to the gateway's Envoy, or metrics=none to decide without"
        )
    base: Metrics | None
    if source in BUILT_IN:
        base = _base(local, cluster, source, prometheus_url, envoy_url, ERRORS[errors], chosen=chosen)
    else:
        from mlflow_istio.adapters.figures.installed_metrics import installed_metrics

        terms = SourceTerms(target=kind, namespace=cluster.scope, errors=errors, chosen=chosen)
        base = installed_metrics(source, terms)
    if streams and base is not None:
        base = _with_streams(base, local, cluster, prometheus_url)
    if not kpis:
        return base
    from mlflow_istio.adapters.figures.kpis import KpiMetrics
    from mlflow_istio.adapters.prometheus import PrometheusApi

    api = PrometheusApi(prometheus_url) if prometheus_url else None
    return KpiMetrics(base, kpis, prometheus=api, namespace="" if local else cluster.scope)


def _with_streams(base: Metrics, local: bool, cluster: Cluster, prometheus_url: str | None) -> Metrics:
    """The same with measures of streams; on a cluster only Prometheus reaches the pods."""
    from mlflow_istio.adapters.figures.stream_measures import StreamMetrics, streams_in_prometheus, streams_of_servers

    if local:
        from mlflow_istio.adapters.local.mesh import LocalMesh

        assert isinstance(cluster, LocalMesh)
        return StreamMetrics(base, streams_of_servers(cluster.figure_pages))
    if prometheus_url is None:
        return base
    from mlflow_istio.adapters.prometheus import PrometheusApi

    return StreamMetrics(base, streams_in_prometheus(PrometheusApi(prometheus_url), cluster.scope))


def _base(
    local: bool,
    cluster: Cluster,
    source: str,
    prometheus_url: str | None,
    envoy_url: str | None,
    errors: str,
    *,
    chosen: bool,
) -> Metrics | None:
    if source == "none":
        return None
    if source == "prometheus":
        from mlflow_istio.adapters.prometheus import PrometheusApi, PrometheusMetrics

        assert prometheus_url is not None
        api = PrometheusApi(prometheus_url)
        if local:
            return PrometheusMetrics(api, dialect="envoy", errors=errors, chosen=chosen, latency_edges=_mesh_edges())
        return PrometheusMetrics(
            api, namespace=cluster.scope, errors=errors, protocol_of=functools.partial(_protocol, cluster)
        )
    from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics

    if local:
        from mlflow_istio.adapters.local.mesh import LocalMesh

        assert isinstance(cluster, LocalMesh)
        return EnvoyMetrics(cluster.admin_urls, errors=errors, chosen=chosen, latency_edges=_mesh_edges())
    if envoy_url is None:
        raise InvalidInput(
            "metrics=envoy on a cluster needs the address of the gateway's Envoy: set MLFLOW_ISTIO_ENVOY_URL to port 15090 of its "
            "pod, such as http://127.0.0.1:15090 after 'kubectl port-forward' to it"
        )
    address = envoy_url.rstrip("/")
    return EnvoyMetrics(lambda: (address,), live=False, namespace=cluster.scope, errors=errors)


def _protocol(cluster: Cluster, endpoint: str) -> str:
    """What an endpoint's callers speak; of one that is gone there is nothing to count."""
    try:
        return endpoint_of(cluster, endpoint).protocol
    except NotFound:
        return "http"
    except ClusterError as exc:
        raise MetricsError(f"what endpoint '{endpoint}' speaks can't be read: {exc.message}") from exc


def _mesh_edges() -> Sequence[float]:
    """The edges that the local mesh gives its Envoy."""
    from mlflow_istio.adapters.local.envoy.stats import EDGES_MS

    return EDGES_MS
