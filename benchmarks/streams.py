"""Streamed answers through the local mesh against straight to the same model server, in the same run.

``python -m benchmarks.streams [--rounds N] [--streams N] [--chunks N]``. The model streams chunks of some hundred bytes as fast as
it can. First byte: from the request to the first byte of the answer, one stream after the other, median; of a model that speaks
at once, which shows what the mesh costs, and of one that thinks for 50 ms, as a quick language model does. Throughput: chunks
per second over four callers at once, best of all rounds. Both ways take turns.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.mesh import CONNECTIONS, deployment, kept, virtual_service
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.matching.probe import change_probe

NAME = "stream"
MODEL = """
import time
import mlflow
from mlflow.models import set_model

class Words(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return {"text": ""}

    def predict_stream(self, context, model_input, params=None):
        chunks, seconds = model_input["messages"][0]["content"].split()
        time.sleep(float(seconds))
        for number in range(int(chunks)):
            yield {"choices": [{"index": number, "delta": {"role": "assistant", "content": "word " * 20}}]}

set_model(Words())
"""
SAVE = "import mlflow.pyfunc, sys; mlflow.pyfunc.save_model(sys.argv[1], python_model=sys.argv[2], pip_requirements=[])"
WARM_UP = 20
THINKING = 0.05
"""Seconds until the first token of a quick language model."""


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way")
    parser.add_argument("--streams", type=int, default=100, help="streams per run")
    parser.add_argument("--chunks", type=int, default=200, help="chunks per stream")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_model(model, Path(folder) / "words.py")
        mesh = LocalMesh(Path(folder), "bench")
        try:
            deploy(mesh, model)
            straight = int(next(iter(mesh.server_urls([NAME]).values()))[0].rpartition(":")[2])
            report({"mesh": mesh.status().endpoints[NAME], "straight": straight}, options)
        finally:
            mesh.down(purge=True)


def report(ports: dict[str, int], options: argparse.Namespace) -> None:
    """Ask both ways in turns and print the ratios."""
    firsts: dict[str, list[float]] = {way: [] for way in ports}
    thought: dict[str, list[float]] = {way: [] for way in ports}
    rates: dict[str, list[float]] = {way: [] for way in ports}
    for port in ports.values():
        streamed(port, WARM_UP, options.chunks)
    for number in range(options.rounds):
        for way in ports if number % 2 else reversed(ports):
            firsts[way] += [first for first, _ in streamed(ports[way], options.streams, 2)]
            thought[way] += [first for first, _ in streamed(ports[way], options.streams // 2, 2, THINKING)]
            started = time.perf_counter()
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                shares = [options.streams // CONNECTIONS] * CONNECTIONS
                got = list(pool.map(lambda share: streamed(ports[way], share, options.chunks), shares))  # noqa: B023
            chunks = sum(chunks for share in got for _, chunks in share)
            rates[way].append(chunks / (time.perf_counter() - started))
    first, late = ({way: statistics.median(took) for way, took in kind.items()} for kind in (firsts, thought))
    rate = {way: max(found) for way, found in rates.items()}
    print(f"{'streamed answers':26}{'straight':>12}{'mesh':>12}{'ratio':>8}   aim")
    for label, figures, unit, ratio in (
        ("first byte, at once, ms", first, 1e3, first["mesh"] / first["straight"]),
        ("first byte, thinking, ms", late, 1e3, late["mesh"] / late["straight"]),
        ("chunks per second, best", rate, 1.0, rate["straight"] / rate["mesh"]),
    ):
        written = "".join(f"{figures[way] * unit:12.2f}" for way in ("straight", "mesh"))
        print(f"{label:26}{written}{ratio:8.2f}   <= 1.1")


def streamed(port: int, streams: int, chunks: int, seconds: float = 0.0) -> list[tuple[float, int]]:
    """Read streams one after the other over a kept connection: seconds to the first byte, and chunks, of each."""
    body = json.dumps({"messages": [{"role": "user", "content": f"{chunks} {seconds}"}], "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", port)
    found = []
    for _ in range(streams):
        began = time.perf_counter()
        connection.request("POST", "/invocations", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read(1)
        first = time.perf_counter() - began
        text += answer.read()
        if answer.status != 200 or not text.endswith(b"data: [DONE]\n\n"):
            raise SystemExit(f"the server answered {answer.status}: {text[:200]!r}")
        found.append((first, text.count(b"data: ") - 1))
    connection.close()
    return found


def save_model(path: Path, source: Path) -> None:
    """Save the model that streams; in a process of its own, which MLflow's warnings may fill."""
    import subprocess
    import sys

    source.write_text(MODEL)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAVE, str(path), str(source)], check=True, capture_output=True
    )


def deploy(mesh: LocalMesh, model: Path) -> None:
    """Bring up one model server behind an endpoint."""
    variables = {
        "MLFLOW_ISTIO_MODEL_URI": str(model),
        "MLFLOW_ISTIO_MODEL_VERSION": "stream/1",
        "MLFLOW_ISTIO_DEPLOYMENT": NAME,
    }
    mesh.apply(deployment(NAME, NAME, ["python", "-m", "mlflow_istio.serving"], variables))
    mesh.wait_ready(NAME, 300)
    mesh.apply(kept("Service", NAME, {"selector": {"app": NAME}, "ports": [{"name": "http", "port": 80}]}))
    subsets = [{"name": NAME, "labels": {"version": NAME}}]
    mesh.apply(kept("DestinationRule", NAME, {"host": NAME, "subsets": subsets}))
    mesh.apply(virtual_service(NAME, "first", {NAME: 100}))
    mesh.wait_routed(change_probe(NAME, "first"), 30)


if __name__ == "__main__":
    main()
