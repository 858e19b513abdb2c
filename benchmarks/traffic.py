"""Requests lost during blue-green switches, and splits seen beside splits asked for, on a mesh of its own.

20,000 requests run while everyone is moved ten times; each split is judged by the central 99.9% of its binomial distribution.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from scipy import stats


def main() -> None:
    """Deploy two versions, switch under load, then count three splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--switches", type=int, default=10)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlflow-istio-bench-"))
    os.environ["MLFLOW_ISTIO_HOME"] = str(folder / "home")
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.chdir(folder)

    import mlflow

    from mlflow_istio import IstioDeploymentClient
    from tests.scenarios.place import Place
    from tests.support.registered_models import register

    mlflow.set_tracking_uri(uri)
    client = IstioDeploymentClient("istio-local")
    place = Place(target="istio-local", client=client, tracking_uri=uri)
    try:
        for version in (1, 2):
            register(uri, "m", float(version), folder / "artifacts")
            client.create_deployment(f"m-v{version}", f"models:/m/{version}", endpoint="m")
        switches(place, arguments.requests, arguments.switches)
        splits(place)
    finally:
        client.delete_endpoint("m", {"force": True})
        from mlflow_istio.core.basics.target import parse_target
        from mlflow_istio.wiring.connection import local_mesh

        local_mesh(parse_target("istio-local")).down(purge=True)
        shutil.rmtree(folder)


def switches(place: object, requests: int, count: int) -> None:
    """Move everyone back and forth while the requests run."""
    from tests.scenarios.place import Place, Seen

    assert isinstance(place, Place)
    results: list[Seen] = []
    sender = threading.Thread(target=lambda: results.append(place.send(requests, score=True)))
    sender.start()
    moved = 0
    start = time.monotonic()
    while moved < count:
        place.do(
            strategy="blue-green", candidate="m-v2" if place.client.get_endpoint("m")["stable"] == "m-v1" else "m-v1"
        )
        place.do(action="promote")
        moved += 1
    during = sender.is_alive()
    seconds = time.monotonic() - start
    sender.join()
    seen = results[0]
    print(
        f"  {count} switches in {seconds:.1f} s while {seen.total} requests ran (still running at the last: {during})"
    )
    print(f"  answered by {dict(sorted(seen.versions.items()))}; failed: {len(seen.failures)} (wanted: 0)")
    for failure in sorted(set(seen.failures))[:5]:
        print(f"    {failure}")


def splits(place: object) -> None:
    """Count three splits."""
    from tests.scenarios.place import Place

    assert isinstance(place, Place)
    if place.client.get_endpoint("m")["stable"] != "m-v1":
        place.do(action="rollback")
    place.do(strategy="canary", candidate="m-v2", weight=0)
    for weight in (10, 50, 99):
        place.do(weight=weight)
        total = 5000
        seen = place.send(total).versions["m/2"]
        low, high = stats.binom.interval(0.999, total, weight / 100)
        verdict = "inside" if low <= seen <= high else "OUTSIDE"
        print(f"  asked {100 - weight}/{weight}: {seen} of {total} by the candidate, {verdict} [{low:.0f}, {high:.0f}]")


if __name__ == "__main__":
    main()
