"""What a user waits for before anything happens, beside what MLflow itself costs, in the same run.

1. ``mlflow deployments help -t istio-local`` beside the same command for a plugin that does nothing.
2. ``mlflow-istio status`` beside ``mlflow deployments --help``.

Commands take turns; medians are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NOTHING = """
from mlflow.deployments import BaseDeploymentClient


class Nothing(BaseDeploymentClient):
    def create_deployment(self, name, model_uri, flavor=None, config=None, endpoint=None): ...
    def update_deployment(self, name, model_uri=None, flavor=None, config=None, endpoint=None): ...
    def delete_deployment(self, name, config=None, endpoint=None): ...
    def list_deployments(self, endpoint=None): ...
    def get_deployment(self, name, endpoint=None): ...
    def predict(self, deployment_name=None, inputs=None, endpoint=None): ...


def run_local(name, model_uri, flavor=None, config=None): ...


def target_help():
    return "nothing"
"""


def main() -> None:
    """Measure both pairs and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "nothing_plugin.py").write_text(NOTHING, encoding="utf-8")
        info = place / "nothing-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("[mlflow.deployments]\nnothing = nothing_plugin\n", encoding="utf-8")
        help_of = [str(tools / "mlflow"), "deployments", "help", "-t"]
        compare(place, rounds, [*help_of, "istio-local"], [*help_of, "nothing"], "at most 1.1")
        status = [str(tools / "mlflow-istio"), "status", "-t", "istio-local"]
        compare(place, rounds, status, [str(tools / "mlflow"), "deployments", "--help"], "at most 0.4")


def compare(place: Path, rounds: int, ours: list[str], baseline: list[str], wanted: str) -> None:
    """Time two commands in turns and print their medians and the ratio."""
    seconds: dict[str, list[float]] = {"ours": [], "baseline": []}
    for command in (ours, baseline):  # fills the caches
        timed(command, place)
    for _ in range(rounds):
        seconds["ours"].append(timed(ours, place))
        seconds["baseline"].append(timed(baseline, place))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, command in (("ours", ours), ("baseline", baseline)):
        print(f"  {medians[name]:6.3f} s  {Path(command[0]).name} {' '.join(command[1:])}")
    print(f"  ratio {medians['ours'] / medians['baseline']:.2f} (wanted: {wanted})")


def timed(command: list[str], place: Path) -> float:
    """Seconds a command takes."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPATH": str(place),
        "MLFLOW_ISTIO_HOME": str(place / "home"),
    }
    start = time.perf_counter()
    subprocess.run(
        command, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
