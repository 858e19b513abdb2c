"""The node's Go programs beside the control plane's, built by the testbed's builder with the testbed's versions and flags."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.testbed.builder import LINK_FLAGS, Group, Program, kubernetes_link_flags, module_folder

MODULES = Path(__file__).parent / "go"
MANIFESTS = "istio-manifests"
BOOTSTRAP = "envoy_bootstrap.json"

_ISTIO = "istio.io/istio"
_KUBERNETES = ("kubelet", "kubectl", "kube-scheduler", "kube-proxy")
# A package path that starts with a dot is the module's own.
_OWN = "."

PROGRAMS = (
    *(
        Program(
            name=name,
            module="kubernetes",
            package=f"k8s.io/kubernetes/cmd/{name}",
            link_flags=f"{LINK_FLAGS} {kubernetes_link_flags()}",
        )
        for name in _KUBERNETES
    ),
    Program(name="pilot-agent", module="istio", package=f"{_ISTIO}/pilot/cmd/pilot-agent"),
    Program(name="istioctl", module="istio", package=f"{_ISTIO}/istioctl/cmd/istioctl"),
    Program(name="coredns", module="coredns", package=_OWN),
    Program(name="pause", module="pause", package=_OWN),
)


def _copy_manifests(target: Path) -> None:
    """Istio's own charts and profiles."""
    shutil.copytree(module_folder(MODULES / "istio", _ISTIO) / "manifests", target, copy_function=shutil.copyfile)
    # Go's module cache has its folders read-only, and a copy takes that over: nobody could delete them.
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(0o755)


def _copy_bootstrap(target: Path) -> None:
    source = module_folder(MODULES / "istio", _ISTIO) / "tools" / "packaging" / "common" / BOOTSTRAP
    shutil.copyfile(source, target)


NODE = Group(
    label="node",
    modules=MODULES,
    programs=PROGRAMS,
    extracts={MANIFESTS: _copy_manifests, BOOTSTRAP: _copy_bootstrap},
)
