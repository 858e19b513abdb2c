"""A real Prometheus of the tests' own: its own port, configuration and data, ended by its process id."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from tests.support.free_ports import free_port

SCRAPE = "500ms"
_PATIENCE = 120.0


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def answers(url: str, **options: object) -> bool:
    """Whether something answers 200."""
    try:
        return bool(requests.get(url, timeout=2, **options).ok)  # type: ignore[arg-type]
    except requests.RequestException:
        return False


class Process:
    """One child process that is started again on the same command.

    Args:
        command: What to run on a port.
        log: File for its output.
        health: Path at which it answers 200 once it is ready.
        options: For that request.

    Attributes:
        port: Its port; another one, when it could not even start the first time (somebody else may have taken the port).
    """

    def __init__(self, command: Callable[[int], list[str]], log: Path, health: str, **options: object) -> None:
        self._command = command
        self._log = log
        self._health = health
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._was_ready = False
        self.port = free_port()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is None or self._process.poll() is not None:
            self._spawn()
        until(f"{self._command(self.port)[0]} (see {self._log})", self._is_ready)
        self._was_ready = True

    def _spawn(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(self.port), stdout=output, stderr=output, start_new_session=True
            )

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is None:
            # Asked again whether it runs: a stranger on the port answers, too, and ours is then about to end.
            return answers(f"{self.url}{self._health}", **self._options) and self._process.poll() is None
        if not self._was_ready:
            self.port = free_port()
        self._spawn()
        return False

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)


class PrometheusServer(Process):
    """Prometheus, scraping the given targets.

    Args:
        folder: Folder of its own.
        targets: Job to ``HOST:PORT/PATH``.
        users: User to bcrypt hash of its password; nobody is asked when empty.
        credentials: What the tests themselves use.
        relabelled: Prometheus' ``metric_relabel_configs``, for all that is scraped.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, str],
        users: Mapping[str, str] | None = None,
        credentials: tuple[str, str] | None = None,
        relabelled: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        program = shutil.which("prometheus")
        assert program is not None, "Prometheus is missing: python -m tests.support.system_packages"
        folder.mkdir(parents=True)
        self._targets = len(targets)
        jobs = []
        for job, target in targets.items():
            place, _, path = target.partition("/")
            where = {"metrics_path": f"/{path}", "static_configs": [{"targets": [place]}]}
            jobs.append({"job_name": job, **where, "metric_relabel_configs": list(relabelled)})
        config = folder / "prometheus.yml"
        # JSON is YAML.
        config.write_text(
            json.dumps({"global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE}, "scrape_configs": jobs})
        )
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
        if users:
            web = folder / "web.yml"
            web.write_text(json.dumps({"basic_auth_users": dict(users)}))
            command.append(f"--web.config.file={web}")

        def on(port: int) -> list[str]:
            return [*command, f"--web.listen-address=127.0.0.1:{port}"]

        super().__init__(on, folder / "log", "/-/ready", auth=credentials)

    def settle(self) -> None:
        """Wait until every target has been scraped once more from its beginning."""
        now = time.time()

        def scraped() -> bool:
            answer = requests.get(
                f"{self.url}/api/v1/query", params={"query": "timestamp(up) and up == 1"}, timeout=5
            ).json()
            times = [float(series["value"][1]) for series in answer["data"]["result"]]
            return len(times) == self._targets and min(times) > now

        until("a scrape of every target", scraped)


class IstioExporter(Process):
    """``tests.support.istio_exporter`` as a process."""

    def __init__(self, folder: Path) -> None:
        def on(port: int) -> list[str]:
            return [sys.executable, "-m", "tests.support.istio_exporter", str(port)]

        super().__init__(on, folder / "exporter.log", "/feed")

    @property
    def target(self) -> str:
        """What Prometheus scrapes."""
        return f"127.0.0.1:{self.port}/metrics"

    def tell(self, path: str) -> None:
        """Give it a command."""
        requests.get(f"{self.url}{path}", timeout=60).raise_for_status()
