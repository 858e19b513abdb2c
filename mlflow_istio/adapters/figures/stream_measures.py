"""Measures of streamed answers beside another source's counts: no proxy knows them, so the model servers' own series are read.

A server does not know why a request came to it, so whoever chose an arm by its header or cookie is counted; our own leaves pinned
requests out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

import requests

from mlflow_istio.adapters.figures.passed_on import PassedOn
from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.stream_series import STREAM_SERIES, stream_counters, told_once
from mlflow_istio.ports.metrics import Metrics

ReadStreams: TypeAlias = Callable[[Sequence[str]], Mapping[str, Reading]]
"""Deployments to their counters, by server."""

_MOST_BYTES = 16 * 1024 * 1024
_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+\S+)?")
_LABEL = re.compile(r'(\w+)="((?:\\.|[^"\\])*)"')
_OF_POD = re.compile(r"(?P<deployment>.+)-[0-9a-z]+-[0-9a-z]{5}")


class _Sample(Protocol):
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def source(self) -> str: ...
    @property
    def value(self) -> float: ...


class _Prometheus(Protocol):
    def newest(self, selectors: Sequence[str], max_age: float) -> Sequence[Sequence[_Sample]]: ...


class StreamMetrics(PassedOn):
    """Implements ``ports.Metrics``: another source's counts, and of the same deployments what their servers say of streams.

    Args:
        base: The other source.
        streams: Reads the servers' counters.
    """

    def __init__(self, base: Metrics, streams: ReadStreams) -> None:
        super().__init__(base)
        self._source = base
        self._streams = streams

    @property
    def counts_chosen(self) -> bool:
        """See ``ports.Metrics``: a server does not know why a request came to it."""
        return True

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        """See ``ports.Metrics``."""
        base = self._source.read(endpoint, deployments)
        streams = self._streams(tuple(base)) if base else {}
        return {deployment: {**reading, **streams.get(deployment, {})} for deployment, reading in base.items()}


def streams_of_servers(
    servers: Callable[[Sequence[str]], Mapping[str, Mapping[str, Sequence[str]]]], timeout: float = 5.0
) -> ReadStreams:
    """Read the pages of each server.

    Args:
        servers: Deployments to the addresses of their servers now, and these to the paths of their pages. One that does not answer,
            or has no such page, has no counters.
        timeout: Seconds for each.
    """

    def read(deployments: Sequence[str]) -> Mapping[str, Reading]:
        return {
            deployment: {f"streams {url}": counters for url, paths in urls.items() if (counters := of_one(url, paths))}
            for deployment, urls in servers(deployments).items()
        }

    def of_one(url: str, paths: Sequence[str]) -> Mapping[str, float]:
        return _counted([sample for path in paths for sample in samples_in(_page(f"{url}{path}", timeout))])

    return read


def streams_in_prometheus(prometheus: _Prometheus, namespace: str, max_age: float = 120.0) -> ReadStreams:
    """Ask a Prometheus that scrapes the pods, or gets what OpenTelemetry's collector has of them.

    Args:
        prometheus: The Prometheus.
        namespace: Namespace of the pods.
        max_age: Seconds after which a sample is too old.
    """

    def read(deployments: Sequence[str]) -> Mapping[str, Reading]:
        names, wanted = _quoted("|".join(STREAM_SERIES)), "|".join(deployments)
        scraped = f"namespace={_quoted(namespace)},pod=~{_quoted(f'({wanted})-[0-9a-z]+-[0-9a-z]{{5}}')}"
        collected = f'k8s_namespace_name={_quoted(namespace)},k8s_deployment_name=~{_quoted(wanted)},pod=""'
        selectors = [f"{{__name__=~{names},{labels}}}" for labels in (scraped, collected)]
        of_each: dict[str, list[_Sample]] = {}
        for samples in prometheus.newest(selectors, max_age):
            for sample in samples:
                pod = _OF_POD.fullmatch(sample.labels.get("pod", ""))
                of_each.setdefault(
                    pod["deployment"] if pod else sample.labels.get("k8s_deployment_name", ""), []
                ).append(sample)
        return {name: _by_source(of_each[name]) for name in deployments if name in of_each}

    return read


def _by_source(samples: Sequence[_Sample]) -> Reading:
    counted = told_once({sample.labels.get("__name__", "") for sample in samples})
    readings: dict[str, dict[str, float]] = {}
    for sample in samples:
        name = sample.labels.get("__name__", "")
        if name in counted:
            _count(readings.setdefault(f"streams {sample.source}", {}), name, sample.labels, sample.value)
    return readings


def samples_in(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Name, labels and value of each sample in Prometheus' text format; lines that are none are passed over."""
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        if math.isfinite(value):
            yield match["name"], dict(_LABEL.findall(match["labels"] or "")), value


def _counted(samples: Sequence[tuple[str, Mapping[str, str], float]]) -> dict[str, float]:
    counted = told_once({name for name, _, _ in samples})
    counters: dict[str, float] = {}
    for name, labels, value in samples:
        if name in counted:
            _count(counters, name, labels, value)
    return counters


def _count(counters: dict[str, float], name: str, labels: Mapping[str, str], value: float) -> None:
    for series, counts in stream_counters(name, labels).items():
        counters[series] = counters.get(series, 0.0) + (value if counts else 0.0)


def _page(address: str, timeout: float) -> str:
    try:
        with requests.get(address, timeout=timeout, proxies=proxies_for(address), stream=True) as answer:
            body: bytes = answer.raw.read(_MOST_BYTES, decode_content=True) if answer.ok else b""
    except (OSError, requests.RequestException):
        return ""
    return body.decode(errors="replace")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
