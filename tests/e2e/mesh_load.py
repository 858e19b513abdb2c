"""Load on an endpoint while something happens to it."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from urllib.parse import urlsplit

from mlflow_istio.adapters.local.mesh import LocalMesh


class Load:
    """Requests almost without pause until the end of the ``with`` block; ``failures`` holds what was not 200."""

    def __init__(self, mesh: LocalMesh, endpoint: str, path: str = "/invocations", threads: int = 3) -> None:
        self.netloc = urlsplit(mesh.address(endpoint).url).netloc
        self.path = path
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        return sum(self.versions.values()) + len(self.failures)

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self.netloc, timeout=60)
        try:
            while not self._over.wait(0.005):
                try:
                    connection.request("POST", self.path, body=b"{}")
                    answer = connection.getresponse()
                    body = answer.read()
                except (OSError, http.client.HTTPException) as exc:
                    self.failures.append(repr(exc))
                    connection.close()
                    continue
                if answer.status == 200:
                    self.versions[answer.getheader("x-mlflow-model-version", "")] += 1
                else:
                    self.failures.append(f"{answer.status} {body[:100]!r}")
        finally:
            connection.close()
