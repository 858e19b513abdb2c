"""Tools and the base image from Debian's packages: unpacked beside the machine's own, none is installed."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.node.errors import run
from tests.testbed.builder import caches, only_builder, whole
from tests.testbed.errors import TestbedError

_TOOLS = ("buildah", "conntrack", "containerd", "containernetworking-plugins", "mmdebstrap", "nftables", "runc")
# containerd 2 and newer runc want cgroup v2 and other configuration: a machine with another Debian is refused.
_RELEASE = "bookworm"
_BASE_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
PYTHON = "3.11"
_MIRROR = "http://deb.debian.org/debian"

_CHANGED_BASE = f"""
ln -s python3 "$1/usr/bin/python"
rm -f "$1"/usr/lib/python{PYTHON}/EXTERNALLY-MANAGED
rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*_*
"""


def tools_folder() -> Path:
    """Where the tools lie, as under `/`."""
    return caches() / f"debian-tools-{_key(_RELEASE, *_TOOLS)}"


def base_archive() -> Path:
    """The root file system that stands for the image `python:3.11-slim`."""
    return caches() / f"debian-base-{_key(_RELEASE, _MIRROR, _CHANGED_BASE, *_BASE_PACKAGES)}.tar"


def is_built() -> bool:
    return tools_folder().is_dir() and base_archive().is_file()


def build(report: Callable[[str], None]) -> None:
    """Downloads and unpacks the tools, and makes the base, where they aren't there.

    Raises:
        TestbedError: this isn't the Debian that it needs, or its mirror can't be reached.
    """
    if is_built():
        return
    _refuse_another_system()
    caches().mkdir(parents=True, exist_ok=True)
    with only_builder(caches(), lambda line: report(f"node: {line}")):
        if not tools_folder().is_dir():
            began = time.monotonic()
            report(f"node: unpacking Debian's {', '.join(_TOOLS)} (once per machine, into {tools_folder()})")
            with whole(tools_folder()) as target:
                _unpack(target)
            report(f"node: unpacked Debian's tools in {time.monotonic() - began:.0f} s")
        if not base_archive().is_file():
            began = time.monotonic()
            report(f"node: making the base image's files of Debian {_RELEASE}")
            with whole(base_archive()) as target:
                _make_base(target)
            size = base_archive().stat().st_size / 1e6
            report(f"node: made the base image's files: {size:.0f} MB in {time.monotonic() - began:.0f} s")


def with_tools(argv: Sequence[str]) -> list[str]:
    """The command, in a mount namespace of its own that has the tools laid over `/usr` and `/etc`."""
    script = (
        'for part in usr etc; do mount -t overlay -o "lowerdir=$0/$part:/$part" tools "/$part" || exit 1; done;'
        ' exec "$@"'
    )
    # Who starts it may be killed, and nothing else would end a build that goes on for minutes.
    return [
        "setpriv",
        "--pdeathsig=KILL",
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-c",
        script,
        str(tools_folder()),
        *argv,
    ]


def _unpack(target: Path) -> None:
    """Downloads what an installation of the tools would add to this machine, and unpacks it under `target`."""
    target.mkdir()
    plan = run(["apt-get", "install", "--simulate", "--no-install-recommends", *_TOOLS]).splitlines()
    # "Inst NAME (VERSION ...)" is new; "Inst NAME [OLD] (NEW ...)" would replace what the machine has.
    lines = [line.split() for line in plan if line.startswith("Inst ")]
    new = {words[1] for words in lines if not words[2].startswith("[")}
    packages = target / "packages"
    packages.mkdir()
    # As root, apt downloads as the user _apt, who may not write here.
    run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *sorted(new | set(_TOOLS))], cwd=packages)
    for package in sorted(packages.glob("*.deb")):
        run(["dpkg", "-x", str(package), str(target)])
    shutil.rmtree(packages)


def _make_base(target: Path) -> None:
    hook = f"--customize-hook={_CHANGED_BASE}"
    include = f"--include={','.join(_BASE_PACKAGES)}"
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", include, hook, _RELEASE, str(target), _MIRROR]
    run(with_tools(command), env={**os.environ, "LC_ALL": "C.UTF-8"})


def _refuse_another_system() -> None:
    try:
        release = platform.freedesktop_os_release().get("VERSION_CODENAME")
    except OSError:
        release = None
    if release != _RELEASE:
        raise TestbedError(
            f"the node's containerd, runc and buildah are packages of Debian {_RELEASE}, and this machine is"
            f" {release or 'no such system'}: run it on one"
        )
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing:
        raise TestbedError(f"the node's tools come as Debian packages, which need {' and '.join(missing)}")


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join((platform.machine(), *parts)).encode()).hexdigest()[:12]
