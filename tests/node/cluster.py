"""Puts into the fresh cluster what a cluster with Istio has: DNS, Istio from its own charts, a gateway with an address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import requests

from tests.node.errors import run
from tests.node.kubernetes import NODE_NAME
from tests.node.programs import MANIFESTS as CHARTS
from tests.testbed.client import wait_for
from tests.testbed.control_plane import ISTIO_NAMESPACE, manifest

MANIFESTS = Path(__file__).parent / "manifests"
# What a cloud's load balancer would give: no host has it, and kube-proxy sends what goes there to the gateway's pods.
GATEWAY_ADDRESS = "10.245.0.2"
_INGRESS = "istio-ingressgateway"
_READY = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
_INSTALL_SECONDS = 300.0
_ASK_SECONDS = 2.0


class Kubectl:
    """The real kubectl as the admin; every call has a time limit."""

    def __init__(self, programs: Path, kubeconfig: Path) -> None:
        self._programs, self._kubeconfig = programs, kubeconfig

    def run(self, *arguments: str, text: str | None = None, seconds: float = 120.0) -> str:
        command = [str(self._programs / "kubectl"), f"--kubeconfig={self._kubeconfig}", *arguments]
        return run(command, text=text, seconds=seconds)

    def apply(self, *objects: Any) -> None:
        """Applies objects given as dicts."""
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.run("apply", "--server-side", "-f", "-", text=body)

    def istioctl(self, *arguments: str, seconds: float = _INSTALL_SECONDS) -> str:
        command = [str(self._programs / "istioctl"), f"--kubeconfig={self._kubeconfig}", *arguments]
        return run(command, seconds=seconds)


def wait_ready(kubectl: Kubectl) -> None:
    """Waits until the kubelet has registered the node and calls it ready."""
    wait_for(
        "the node to be ready",
        lambda: kubectl.run("get", "node", NODE_NAME, "--ignore-not-found", "-o", _READY) == "True",
    )


def install_dns(kubectl: Kubectl) -> None:
    """Applies CoreDNS without waiting for it."""
    kubectl.run("apply", "--server-side", "-f", str(MANIFESTS / "coredns.yaml"))


def install_istio(kubectl: Kubectl, programs: Path) -> None:
    """Has istioctl install Istio, gives its gateway an address, and waits until that answers."""
    kubectl.istioctl(
        "install",
        "--skip-confirmation",
        f"--manifests={programs / CHARTS}",
        f"--filename={MANIFESTS / 'istio.yaml'}",
        "--readiness-timeout=4m",
    )
    status = {"status": {"loadBalancer": {"ingress": [{"ip": GATEWAY_ADDRESS}]}}}
    kubectl.run(
        "patch",
        "service",
        _INGRESS,
        "-n",
        ISTIO_NAMESPACE,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps(status),
    )
    kubectl.apply(manifest("gateway"))
    wait_for(
        "DNS", lambda: kubectl.run("rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s")
    )
    wait_for("the gateway to answer", _is_answering)


def _is_answering() -> bool:
    """Whether the gateway has its listener: it answers 404, since no route is there yet."""
    try:
        reply = requests.get(f"http://{GATEWAY_ADDRESS}/", timeout=_ASK_SECONDS)
    except requests.RequestException:
        return False
    return bool(reply.status_code == requests.codes.not_found)
