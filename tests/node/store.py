"""containerd's folder with all images in it: made once for each set of images, never changed, shared by all nodes.

A node lays it under a folder of its own in memory: the big files are bound there read-only, or are links, and the two small
databases are copied. So a node starts with its images and without another node's containers, and leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.node import debian, image
from tests.node.errors import run
from tests.testbed.builder import caches, only_builder, whole
from tests.testbed.errors import TestbedError

NAMESPACE = "k8s.io"
SNAPSHOTTER = "io.containerd.snapshotter.v1.overlayfs"
_SNAPSHOTS = Path(SNAPSHOTTER) / "snapshots"
_BLOBS = Path("io.containerd.content.v1.content") / "blobs"
_DATABASES = (Path("io.containerd.metadata.v1.bolt") / "meta.db", Path(SNAPSHOTTER) / "metadata.db")
_KEYS = "images.json"
_LOCK = "in-use.lock"
_START_SECONDS = 60.0


def folder() -> Path:
    """Where the folder for exactly these images lies, made or not."""
    digest = hashlib.sha256(json.dumps(_keys(), sort_keys=True).encode()).hexdigest()[:12]
    return caches() / f"node-containerd-{platform.machine()}-{digest}"


def is_made() -> bool:
    return (folder() / _KEYS).is_file()


def has_former() -> bool:
    """Whether there is a folder of other images, from which only what has changed is made anew."""
    return bool(_others(folder()))


def make(report: Callable[[str], None]) -> Path:
    """Builds the images that have changed and imports them beside the others; returns containerd's folder.

    Raises:
        TestbedError: an image doesn't build.
    """
    target = folder()
    if is_made():
        return target
    with only_builder(caches(), lambda line: report(f"node: {line}")):
        if is_made():
            return target
        buildah = image.Buildah(report)
        for one in image.images():
            buildah.build(one)
        with whole(target) as fresh:
            known = _start_from_former(fresh)
            changed = [one for one in image.images() if known.get(one.name) != one.key]
            began = time.monotonic()
            _import(fresh, changed, buildah)
            (fresh / _KEYS).write_text(json.dumps(_keys()), encoding="utf-8")
            (fresh / _LOCK).touch()
            report(f"node: imported {len(changed)} images into containerd in {time.monotonic() - began:.0f} s")
        buildah.forget_others({image.base_name(), *(one.kept_name for one in image.images())})
        _forget_former(target)
    return target


def lay(target: Path) -> None:
    """Lays the images under `target`, containerd's folder of this node. Call it in the node's mount namespace."""
    source = folder()
    # Shared, and open until this process ends: nobody deletes the folder meanwhile.
    lock = os.open(source / _LOCK, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    for database in _DATABASES:
        (target / database).parent.mkdir(parents=True)
        shutil.copyfile(source / database, target / database)
    (target / _SNAPSHOTS).mkdir()
    for name in (source / _SNAPSHOTS).iterdir():
        part = _SNAPSHOTS / name.name
        (target / part).mkdir(parents=True)
        run(["mount", "--bind", "-o", "ro", str(source / part), str(target / part)])
    # Links, one by one, so that what this node pulls lies beside them.
    for name in (source / _BLOBS).glob("*/*"):
        link = target / _BLOBS / name.relative_to(source / _BLOBS)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(name)


def _keys() -> dict[str, str]:
    return {one.name: one.key for one in image.images()}


def _start_from_former(fresh: Path) -> dict[str, str]:
    """Takes over what the newest former folder has; returns its images and their keys."""
    former = sorted(_others(fresh), key=lambda path: path.stat().st_mtime)
    if not former:
        fresh.mkdir()
        return {}
    # Files of images never change, so names of them will do; a database does, so it is copied.
    run(["cp", "--archive", "--link", str(former[-1]), str(fresh)])
    for name in (*_DATABASES, Path(_KEYS), Path(_LOCK)):
        (fresh / name).unlink()
    for database in _DATABASES:
        shutil.copyfile(former[-1] / database, fresh / database)
    known: dict[str, str] = json.loads((former[-1] / _KEYS).read_text(encoding="utf-8"))
    return known


def _others(than: Path) -> list[Path]:
    pattern = f"node-containerd-{platform.machine()}-*"
    return [path for path in caches().glob(pattern) if path != than and (path / _KEYS).is_file()]


def _forget_former(kept: Path) -> None:
    for path in _others(kept):
        lock = os.open(path / _LOCK, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # A node runs on it; the next build looks again.
        else:
            (path / _KEYS).unlink()
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _import(store: Path, images: list[image.Image], buildah: image.Buildah) -> None:
    """Imports images into containerd's folder by a containerd that runs for as long as that takes."""
    with tempfile.TemporaryDirectory(prefix="mlflow-istio-node-") as scratch:
        socket = Path(scratch) / "containerd.sock"
        config = Path(scratch) / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{store}"\nstate = "{scratch}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n',
            encoding="utf-8",
        )
        log = Path(scratch) / "containerd.log"
        with open(log, "wb") as output:
            command = debian.with_tools(["containerd", "--config", str(config)])
            containerd = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            _wait_for(socket, containerd, log)
            for one in images:
                archive = Path(scratch) / "image.tar"
                buildah.save(one, archive)
                ctr = ["ctr", f"--address={socket}", f"--namespace={NAMESPACE}", "images"]
                run(debian.with_tools([*ctr, "import", str(archive)]))
                # What containerd's CRI looks for.
                run(debian.with_tools([*ctr, "label", one.name, "io.cri-containerd.image=managed"]))
                archive.unlink()
        finally:
            containerd.terminate()
            with suppress(subprocess.TimeoutExpired):
                containerd.wait(_START_SECONDS)
            if containerd.poll() is None:
                containerd.kill()
                containerd.wait()


def _wait_for(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise TestbedError(f"containerd did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
        time.sleep(0.05)
