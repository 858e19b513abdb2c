"""Watch the deadlines of a mesh, so that what must end ends even when whoever set it is dead.

Run by the supervisor as a plain script, so it imports the standard library only: it looks at the stored VirtualServices once a
second, and has ``mlflow-istio sweep`` carry out what is over. The ledger is left to the next command of a person's, whose
environment says where it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

_INTERVAL = 1.0
_PAUSE = 30.0
"""Seconds before what could not be ended is tried again."""
_PREFIX = "mlflow-istio.org/deadlines."


def deadlines(text: str) -> Iterator[tuple[str, datetime]]:
    """Each deadline of a stored VirtualService, as a text and its time."""
    if _PREFIX not in text:
        return
    annotations = json.loads(text)["object"]["metadata"].get("annotations", {})
    for key, value in annotations.items():
        if key.startswith(_PREFIX):
            for deadline in json.loads(value):
                yield f"{key} {json.dumps(deadline, sort_keys=True)}", datetime.fromisoformat(deadline["at"])


def overdue(folder: Path, now: datetime) -> frozenset[str]:
    """The deadlines that have passed; a file that is being replaced or can't be read is looked at next time."""
    due: set[str] = set()
    for path in folder.glob("*.json"):
        try:
            due |= {name for name, at in deadlines(path.read_text(encoding="utf-8")) if at <= now}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
            print(f"{path.name}: {exc!r}", flush=True)
    return frozenset(due)


def main(folder: str, target: str) -> None:
    """Watch until the supervisor ends it."""
    tried: frozenset[str] = frozenset()
    again = 0.0
    while True:
        over = overdue(Path(folder), datetime.now(timezone.utc))
        if over - tried or (over and time.monotonic() >= again):
            command = [sys.executable, "-m", "mlflow_istio.cli", "sweep", "-t", target, "-C", "record=false"]
            subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
            tried, again = over, time.monotonic() + _PAUSE
        time.sleep(_INTERVAL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
