"""Where a scenario runs: a target, its client, and callers that send real requests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests
from scipy import stats

from mlflow_istio.client.plugin import IstioDeploymentClient
from tests.support.callers import calling

VERSION = "x-mlflow-model-version"
BODY = {"inputs": [[1.0, 2.0]]}


@dataclass
class Seen:
    """What callers saw.

    Attributes:
        versions: Answers with status 200 by the version that gave them.
        failures: Everything else: statuses and exceptions.
    """

    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.versions.values()) + len(self.failures)


@dataclass
class Place:
    """A target with three registered versions of model ``m``, deployed behind endpoint ``m`` as m-v1 (stable), m-v2, m-v3."""

    target: str
    client: IstioDeploymentClient
    tracking_uri: str
    endpoint: str = "m"
    recording: dict[str, str] = field(default_factory=dict)

    def url(self) -> tuple[str, dict[str, str]]:
        found = self.client.get_endpoint(self.endpoint)
        return found["url"], dict(found["headers"])

    def ask(self, headers: Mapping[str, str] | None = None, path: str = "/ping") -> requests.Response:
        url, own = self.url()
        return requests.get(url + path, headers={**own, **(headers or {})}, timeout=60)

    def send(
        self, count: int, headers: Mapping[str, str] | None = None, *, score: bool = False, workers: int = 4
    ) -> Seen:
        """Send requests; ``score`` asks the model, else ``/ping`` is enough to see who answers."""
        url, own = self.url()
        sent = {**own, **(headers or {})}
        seen = Seen()
        lock = threading.Lock()

        def some(share: int) -> None:
            with requests.Session() as session:
                for _ in range(share):
                    one(session, url, sent, seen, lock, score=score)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(some, [count // workers + (1 if i < count % workers else 0) for i in range(workers)]))
        return seen

    @contextmanager
    def load(self, *, score: bool = True, workers: int = 2) -> Iterator[Seen]:
        """Callers that send one request after the other until the block ends (at most two minutes)."""
        url, own = self.url()
        seen, lock = Seen(), threading.Lock()

        def ask(session: requests.Session, _number: int) -> None:
            one(session, url, own, seen, lock, score=score)

        with calling(ask, workers=workers, seconds=1100):
            yield seen

    def counted(self, deployment: str) -> float:
        """How many scoring requests a deployment's server has answered, by its own metrics."""
        text = self.ask({"x-mlflow-deployment": deployment}, "/metrics").text
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if "requests_total{" in line and "invocations" in line
        )

    def tags(self, version: int) -> dict[str, str]:
        """The endpoint's tags on a model version, without their common start."""
        from mlflow import MlflowClient

        client = MlflowClient(self.tracking_uri, self.tracking_uri)
        return {
            key.rpartition(".")[2]: value
            for key, value in client.get_model_version("m", str(version)).tags.items()
            if key.startswith("istio.") and f".{self.endpoint}." in key
        }

    def aliases(self) -> dict[str, int]:
        from mlflow import MlflowClient

        found = MlflowClient(self.tracking_uri, self.tracking_uri).get_registered_model("m").aliases
        return {alias: int(version) for alias, version in found.items()}

    def do(self, **config: Any) -> dict[str, Any]:
        return self.client.update_endpoint(self.endpoint, config)


def one(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    seen: Seen,
    lock: threading.Lock,
    *,
    score: bool,
) -> None:
    try:
        if score:
            answer = session.post(f"{url}/invocations", json=BODY, headers=headers, timeout=60)
        else:
            answer = session.get(f"{url}/ping", headers=headers, timeout=60)
    except requests.RequestException as exc:
        with lock:
            seen.failures.append(type(exc).__name__)
        return
    with lock:
        if answer.status_code == 200:
            seen.versions[answer.headers.get(VERSION, "(none)")] += 1
        else:
            seen.failures.append(f"{answer.status_code}: {answer.text[:100]}")


def inside_bounds(count: int, total: int, share: float) -> bool:
    """Whether a count is inside all but a millionth of Binomial(total, share): a suite asks this hundreds of times a run."""
    low, high = stats.binom.interval(1 - 1e-6, total, share)
    return bool(low <= count <= high)
