"""A recorder in front of a server that can't record, against straight to the same server, in the same run.

``python -m benchmarks.recorder [--rounds N] [--requests N] [--body BYTES]``. Both servers are uvicorn with an app that answers
what it is asked; the recorder keeps every request and answer, once as the process that starts the server (on a laptop) and once in
front of the straight one (in a pod). One request after the other on a kept connection, all ways in turns; medians of all rounds,
and what the recorder adds. The promise is 1 ms at the median.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_istio.serving.beside import SERVER_PORT

APP = """
async def app(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
PROMISED = 1.0
"""Milliseconds."""
WARM_UP = 200
STRAIGHT, RECORDED, SIDECAR = 18471, 18472, 18473


def main() -> None:
    """Measure and print what the recorder adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way")
    parser.add_argument("--requests", type=int, default=1000, help="requests per run")
    parser.add_argument("--body", type=int, default=1024, help="bytes of a request, and of its answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "echo.py").write_text(APP)
        serve = ["python", "-m", "uvicorn", "echo:app", "--log-level", "error", "--lifespan", "off", "--port"]
        straight = [sys.executable, *serve[1:], str(STRAIGHT)]
        recorder = [sys.executable, "-m", "mlflow_istio.serving.beside"]
        beside, sidecar = [*recorder, "--", *serve, SERVER_PORT], [*recorder, f"--server-port={STRAIGHT}"]
        with running(straight, folder), running(beside, folder), running(sidecar, folder, SIDECAR):
            times: dict[int, list[float]] = {STRAIGHT: [], RECORDED: [], SIDECAR: []}
            for port in times:
                ask(port, WARM_UP, options.body)
            for _ in range(options.rounds):
                for port, seconds in times.items():
                    seconds += ask(port, options.requests, options.body)
    medians = {port: 1000 * statistics.median(seconds) for port, seconds in times.items()}
    for how, port in (("as the process that starts the server", RECORDED), ("as a pod's sidecar", SIDECAR)):
        added = medians[port] - medians[STRAIGHT]
        print(f"straight {medians[STRAIGHT]:.3f} ms, with the recorder {how} {medians[port]:.3f} ms at the median")
        print(
            f"the recorder adds {added:.3f} ms (promised: at most {PROMISED:g} ms): {'ok' if added <= PROMISED else 'TOO SLOW'}"
        )


@contextmanager
def running(command: list[str], folder: str, port: int = RECORDED) -> Iterator[None]:
    """A process that goes when the block ends."""
    said = {
        "MODEL_URI": "models:/echo/1",
        "DEPLOYMENT": "echo-v1",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "RECORD": "1",
        "RECORD_DIR": f"{folder}/records",
        "RECORD_FIELDS": "input,output",
    }
    environ = {**os.environ, **{f"MLFLOW_ISTIO_{name}": value for name, value in said.items()}}
    process = subprocess.Popen(command, cwd=folder, env=environ)
    try:
        connected(port if "mlflow_istio.serving.beside" in command else STRAIGHT).close()
        yield
    finally:
        process.terminate()
        process.wait()


def ask(port: int, count: int, size: int) -> list[float]:
    """Seconds of each of so many requests."""
    body = b"x" * size
    connection = connected(port)
    seconds = []
    for number in range(count):
        begin = time.perf_counter()
        connection.request("POST", "/", body, {"x-request-id": f"{port}-{begin}-{number}"})
        answer = connection.getresponse()
        if answer.status != 200 or answer.read() != body:
            raise SystemExit(f"port {port} answered {answer.status}")
        seconds.append(time.perf_counter() - begin)
    connection.close()
    return seconds


def connected(port: int) -> http.client.HTTPConnection:
    """A connection to a server, which may just be starting."""
    for _ in range(600):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/")
            if connection.getresponse().read() is not None and connection.sock is not None:
                return connection
        except OSError:
            pass
        connection.close()
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on port {port}")


if __name__ == "__main__":
    main()
