"""Pages of the documentation as their readers use them: code blocks, and commands run in a user's own folder."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ready_mlflow import folder_of_commands

ROOT = Path(__file__).parents[2]


def page(document: str) -> str:
    """The text of a page, named from the repository's root."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(language: str, document: str) -> list[str]:
    """The code blocks of one language on a page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page(document), re.S | re.M)


def run(command: list[str], folder: Path, *, cwd: Path | None = None, timeout: float = 560) -> str:
    """Run a command as a user would who has a registry and a mesh of their own in a folder; what it said."""
    environment = {
        **os.environ,
        "PATH": f"{folder_of_commands()}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ISTIO_HOME": str(folder / "home"),
        # Environments of their own, as the examples' first lines make them (make mlserver llama).
        "MLSERVER": str(Path(sys.prefix) / "mlserver" / "bin"),
        "LLAMA": str(Path(sys.prefix) / "llama" / "bin" / "python"),
        "COLUMNS": "150",
    }
    for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_ISTIO_TARGET"):
        environment.pop(name, None)
    done = subprocess.run(
        command, cwd=cwd or folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@contextmanager
def user_folder(folder: Path) -> Iterator[Path]:
    """A user's folder in which the example has registered its versions; its mesh goes at the end."""
    (folder / "examples").symlink_to(ROOT / "examples")
    register_example(folder)
    yield folder
    run(["mlflow-istio", "local", "down", "--purge"], folder)


def register_example(folder: Path) -> None:
    """Leaves a folder as ``examples/01_register.py`` would, with its database ``mlflow.db``: the example runs only once."""
    source = _registered()
    shutil.copytree(source, folder, dirs_exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        # MLflow keeps the absolute paths of its files.
        columns = database.execute(
            "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c"
            " WHERE m.type = 'table' AND (c.type LIKE '%CHAR%' OR c.type LIKE '%TEXT%')"
        )
        for table, column in columns.fetchall():
            database.execute(
                f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)',
                (str(source), str(folder), str(source)),
            )
    for description in folder.rglob("MLmodel"):
        text = description.read_text(encoding="utf-8")
        description.write_text(text.replace(str(source), str(folder)), encoding="utf-8")


@functools.cache
def _registered() -> Path:
    """The folder of the one run."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="registered-")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run([sys.executable, str(ROOT / "examples" / "01_register.py")], folder)
    return folder
