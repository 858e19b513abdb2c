"""One replica against bare uvicorn on MLflow's scoring app: start-up, memory and throughput, in the same run.

``python benchmarks/serving.py [--rounds N] [--requests N]``. Linux only: memory is read from ``/proc``. The two servers
are started and loaded in turns, and the best of all rounds counts: other work on the machine only ever makes it worse.
Bare uvicorn has its access log off, as ours has.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 4
WARM_UP_REQUESTS = 100
START_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A model server to measure."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What one run of a server took."""

    start_seconds: float
    start_cpu_seconds: float
    resident_mb: float
    private_mb: float
    requests_per_second: float
    request_cpu_ms: float


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each server")
    parser.add_argument("--requests", type=int, default=1000, help="requests per run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_model(model)
        body = (model / "serving_input_example.json").read_bytes()
        samples: dict[str, list[Sample]] = {"bare": [], "ours": []}
        for round_number in range(options.rounds):
            order = contenders(model)
            for contender in order if round_number % 2 else reversed(order):
                samples[contender.name].append(measure(contender, body, options.requests))
    print_table(samples["bare"], samples["ours"])


def save_model(path: Path) -> None:
    """Save a small scikit-learn model with an input example."""
    import mlflow.sklearn
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = load_breast_cancer(return_X_y=True, as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
    mlflow.sklearn.save_model(model, path, input_example=features.head(1))


def contenders(model: Path) -> tuple[Contender, Contender]:
    """Both servers, each on a free port."""
    bare_port, our_port = free_port(), free_port()
    bare = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", str(bare_port), "--no-access-log")
    return (
        Contender(
            name="bare",
            command=(sys.executable, *bare, "mlflow.pyfunc.scoring_server.app:app"),
            environment={"__pyfunc_model_path__": str(model), "PORT": str(bare_port)},
        ),
        Contender(
            name="ours",
            command=(sys.executable, "-m", "mlflow_istio.serving"),
            environment={
                "MLFLOW_ISTIO_MODEL_URI": str(model),
                "MLFLOW_ISTIO_MODEL_VERSION": "bench/1",
                "MLFLOW_ISTIO_DEPLOYMENT": "bench-v1",
                "MLFLOW_ISTIO_HOST": "127.0.0.1",
                "MLFLOW_ISTIO_PORT": str(our_port),
                "PORT": str(our_port),
            },
        ),
    )


def measure(contender: Contender, body: bytes, requests: int) -> Sample:
    """Start a server, load it, and stop it."""
    port = int(contender.environment["PORT"])
    started = time.perf_counter()
    with running(contender) as process:
        wait_ready(process, port)
        start_seconds = time.perf_counter() - started
        start_cpu_seconds = cpu_seconds(process.pid)
        load(port, body, WARM_UP_REQUESTS)
        warm_cpu_seconds = cpu_seconds(process.pid)
        seconds = load(port, body, requests)
        request_cpu_ms = (cpu_seconds(process.pid) - warm_cpu_seconds) * 1000 / requests
        resident_mb, private_mb = memory(process.pid)
    return Sample(
        start_seconds=start_seconds,
        start_cpu_seconds=start_cpu_seconds,
        resident_mb=resident_mb,
        private_mb=private_mb,
        requests_per_second=requests / seconds,
        request_cpu_ms=request_cpu_ms,
    )


@contextmanager
def running(contender: Contender) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in its own session, and end it by its process id."""
    process = subprocess.Popen(
        contender.command,
        env={**os.environ, **contender.environment},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until ``/ping`` answers."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.01)
        finally:
            connection.close()
    raise SystemExit(f"{process.args!r} did not become ready")


def load(port: int, body: bytes, requests: int) -> float:
    """Send invocations over a few kept connections; the seconds it took."""

    def send(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(count):
            connection.request("POST", "/invocations", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise SystemExit(f"the server answered {answer.status}: {text!r}")
        connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(send, [requests // CONNECTIONS] * CONNECTIONS))
    return time.perf_counter() - started


def memory(pid: int) -> tuple[float, float]:
    """Resident and private memory of a process, in MB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.MULTILINE)}
    return kilobytes["Rss"] / 1000, (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1000


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def print_table(bare: list[Sample], ours: list[Sample]) -> None:
    """Print the best of each and the ratios beside what was agreed."""
    print(f"{'best of ' + str(len(ours)):<22}{'bare uvicorn':>14}{'ours':>10}{'ratio':>8}   agreed")
    for label, field, best, agreed in (
        ("start-up, s", "start_seconds", min, "<= 1, within noise"),
        ("start-up, CPU s", "start_cpu_seconds", min, "<= 1, within noise"),
        ("resident memory, MB", "resident_mb", min, "<= 1.1"),
        ("private memory, MB", "private_mb", min, "<= 1.1"),
        ("requests per second", "requests_per_second", max, ">= 1, within noise"),
        ("one request, CPU ms", "request_cpu_ms", min, "<= 1, within noise"),
    ):
        theirs, own = (best(getattr(sample, field) for sample in samples) for samples in (bare, ours))
        print(f"{label:<22}{theirs:>14.2f}{own:>10.2f}{own / theirs:>8.2f}   {agreed}")


if __name__ == "__main__":
    main()
