"""Which series of which servers tell of streamed answers, and what they are in the words of ``core.analysis.measures``.

Names: our own server; vLLM ("Production Metrics": those of one observation for each request, not for each token); OpenTelemetry's
conventions for generative AI, as its exporter to Prometheus writes them (unit seconds as a suffix, none for tokens); our recorder,
which sees the answers of a server pass that tells nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from mlflow_istio.core.analysis.measures import STREAMS, UNFINISHED, bucket_series

_MS = 1000.0
_TTFT, _TPOT, _TOKENS = ("ttft", _MS), ("tpot", _MS), ("tokens", 1.0)
_HISTOGRAMS: Mapping[str, tuple[str, float]] = {
    "mlflow_istio_stream_first_chunk_seconds_bucket": _TTFT,
    "mlflow_istio_stream_chunk_seconds_bucket": _TPOT,
    "mlflow_istio_stream_chunks_bucket": _TOKENS,
    "vllm:time_to_first_token_seconds_bucket": _TTFT,
    "vllm:request_time_per_output_token_seconds_bucket": _TPOT,
    "vllm:request_generation_tokens_bucket": _TOKENS,
    "gen_ai_server_time_to_first_token_seconds_bucket": _TTFT,
    "gen_ai_server_time_per_output_token_seconds_bucket": _TPOT,
    "gen_ai_client_token_usage_bucket": _TOKENS,
    "mlflow_istio_recorder_stream_first_chunk_seconds_bucket": _TTFT,
    "mlflow_istio_recorder_stream_chunk_seconds_bucket": _TPOT,
    "mlflow_istio_recorder_stream_chunks_bucket": _TOKENS,
}
_ENDS = ("mlflow_istio_streams_total", "mlflow_istio_recorder_streams_total")
STREAM_SERIES = (*_HISTOGRAMS, *_ENDS)
"""Names of the series: of those that tell the same of one server's answers, the first is closest to them."""


def told_once(names: Collection[str]) -> frozenset[str]:
    """Of the series that a server has, those to count: several may tell the same of the same answers.

    Args:
        names: Names of its series.
    """
    chosen: dict[str, str] = {}
    for name in STREAM_SERIES:
        if name in names:
            chosen.setdefault(_HISTOGRAMS[name][0] if name in _HISTOGRAMS else STREAMS, name)
    return frozenset(chosen.values())


def stream_counters(name: str, labels: Mapping[str, str]) -> Mapping[str, bool]:
    """Which counters a sample of a series is part of; with false, it is only known that they are counted.

    Args:
        name: Name of the series.
        labels: Its labels.
    """
    if name in _ENDS:
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
