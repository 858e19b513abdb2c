"""containerd, the kubelet, the scheduler and kube-proxy: how each is started and when it is ready."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.node.image import HUB, TAG
from tests.testbed.control_plane import Files, accepts, answers, write_kubeconfig
from tests.testbed.network import BRIDGE_ADDRESS, NETWORK
from tests.testbed.processes import Program

NODE_NAME = "node"
DNS_ADDRESS = "10.96.0.10"
# The first addresses of the network belong to the node itself.
_FIRST_POD, _LAST_POD = str(NETWORK[256]), str(NETWORK[-257])
_BRIDGE = "br0"
_KUBELET_PORT = 10250

API_AUTHORIZATION = "Node,RBAC"
API_FLAGS = ("--enable-admission-plugins=NodeRestriction", "--allow-privileged=true")
# All that are on by default, and the one for certificates' requests has no authority to sign with.
CONTROLLERS = ("*", "-certificatesigningrequest-signing-controller")


@dataclass(frozen=True, kw_only=True, slots=True)
class Users:
    """The node's own users of the API server: for each its token."""

    kubelet: str = field(default_factory=secrets.token_urlsafe)
    scheduler: str = field(default_factory=secrets.token_urlsafe)
    proxy: str = field(default_factory=secrets.token_urlsafe)

    def lines(self) -> tuple[str, ...]:
        """Their lines of the token file. The rights of each come with Kubernetes itself."""
        node = f"system:node:{NODE_NAME}"
        return (
            f'{self.kubelet},{node},{node},"system:nodes"',
            f"{self.scheduler},system:kube-scheduler,system:kube-scheduler",
            f"{self.proxy},system:kube-proxy,system:kube-proxy",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """Where a node keeps its files.

    Attributes:
        home: its folder, in memory.
        programs: the folder of the Go programs.
        files: the control plane's.
        cgroup: the name of its cgroup in each hierarchy.
    """

    home: Path
    programs: Path
    files: Files
    users: Users
    cgroup: str

    @property
    def socket(self) -> Path:
        return self.home / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        return self.home / "containerd"

    def write_kubeconfigs(self) -> None:
        for user, token in (
            (f"system:node:{NODE_NAME}", self.users.kubelet),
            ("system:kube-scheduler", self.users.scheduler),
            ("system:kube-proxy", self.users.proxy),
        ):
            write_kubeconfig(self.files, user, token, Path(self._kubeconfig(user)))

    def containerd(self) -> Program:
        cni = self.home / "cni"
        cni.mkdir()
        (cni / "10-bridge.conflist").write_text(json.dumps(self._network()), encoding="utf-8")
        config = self.home / "containerd.toml"
        config.write_text(
            f"""version = 2
root = "{self.containerd_root}"
state = "{self.home}/containerd-state"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{HUB}/pause:{TAG}"
  # Without CAP_SYS_RESOURCE no container could start with a lower score than its parent's.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
""",
            encoding="utf-8",
        )
        return Program(
            name="containerd", argv=("/usr/bin/containerd", "--config", str(config)), ready=lambda: self.socket.exists()
        )

    def kubelet(self) -> Program:
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": BRIDGE_ADDRESS,
            "port": _KUBELET_PORT,
            "readOnlyPort": 0,
            "healthzBindAddress": "127.0.0.1",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "enforceNodeAllocatable": [],
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": self._write("resolv.conf", ""),
            "podLogsDir": str(self.home / "pod-logs"),
            "volumePluginDir": str(self.home / "volume-plugins"),
            # The images are shared with other nodes: nobody here may delete them.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "200Mi"},
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "localStorageCapacityIsolation": True,
        }
        return Program(
            name="kubelet",
            argv=(
                str(self.programs / "kubelet"),
                f"--config={self._write('kubelet.yaml', yaml.safe_dump(config))}",
                f"--kubeconfig={self._kubeconfig(f'system:node:{NODE_NAME}')}",
                f"--hostname-override={NODE_NAME}",
                f"--node-ip={BRIDGE_ADDRESS}",
                f"--root-dir={self.home / 'kubelet'}",
                f"--cert-dir={self.home / 'kubelet-certificates'}",
            ),
            ready=lambda: answers("http://127.0.0.1:10248/healthz"),
        )

    def scheduler(self) -> Program:
        return Program(
            name="kube-scheduler",
            argv=(
                str(self.programs / "kube-scheduler"),
                f"--kubeconfig={self._kubeconfig('system:kube-scheduler')}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={self.home / 'scheduler-certificates'}",
                "--leader-elect=false",
            ),
            ready=lambda: accepts("127.0.0.1", 10259),
        )

    def proxy(self) -> Program:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": self._kubeconfig("system:kube-proxy")},
            "clusterCIDR": str(NETWORK),
            "hostnameOverride": NODE_NAME,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            # The table of connections is the machine's to size.
            "conntrack": {"maxPerCore": 0, "min": 0},
            "nftables": {"minSyncPeriod": "100ms"},
        }
        return Program(
            name="kube-proxy",
            argv=(
                str(self.programs / "kube-proxy"),
                f"--config={self._write('kube-proxy.yaml', yaml.safe_dump(config))}",
            ),
            ready=lambda: answers("http://127.0.0.1:10256/healthz"),
        )

    def _network(self) -> dict[str, Any]:
        """Plugs each pod into the node's bridge."""
        addresses = {
            "subnet": str(NETWORK),
            "rangeStart": _FIRST_POD,
            "rangeEnd": _LAST_POD,
            "gateway": BRIDGE_ADDRESS,
        }
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": _BRIDGE,
                    "isDefaultGateway": True,
                    # A pod that asks its own Service may be the one that answers.
                    "hairpinMode": True,
                    "ipam": {"type": "host-local", "dataDir": str(self.home / "addresses"), "ranges": [[addresses]]},
                }
            ],
        }

    def _kubeconfig(self, user: str) -> str:
        return str(self.home / f"kubeconfig-{user.replace(':', '-')}")

    def _write(self, name: str, text: str) -> str:
        path = self.home / name
        path.write_text(text, encoding="utf-8")
        return str(path)
