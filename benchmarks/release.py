"""What a release costs with a control and without, in replica-seconds and in time to the verdict, on a mesh of its own.

``python -m benchmarks.release [--deadline SECONDS]``

One stable replica answers one request after the other, and callers keep it busy. A version that is equal and one that is 30%
slower are released by 20% and 50%, once beside a control and once beside the stable itself, all in the same run. Latency counts
without a control only where loads per replica are alike, at 50%; there a slower version has half of the users.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MILLISECONDS = 86
KINDS = {"equal": 1.0, "30% slower": 1.3}
PLAN: dict[str, Any] = {
    "steps": "20,50",
    "interval": 1,
    "hold": 5,
    "min_requests": 30,
    "warmup": 1,
    "warm": "none",
    "warm_requests": 0,
    "phase": 0,
    "analysis": json.dumps([{"guard": "latency", "edges": [100], "allowed": {"odds_ratio": 4}}]),
}
EVERY = 0.25


@dataclass
class Cost:
    """What was seen of a release while it went on.

    Attributes:
        replicas: Deployment to its replica-seconds.
        first_user: When the candidate got its first share; None: it has none yet.
    """

    replicas: dict[str, float] = field(default_factory=dict)
    first_user: float | None = None


def main() -> None:
    """Release four times and print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deadline", type=int, default=300)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlflow-istio-bench-"))
    os.environ["MLFLOW_ISTIO_HOME"] = str(folder / "home")
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.chdir(folder)

    import mlflow

    from mlflow_istio import IstioDeploymentClient
    from tests.faulty import register_faulty
    from tests.scenarios.place import Place

    mlflow.set_tracking_uri(uri)
    client = IstioDeploymentClient("istio-local")
    place = Place(target="istio-local", client=client, tracking_uri=uri)
    try:
        for times in KINDS.values():
            register_faulty(uri, "m", folder / "artifacts", milliseconds=MILLISECONDS * times, queues=True)
        client.create_deployment("m-first", "models:/m/1", endpoint="m")
        print(f"  {'version':12}{'control':9}{'verdict':13}{'after':>8}{'candidate':>11}{'control':>9}{'requests':>10}")
        with place.load(workers=4):
            for version, kind in enumerate(KINDS, start=1):
                for control in ("fresh", "none"):
                    print(f"  {kind:12}{control:9}{released(place, version, control, arguments.deadline)}", flush=True)
    finally:
        client.delete_endpoint("m", {"force": True})
        from mlflow_istio.core.basics.target import parse_target
        from mlflow_istio.wiring.connection import local_mesh

        local_mesh(parse_target("istio-local")).down(purge=True)
        shutil.rmtree(folder)


def released(place: object, version: int, control: str, deadline: int) -> str:
    """Release one version and say what came of it: the verdict, seconds from the first user, replica-seconds, requests."""
    from tests.scenarios.place import Place

    assert isinstance(place, Place)
    stable, name = place.client.get_endpoint("m")["stable"], f"m-v{version}-{control}"
    cost, stop = Cost(), threading.Event()
    meter = threading.Thread(target=_metered, args=(place, name, cost, stop))
    meter.start()
    try:
        config = {**PLAN, "name": name, "control": control, "deadline": deadline}
        found = place.client.release("m", f"models:/m/{version}", **config)
    finally:
        ended = time.monotonic()
        stop.set()
        meter.join()
    answered = place.counted(name)
    place.client.delete_deployment(stable if found["outcome"] == "promoted" else name, endpoint="m")
    after = f"{ended - cost.first_user:.0f} s" if cost.first_user else "-"
    mine, others = (f"{cost.replicas.get(each, 0.0):.0f}" for each in (name, f"{stable}-control"))
    return f"{found['outcome']:13}{after:>8}{mine:>11}{others:>9}{answered:>10.0f}"


def _metered(place: object, candidate: str, cost: Cost, stop: threading.Event) -> None:
    """Add up how long there were how many replicas of each deployment."""
    from tests.scenarios.place import Place

    assert isinstance(place, Place)
    before = time.monotonic()
    while not stop.wait(EVERY):
        replicas = {each["name"]: int(each["replicas"]) for each in place.client.list_deployments(endpoint="m")}
        now = time.monotonic()
        for name, count in replicas.items():
            cost.replicas[name] = cost.replicas.get(name, 0.0) + count * (now - before)
        if cost.first_user is None and place.client.get_endpoint("m")["traffic"].get(candidate):
            cost.first_user = now
        before = now


if __name__ == "__main__":
    main()
