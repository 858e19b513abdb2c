"""What simulated tasks found, in a file: a run that died goes on where it stopped, and one with more runs adds to what is there.

A line is one task as JSON, with its seed and a fingerprint of the sources that its result rests on: what was found by other code is
simulated again.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.decisions_promise import Found, Task

ROOT = Path(__file__).parents[1]
_PORT = tuple(f"benchmarks/decisions_{name}.py" for name in ("blocks", "families", "peers", "plan", "promise"))
_ENGINE = ("benchmarks/decisions_engine.py", "benchmarks/decisions_watch.py", "mlflow_istio/core/release")


class Results:
    """The file.

    Args:
        path: Where it is, or will be.
        seed: Of the simulation: results of other seeds stay in the file and are not used.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._seed = path, seed
        self._found: dict[str, Found] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self._found[entry["task"]] = Found(hits=entry["hits"], runs=entry["runs"])
            except (ValueError, KeyError, TypeError):
                continue  # the line at which a run died

    def __contains__(self, task: Task) -> bool:
        """Tell whether a task was simulated with this seed and this code."""
        return self._key(task) in self._found

    def __getitem__(self, task: Task) -> Found:
        """Return what a task found."""
        return self._found[self._key(task)]

    def keep(self, task: Task, found: Found) -> None:
        """Add a task's result to the file."""
        key = self._key(task)
        self._found[key] = found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"task": key, "hits": found.hits, "runs": found.runs}) + "\n")

    def _key(self, task: Task) -> str:
        parts: list[Any] = [
            *(task.kind, task.what, task.family.name, task.number, task.runs, task.hours),
            *(self._seed, sources_of(task.kind)),
        ]
        return json.dumps(parts)


@cache
def sources_of(kind: str) -> str:
    """Return a fingerprint of the code by which tasks of a kind are simulated."""
    names = [*_PORT, "mlflow_istio/core/analysis", *(_ENGINE if kind == "watch" else ())]
    files = sorted(
        file for name in names for file in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
