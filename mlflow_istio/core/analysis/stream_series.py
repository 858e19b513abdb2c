"""Which series of which servers tell of streamed answers, and what they are in the words of ``core.analysis.measures``.

Names: our own server; vLLM ("Production Metrics": those of one observation for each request, not for each token); OpenTelemetry's
conventions for generative AI, as its exporter to Prometheus writes them (unit seconds as a suffix, none for tokens).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlflow_istio.core.analysis.measures import STREAMS, UNFINISHED, bucket_series

_MS = 1000.0
_HISTOGRAMS: Mapping[str, tuple[str, float]] = {
    "mlflow_istio_stream_first_chunk_seconds_bucket": ("ttft", _MS),
    "mlflow_istio_stream_chunk_seconds_bucket": ("tpot", _MS),
    "mlflow_istio_stream_chunks_bucket": ("tokens", 1.0),
    "vllm:time_to_first_token_seconds_bucket": ("ttft", _MS),
    "vllm:request_time_per_output_token_seconds_bucket": ("tpot", _MS),
    "vllm:request_generation_tokens_bucket": ("tokens", 1.0),
    "gen_ai_server_time_to_first_token_seconds_bucket": ("ttft", _MS),
    "gen_ai_server_time_per_output_token_seconds_bucket": ("tpot", _MS),
    "gen_ai_client_token_usage_bucket": ("tokens", 1.0),
}
_ENDS = "mlflow_istio_streams_total"
STREAM_SERIES = (*_HISTOGRAMS, _ENDS)
"""Names of the series."""


def stream_counters(name: str, labels: Mapping[str, str]) -> Mapping[str, bool]:
    """Which counters a sample of a series is part of; with false, it is only known that they are counted.

    Args:
        name: Name of the series.
        labels: Its labels.
    """
    if name == _ENDS:
        # Who left has no part in what the server did well or badly.
        end = labels.get("end")
        return {STREAMS: end != "caller", UNFINISHED: end in ("model", "server")}
    if name not in _HISTOGRAMS or labels.get("gen_ai_token_type", "output") not in ("output", "completion"):
        return {}
    measure, scale = _HISTOGRAMS[name]
    try:
        edge = float(labels.get("le", "nan")) * scale
    except ValueError:
        return {}
    return {} if math.isnan(edge) else {bucket_series(measure, edge): True}
