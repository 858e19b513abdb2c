"""A real Prometheus of the tests' own: its own port, configuration and data, ended by its process id."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import requests

SCRAPE = "500ms"
_PATIENCE = 60.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    """One child process that is started again on the same command."""

    def __init__(self, command: list[str], log: Path, health: str, **options: object) -> None:
        self._command = command
        self._log = log
        self._health = health
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(self._command, stdout=output, stderr=output, start_new_session=True)
        until(f"{self._command[0]} (see {self._log})", lambda: answers(self._health, **self._options))

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
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, str],
        users: Mapping[str, str] | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        program = shutil.which("prometheus")
        assert program is not None, "Prometheus is missing: python -m tests.support.system_packages"
        folder.mkdir(parents=True)
        self._targets = len(targets)
        jobs = []
        for job, target in targets.items():
            place, _, path = target.partition("/")
            jobs.append({"job_name": job, "metrics_path": f"/{path}", "static_configs": [{"targets": [place]}]})
        config = folder / "prometheus.yml"
        # JSON is YAML.
        config.write_text(
            json.dumps({"global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE}, "scrape_configs": jobs})
        )
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        if users:
            web = folder / "web.yml"
            web.write_text(json.dumps({"basic_auth_users": dict(users)}))
            command.append(f"--web.config.file={web}")
        super().__init__(command, folder / "log", f"{self.url}/-/ready", auth=credentials)

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
        port = free_port()
        self.target = f"127.0.0.1:{port}/metrics"
        self._url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tests.support.istio_exporter", str(port)]
        super().__init__(command, folder / "exporter.log", f"{self._url}/feed")

    def tell(self, path: str) -> None:
        """Give it a command."""
        requests.get(f"{self._url}{path}", timeout=10).raise_for_status()
