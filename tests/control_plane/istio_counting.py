"""The gateway counts as Istio's proxies do, as far as Envoy without Istio's own filter can.

Istio's filter (``istio_stats``) is in no registry. What it writes of a call it has from Envoy: ``response_code``, the status by
``Grpc::Common::getGrpcStatus``, and the short string of ``response_flags``. Envoy's own access logger of statistics writes the same
three. So the real istiod gives the gateway that logger, by an EnvoyFilter, with names and labels of Istio's series (istio/proxy:
``testdata/metric/client_request_total.yaml.tmpl``). Prometheus makes the workload's labels of the cluster's name, since plain Envoy
doesn't know which workload a pod is of: here each subset has one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubernetes import client

from tests.control_plane.namespaces import admin
from tests.support.prometheus_server import PrometheusServer

_KIND = ("networking.istio.io", "v1alpha3", "istio-system", "envoyfilters")
_TYPES = "type.googleapis.com/envoy.extensions"
_MANAGER = "envoy.filters.network.http_connection_manager"
_CLUSTER = r"outbound\|[0-9]+\|([^|]*)\|([^.]+)\.([^.]+)\..*"
_FROM_CLUSTER = {"destination_workload": "$1", "destination_service_name": "$2", "destination_workload_namespace": "$3"}


def _logger() -> dict[str, Any]:
    """Counts calls over gRPC, and their durations; what is no call, such as the probe, isn't one for Istio either."""
    said = {
        "reporter": "source",
        "request_protocol": "grpc",
        "response_code": "%RESPONSE_CODE%",
        "grpc_response_status": "%GRPC_STATUS_NUMBER%",
        "response_flags": "%RESPONSE_FLAGS%",
        "cluster": "%UPSTREAM_CLUSTER_RAW%",
    }
    tags = [{"name": name, "value_format": text} for name, text in said.items()]
    durations = {"name": "request_duration_milliseconds", "tags": tags}
    header = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    return {
        "name": "envoy.access_loggers.stats",
        "filter": {"header_filter": {"header": header}},
        "typed_config": {
            "@type": f"{_TYPES}.access_loggers.stats.v3.Config",
            "stat_prefix": "istio",
            "counters": [{"stat": {"name": "requests_total", "tags": tags}, "value_fixed": 1}],
            "histograms": [{"stat": durations, "unit": "Milliseconds", "value_format": "%DURATION%"}],
        },
    }


@contextmanager
def istios_series(folder: Path) -> Iterator[PrometheusServer]:
    """A real Prometheus that scrapes a gateway which counts as Istio's do.

    Args:
        folder: Folder of its own.
    """
    manager = {"@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"}
    name = f"counting-{uuid.uuid4().hex[:6]}"
    patch = {
        "applyTo": "NETWORK_FILTER",
        "match": {"context": "GATEWAY", "listener": {"filterChain": {"filter": {"name": _MANAGER}}}},
        "patch": {"operation": "MERGE", "value": {"typed_config": {**manager, "access_log": [_logger()]}}},
    }
    spec = {"workloadSelector": {"labels": {"istio": "ingressgateway"}}, "configPatches": [patch]}
    relabelled: list[dict[str, Any]] = [
        {"source_labels": ["__name__"], "regex": "envoy_(istio_.*)", "target_label": "__name__", "replacement": "$1"},
        *(
            {"source_labels": ["cluster"], "regex": _CLUSTER, "target_label": label, "replacement": part}
            for label, part in _FROM_CLUSTER.items()
        ),
        {"regex": "cluster", "action": "labeldrop"},
    ]
    target = f"{urlsplit(os.environ['GATEWAY_ADMIN_URL']).netloc}/stats/prometheus"
    server = PrometheusServer(folder, {"gateway": target}, relabelled=relabelled)
    with admin() as api:
        custom = client.CustomObjectsApi(api)
        body = {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": name},
            "spec": spec,
        }
        custom.create_namespaced_custom_object(*_KIND, body)
        server.start()
        try:
            yield server
        finally:
            server.stop()
            custom.delete_namespaced_custom_object(*_KIND, name)
