"""A recorder in front of a server of gRPC, against straight to the same server, in the same run.

``python -m benchmarks.grpc_recorder [--rounds N] [--calls N]``. The server answers ModelInfer of the V2 protocol at once; the
recorder keeps every call with its answer. One call after the other on one connection, both ways in turns; medians of all rounds,
and what the recorder adds. The promise is 1 ms at the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from benchmarks.grpc_calls import METHOD
from mlflow_istio.calls.grpc_infer import request_message

PROMISED = 1.0
"""Milliseconds."""
WARM_UP = 200
STRAIGHT, RECORDED = 18474, 18475


def main() -> None:
    """Measure and print what the recorder adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way")
    parser.add_argument("--calls", type=int, default=1000, help="calls per run")
    options = parser.parse_args()
    recorder = [sys.executable, "-m", "mlflow_istio.serving.beside", "--grpc", f"--server-port={STRAIGHT}"]
    with tempfile.TemporaryDirectory() as folder:
        record = {
            "MODEL_URI": "models:/echo/1",
            "DEPLOYMENT": "echo-v1",
            "HOST": "127.0.0.1",
            "RECORD": "1",
            "RECORD_DIR": f"{folder}/records",
            "RECORD_FIELDS": "input,output",
        }
        server = [sys.executable, "-m", "benchmarks.grpc_calls", "--serve"]
        with running(server, STRAIGHT, {}) as straight, running(recorder, RECORDED, record) as recorded:
            times: dict[int, list[float]] = {STRAIGHT: [], RECORDED: []}
            channels = {STRAIGHT: straight, RECORDED: recorded}
            for channel in channels.values():
                ask(channel, WARM_UP)
            for _ in range(options.rounds):
                for port, seconds in times.items():
                    seconds += ask(channels[port], options.calls)
    medians = {port: 1000 * statistics.median(seconds) for port, seconds in times.items()}
    added = medians[RECORDED] - medians[STRAIGHT]
    print(f"a call straight {medians[STRAIGHT]:.3f} ms, with the recorder {medians[RECORDED]:.3f} ms at the median")
    verdict = "ok" if added <= PROMISED else "TOO SLOW"
    print(f"the recorder of gRPC adds {added:.3f} ms (promised: at most {PROMISED:g} ms): {verdict}")


@contextmanager
def running(command: list[str], port: int, said: dict[str, str]) -> Iterator[grpc.Channel]:
    """A process that goes when the block ends, and a connection to it."""
    environ = {**os.environ, **{f"MLFLOW_ISTIO_{name}": value for name, value in {**said, "PORT": str(port)}.items()}}
    process = subprocess.Popen(command, env=environ)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
            yield channel
    finally:
        process.terminate()
        process.wait()


def ask(channel: grpc.Channel, count: int) -> list[float]:
    """Seconds of each of so many calls."""
    tensor = {"name": "x", "shape": [1, 10], "datatype": "FP64", "data": [float(number) for number in range(10)]}
    message = request_message({"inputs": [tensor]})
    call = channel.unary_unary(METHOD)
    seconds = []
    for number in range(count):
        begin = time.perf_counter()
        if call(message, metadata=[("x-request-id", f"{begin}-{number}")], timeout=60) != message:
            raise SystemExit("an answer is not what was asked")
        seconds.append(time.perf_counter() - begin)
    return seconds


if __name__ == "__main__":
    main()
