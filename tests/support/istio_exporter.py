"""A small exporter of series shaped as Istio's proxies make them: ``python -m tests.support.istio_exporter PORT``.

``GET /metrics`` is scraped; ``GET /serve?deployment=&requests=&errors=`` counts, ``/starve`` makes scrapes fail until ``/feed``.
As with Istio, the receiving side reports what it got a second time, mirrored copies included.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from prometheus_client import REGISTRY, Counter, Histogram, disable_created_metrics, generate_latest

NAMESPACE = "models"
_LABELS = (
    *("reporter", "source_workload", "destination_workload", "destination_version", "destination_service_name"),
    *("destination_workload_namespace", "response_code", "response_flags", "request_protocol", "pod"),
)
_EDGES = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)

disable_created_metrics()
_requests = Counter("istio_requests", "Requests.", _LABELS)
_durations = Histogram("istio_request_duration_milliseconds", "Durations.", _LABELS, buckets=_EDGES)
_conversions = Counter("shop_conversions", "Conversions.", ("version",))
_visits = Counter("shop_visits", "Visits.", ("version",))
_starved = False


def count(deployment: str, requests: int, errors: int, mirrored: int = 0, milliseconds: float = 12.0) -> None:
    """Count answers of a deployment."""
    for reporter, code, number in (
        ("source", "200", requests - errors),
        ("source", "503", errors),
        ("destination", "200", requests - errors + mirrored),
    ):
        labels = (reporter, "gateway", deployment, deployment, "m", NAMESPACE, code, "-", "http", "gateway-0")
        if number:
            _requests.labels(*labels).inc(number)
        for _ in range(number):
            _durations.labels(*labels).observe(milliseconds)
    _visits.labels(deployment).inc(requests)
    _conversions.labels(deployment).inc(requests - errors)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        global _starved
        parts = urlsplit(self.path)
        status, body = 200, b""
        if parts.path == "/metrics":
            status, body = (503, b"") if _starved else (200, generate_latest(REGISTRY))
        elif parts.path == "/serve":
            query = dict(parse_qsl(parts.query))
            count(query.pop("deployment"), **{name: int(value) for name, value in query.items()})
        elif parts.path in ("/starve", "/feed"):
            _starved = parts.path == "/starve"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
