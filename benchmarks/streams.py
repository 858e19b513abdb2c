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
import time
from functools import partial
from pathlib import Path

from benchmarks.mesh import deployment
from benchmarks.two_ways import both_ways, in_turns, print_ratios, rate_of, route
from mlflow_istio.adapters.local.mesh import LocalMesh

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
    with both_ways(NAME, deploy) as ports:
        report(ports, options)


def report(ports: dict[str, int], options: argparse.Namespace) -> None:
    """Ask both ways in turns and print the ratios."""
    firsts: dict[str, list[float]] = {way: [] for way in ports}
    thought: dict[str, list[float]] = {way: [] for way in ports}
    rates: dict[str, list[float]] = {way: [] for way in ports}
    for port in ports.values():
        streamed(port, WARM_UP, options.chunks)
    for way in in_turns(options.rounds):
        port = ports[way]
        firsts[way] += [first for first, _ in streamed(port, options.streams, 2)]
        thought[way] += [first for first, _ in streamed(port, options.streams // 2, 2, THINKING)]
        rates[way].append(rate_of(partial(count_of_chunks, port, options.chunks), options.streams))
    print_ratios(
        "streamed answers",
        {"first byte, at once, ms": firsts, "first byte, thinking, ms": thought},
        {"chunks per second, best": rates},
    )


def count_of_chunks(port: int, chunks: int, streams: int) -> int:
    """Read so many streams: how many chunks came."""
    return sum(came for _, came in streamed(port, streams, chunks))


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


def deploy(mesh: LocalMesh, folder: Path) -> None:
    """Bring up one model server behind an endpoint."""
    model = folder / "model"
    save_model(model, folder / "words.py")
    variables = {
        "MLFLOW_ISTIO_MODEL_URI": str(model),
        "MLFLOW_ISTIO_MODEL_VERSION": "stream/1",
        "MLFLOW_ISTIO_DEPLOYMENT": NAME,
    }
    mesh.apply(deployment(NAME, NAME, ["python", "-m", "mlflow_istio.serving"], variables))
    route(mesh, NAME, {"name": "http"})


if __name__ == "__main__":
    main()
