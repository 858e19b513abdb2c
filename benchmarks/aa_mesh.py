"""Equal deployments on a local mesh of the benchmark's own, callers, foreign work, and the counters as the product reads them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_istio.core.analysis.counters import CounterState

ENDPOINT = "m"
MODEL = Path(__file__).with_name("aa_model.py")
CALLERS = 4
BURST_EVERY, BURST_SECONDS, LONGEST_BURST = 120.0, 8.0, 60.0
"""Foreign work comes after exponential times with such a mean, for exponential times with such a mean, at most so long."""

BODY = b'{"inputs": [[1.0, 2.0]]}'


class Mesh:
    """A mesh with a registry, in a folder of its own. The process works in that folder from then on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.environ["MLFLOW_ISTIO_HOME"] = str(folder / "home")
        os.environ["MLFLOW_TRACKING_URI"] = self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        import mlflow

        from mlflow_istio import IstioDeploymentClient

        mlflow.set_tracking_uri(self.uri)
        self.client = IstioDeploymentClient("istio-local")

    def register(self, rounds: int) -> int:
        """Register a model that computes so many rounds; its version."""
        import mlflow
        import numpy as np

        client = mlflow.MlflowClient()
        found = client.get_experiment_by_name("training")
        experiment = (
            found.experiment_id
            if found
            else client.create_experiment("training", artifact_location=(self.folder / "artifacts").as_uri())
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with mlflow.start_run(experiment_id=experiment):
                info = mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(MODEL),
                    model_config={"rounds": rounds},
                    registered_model_name=ENDPOINT,
                    input_example=np.array([[1.0, 2.0]]),
                    pip_requirements=["mlflow"],
                )
        return int(info.registered_model_version)

    def deploy(self, names: Sequence[str], version: int) -> None:
        """Deploy a version under several names, each with an equal share of the traffic."""
        for name in names:
            self.client.create_deployment(name, f"models:/{ENDPOINT}/{version}", endpoint=ENDPOINT)
        equal = 100 // len(names)
        weights = dict.fromkeys(names[1:], equal)
        shares = {names[0]: 100 - sum(weights.values()), **weights}
        split = {"strategy": "ab", "candidate": list(names[1:]), "cookie": "arm", "weights": shares}
        self.client.update_endpoint(ENDPOINT, split)

    def keep(self, name: str, others: Sequence[str]) -> None:
        """Give one deployment all the traffic, and delete the others."""
        self.client.update_endpoint(ENDPOINT, {"action": "abort"})
        for other in others:
            self.client.delete_deployment(other, endpoint=ENDPOINT)
        if list(self.client.get_endpoint(ENDPOINT)["traffic"]) != [name]:
            raise RuntimeError(f"'{name}' should have all the traffic")

    def port(self) -> int:
        """The endpoint's port."""
        return int(urlsplit(self.client.get_endpoint(ENDPOINT)["url"]).port or 80)

    def seconds(self, names: Sequence[str]) -> Iterator[Mapping[str, Mapping[str, float]]]:
        """What each deployment's counters grow by, second by second, as the product reads and differences them.

        It begins when all of them have been seen to answer.
        """
        from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics
        from mlflow_istio.core.basics.target import parse_target
        from mlflow_istio.wiring.connection import local_mesh

        metrics = EnvoyMetrics(local_mesh(parse_target("istio-local")).admin_urls)
        states = {name: CounterState() for name in names}
        while not all(metrics.read(ENDPOINT, names).get(name) for name in names):
            time.sleep(0.2)
        started = time.monotonic()
        for number in itertools.count():
            time.sleep(max(0.0, started + number - time.monotonic()))
            grown: dict[str, Mapping[str, float]] = {}
            for name, reading in metrics.read(ENDPOINT, names).items():
                states[name], grown[name] = states[name].advanced(reading)
            if number:
                yield grown

    def down(self) -> None:
        """End everything of this mesh and remove its folder."""
        from mlflow_istio.core.basics.target import parse_target
        from mlflow_istio.wiring.connection import local_mesh

        with contextlib.suppress(Exception):
            self.client.delete_endpoint(ENDPOINT, {"force": True})
        local_mesh(parse_target("istio-local")).down(purge=True)
        os.chdir("/")
        shutil.rmtree(self.folder)


@contextmanager
def traffic(port: int, rate: float, *, seed: int, bursts: bool = True) -> Iterator[None]:
    """Callers that send so many requests a second together, and foreign work now and then, until the block ends."""
    context = multiprocessing.get_context("spawn")
    callers = context.Process(target=_call, args=(port, rate, seed), daemon=True)
    callers.start()
    stop = threading.Event()
    foreign = threading.Thread(target=_foreign_work, args=(stop, seed))
    if bursts:
        foreign.start()
    try:
        yield
    finally:
        stop.set()
        if bursts:
            foreign.join()
        callers.terminate()
        callers.join()


def _call(port: int, rate: float, seed: int) -> None:
    asyncio.run(_callers(port, rate, seed))


async def _callers(port: int, rate: float, seed: int) -> None:
    await asyncio.gather(
        *(_caller(port, rate / CALLERS, random.Random(f"{seed} {number}")) for number in range(CALLERS))
    )


async def _caller(port: int, rate: float, chance: random.Random) -> None:
    """One after the other, each after a pause: a caller who waits for a slow answer asks less, as people do."""
    request = (
        b"POST /invocations HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        + f"content-length: {len(BODY)}\r\n\r\n".encode()
        + BODY
    )
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                await asyncio.sleep(chance.expovariate(rate))
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.2)


def _foreign_work(stop: threading.Event, seed: int) -> None:
    chance = random.Random(f"{seed} foreign")
    context = multiprocessing.get_context("spawn")
    while not stop.wait(chance.expovariate(1 / BURST_EVERY)):
        seconds = min(LONGEST_BURST, chance.expovariate(1 / BURST_SECONDS))
        burners = [context.Process(target=_burn, args=(seconds,), daemon=True) for _ in range(os.cpu_count() or 1)]
        for burner in burners:
            burner.start()
        stop.wait(seconds)
        for burner in burners:
            burner.terminate()
            burner.join()


def _burn(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(10_000))


def released(mesh: Mesh, version: int, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Release a version for real, delete the loser, and return outcome, reason and seconds."""
    before = mesh.client.get_endpoint(ENDPOINT)["stable"]
    started = time.monotonic()
    found = mesh.client.release(ENDPOINT, f"models:/{ENDPOINT}/{version}", name=name, **config)
    seconds = time.monotonic() - started
    loser = before if found["outcome"] == "promoted" else name
    mesh.client.delete_deployment(loser, endpoint=ENDPOINT)
    return {"outcome": found["outcome"], "reason": found["verdict"]["reason"], "seconds": round(seconds)}
