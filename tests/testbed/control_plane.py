"""etcd, the Kubernetes API server, its controller manager and istiod: how each is started and when it is ready."""

from __future__ import annotations

import base64
import json
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.testbed.network import BRIDGE_ADDRESS
from tests.testbed.processes import Program

MANIFESTS = Path(__file__).parent / "manifests"
ISTIO_NAMESPACE = "istio-system"
XDS_PORT = 15010
API_PORT = 6443
LEAST_USER = "least"

# Who waits longer and longer to ask again after these have failed.
CLIENTS = dict.fromkeys(("etcd", "kube-apiserver"), ("kube-controller-manager", "istiod"))

_ETCD = "http://127.0.0.1:2379"
_CONTROLLERS = (
    "cronjob-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
)
_PROBE_SECONDS = 2.0
_KEY_BITS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Where the control plane keeps its files, all under one folder that nobody else uses.

    Attributes:
        fast: whether to shorten the waits that a real cluster has for the sake of its size.
    """

    programs: Path
    folder: Path
    admin_token: str
    least_token: str
    fast: bool

    @property
    def certificates(self) -> Path:
        return self.folder / "certificates"

    @property
    def authority(self) -> Path:
        """The certificate that the API server signed for itself, chain included."""
        return self.certificates / "apiserver.crt"

    @property
    def authority_key(self) -> Path:
        return self.certificates / "apiserver.key"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def least_kubeconfig(self) -> Path:
        return self.folder / "kubeconfig-least"


def prepare(programs: Path, folder: Path, *, fast: bool, users: Sequence[str] = ()) -> Files:
    """Writes what the programs read at their start: the users and the key that signs service accounts' tokens.

    Args:
        users: further lines of the token file: `TOKEN,NAME,UID,"GROUP"`.
    """
    files = Files(
        programs=programs,
        folder=folder,
        admin_token=secrets.token_urlsafe(),
        least_token=secrets.token_urlsafe(),
        fast=fast,
    )
    files.certificates.mkdir(parents=True)
    (folder / "users.csv").write_text(
        "".join(
            f"{line}\n"
            for line in (
                f"{files.admin_token},admin,admin,system:masters",
                f"{files.least_token},{LEAST_USER},{LEAST_USER}",
                *users,
            )
        ),
        encoding="utf-8",
    )
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    (folder / "service-accounts.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return files


def write_kubeconfigs(files: Files) -> None:
    """Writes both users' kubeconfig. The API server must have started once: its certificate goes in."""
    write_kubeconfig(files, "admin", files.admin_token, files.admin_kubeconfig)
    write_kubeconfig(files, LEAST_USER, files.least_token, files.least_kubeconfig)


def write_kubeconfig(files: Files, user: str, token: str, path: Path) -> None:
    """Writes one user's kubeconfig."""
    authority = base64.b64encode(files.authority.read_bytes()).decode()
    server = {"server": f"https://{BRIDGE_ADDRESS}:{API_PORT}", "certificate-authority-data": authority}
    context = {"cluster": "testbed", "user": user, "namespace": "default"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": server}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": context}],
        "current-context": "testbed",
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def manifest(name: str) -> Any:
    """One of the objects under `manifests/`, as a dict."""
    return yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8"))


def etcd(files: Files) -> Program:
    return Program(
        name="etcd",
        argv=(
            str(files.programs / "etcd"),
            f"--data-dir={files.folder / 'etcd'}",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            # The data lies in memory and ends with the testbed: there is no disk to wait for.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
        ready=lambda: answers(f"{_ETCD}/health"),
    )


def api_server(files: Files, *, authorization: str = "RBAC", flags: Sequence[str] = ()) -> Program:
    """The API server; its flags are the testbed's with some more."""
    return Program(
        name="kube-apiserver",
        argv=(
            str(files.programs / "kube-apiserver"),
            f"--etcd-servers={_ETCD}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={BRIDGE_ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--cert-dir={files.certificates}",
            f"--authorization-mode={authorization}",
            f"--token-auth-file={files.folder / 'users.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files.folder / 'service-accounts.key'}",
            f"--service-account-signing-key-file={files.folder / 'service-accounts.key'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
            *flags,
        ),
        ready=lambda: (
            files.authority.exists()
            and answers(
                f"https://{BRIDGE_ADDRESS}:{API_PORT}/readyz", token=files.admin_token, authority=files.authority
            )
        ),
    )


def controller_manager(files: Files, *, controllers: Sequence[str] = _CONTROLLERS) -> Program:
    """The controllers; by default those that need no kubelet."""
    fast = ("--kube-api-qps=500", "--kube-api-burst=1000") if files.fast else ()
    return Program(
        name="kube-controller-manager",
        argv=(
            str(files.programs / "kube-controller-manager"),
            f"--kubeconfig={files.admin_kubeconfig}",
            f"--controllers={','.join(controllers)}",
            f"--root-ca-file={files.authority}",
            f"--cert-dir={files.certificates / 'controller-manager'}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--profiling=false",
            *fast,
        ),
        ready=lambda: accepts("127.0.0.1", 10257),
    )


def istiod(files: Files) -> Program:
    fast = {"PILOT_DEBOUNCE_AFTER": "10ms"} if files.fast else {}
    return Program(
        name="istiod",
        argv=(
            str(files.programs / "pilot-discovery"),
            "discovery",
            f"--kubeconfig={files.admin_kubeconfig}",
            f"--meshConfig={MANIFESTS / 'mesh.yaml'}",
            f"--namespace={ISTIO_NAMESPACE}",
            "--httpAddr=127.0.0.1:15080",
            "--httpsAddr=127.0.0.1:15017",
            f"--grpcAddr=0.0.0.0:{XDS_PORT}",
            "--secureGRPCAddr=127.0.0.1:15012",
            "--monitoringAddr=127.0.0.1:15014",
            "--ctrlz_port=15076",
        ),
        environment={
            # The same name after a restart: istiod is its own successor and doesn't wait for its old lease to end.
            "POD_NAME": "istiod",
            "POD_NAMESPACE": ISTIO_NAMESPACE,
            "REVISION": "default",
            # Its certificate for the validating webhook then covers this address.
            "ISTIOD_CUSTOM_HOST": "127.0.0.1",
            "PILOT_ENABLE_METADATA_EXCHANGE": "false",
            "PILOT_ENABLE_ALPN_FILTER": "false",
            "PILOT_DISABLE_MX_ALPN": "true",
            "PILOT_ENABLE_GATEWAY_API": "false",
            **fast,
        },
        ready=lambda: answers("http://127.0.0.1:15080/ready") and accepts("127.0.0.1", 15017),
    )


def crds(files: Files) -> list[dict[str, Any]]:
    """Istio's custom resource definitions, of the same version as istiod."""
    loaded: list[dict[str, Any]] = json.loads((files.programs / "istio-crds.json").read_text(encoding="utf-8"))
    return loaded


def answers(url: str, *, token: str | None = None, authority: Path | None = None) -> bool:
    """Whether a GET of the URL is answered with 200."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        reply = requests.get(url, headers=headers, verify=str(authority) if authority else True, timeout=_PROBE_SECONDS)
    except (requests.RequestException, OSError):
        return False
    return bool(reply.status_code == requests.codes.ok)


def accepts(address: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((address, port), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False
