"""The pod runner does what a kubelet does, as far as the README says."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.client import Testbed, wait_for
from tests.testbed.kubelet.image import REPOSITORY
from tests.testbed.workloads import Cluster, container, server

pytestmark = pytest.mark.control_plane


def test_environment_comes_from_values_secrets_fields_and_earlier_variables(cluster: Cluster, bed: Testbed) -> None:
    cluster.core.create_namespaced_secret(
        cluster.namespace, {"metadata": {"name": "login"}, "stringData": {"token": "hidden"}}
    )
    env = [
        {"name": "PLAIN", "value": "plain"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "login", "key": "token"}}},
        {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "ALL", "value": "$(PLAIN)/$(TOKEN)/$(UNKNOWN)/$$(PLAIN)"},
    ]
    pod = cluster.create_pod("env", container(["sh", "-c", 'echo "$ALL $WHERE"'], env=env), restartPolicy="Never")

    assert cluster.wait_ended("env").exit_code == 0
    assert bed.pod_log(pod) == f"plain/hidden/$(UNKNOWN)/$(PLAIN) {cluster.namespace}"


def test_a_missing_secret_holds_the_container_back_until_it_is_there(cluster: Cluster) -> None:
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "late", "key": "token"}}}]
    cluster.create_pod("waits", container(["sh", "-c", 'test "$TOKEN" = here'], env=env), restartPolicy="Never")
    waiting = wait_for("the container to wait", lambda: _waiting(cluster, "waits", "CreateContainerConfigError"))
    assert waiting.message == 'secret "late" not found'

    cluster.core.create_namespaced_secret(
        cluster.namespace, {"metadata": {"name": "late"}, "stringData": {"token": "here"}}
    )

    assert cluster.wait_ended("waits").exit_code == 0


def test_init_containers_run_before_and_share_volumes_at_paths_the_machine_does_not_have(
    cluster: Cluster, bed: Testbed
) -> None:
    mounts = [{"name": "shared", "mountPath": "/testbed-models/inner"}]
    init = {
        **container(["sh", "-c", "echo from-init > /testbed-models/inner/model"]),
        "name": "init",
        "volumeMounts": mounts,
    }
    pod = cluster.create_pod(
        "shares",
        container(["cat", "/testbed-models/inner/model"], volumeMounts=mounts),
        initContainers=[init],
        volumes=[{"name": "shared", "emptyDir": {}}],
        restartPolicy="Never",
    )

    assert cluster.wait_ended("shares").exit_code == 0
    assert bed.pod_log(pod) == "from-init"
    assert not os.path.exists("/testbed-models")


def test_a_failed_init_container_keeps_the_main_one_from_starting(cluster: Cluster) -> None:
    init = {**container(["sh", "-c", "exit 3"]), "name": "init"}
    cluster.create_pod("fails", container(["sleep", "600"]), initContainers=[init], restartPolicy="Never")

    wait_for("the pod to fail", lambda: cluster.pod("fails").status.phase == "Failed")

    status = cluster.pod("fails").status
    assert status.init_container_statuses[0].state.terminated.exit_code == 3
    assert status.container_statuses[0].state.running is None


# Each prints when it begins and when it is told to end, on a volume that they share.
_SAYS = r"""
import os, signal, sys, time
def say(words):
    with open("/testbed-said/all", "a") as said:
        said.write(f"{name} {words}\n")
def end(*_):
    time.sleep(0.3)
    say("ends")
    sys.exit(0)
name = sys.argv[1]
signal.signal(signal.SIGTERM, end)
say("begins")
time.sleep(600)
"""


def _saying(name: str, **extra: Any) -> dict[str, Any]:
    mounts = [{"name": "said", "mountPath": "/testbed-said"}]
    return {**container(["python", "-c", _SAYS, name]), "name": name, "volumeMounts": mounts, **extra}


def test_sidecars_begin_before_the_main_container_and_end_after_it(cluster: Cluster, tmp_path: Path) -> None:
    """As the Kubernetes documentation has it ("Sidecar Containers")."""
    started = {"exec": {"command": ["grep", "-q", "first begins", "/testbed-said/all"]}, "periodSeconds": 1}
    once = {**_saying("once"), "command": ["sh", "-c", "echo once >> /testbed-said/all"]}
    cluster.create_pod(
        "beside",
        _saying("main"),
        initContainers=[
            _saying("first", restartPolicy="Always", startupProbe=started),
            once,
            _saying("second", restartPolicy="Always"),
        ],
        volumes=[{"name": "said", "hostPath": {"path": str(tmp_path)}}],
    )
    said = tmp_path / "all"
    wait_for("the main container to begin", lambda: said.exists() and "main begins" in said.read_text())
    cluster.wait_ready("beside")
    cluster.core.delete_namespaced_pod("beside", cluster.namespace)
    wait_for("the pod to go", lambda: not cluster.core.list_namespaced_pod(cluster.namespace).items)

    lines = said.read_text().splitlines()
    assert lines[:2] == ["first begins", "once"]
    assert set(lines[2:4]) == {"second begins", "main begins"}, (
        "a sidecar without startup probe has started once it runs"
    )
    assert lines[4:] == ["main ends", "second ends", "first ends"]


def test_a_sidecar_that_dies_is_started_again_and_the_pod_is_ready_when_it_is(cluster: Cluster, tmp_path: Path) -> None:
    ready = {"exec": {"command": ["test", "-e", str(tmp_path / "ready")]}, "periodSeconds": 1, "failureThreshold": 1}
    sidecar = {**container(["sleep", "600"], readinessProbe=ready), "name": "beside", "restartPolicy": "Always"}
    dying = {**container(["sh", "-c", "sleep 0.2; exit 7"]), "name": "dying", "restartPolicy": "Always"}
    cluster.create_pod("beside", container(["sleep", "600"]), initContainers=[sidecar, dying])

    def statuses() -> Any:
        return {one.name: one for one in cluster.pod("beside").status.init_container_statuses or ()}

    wait_for("a second restart", lambda: statuses() and statuses()["dying"].restart_count >= 2)
    assert cluster.pod("beside").status.container_statuses[0].state.running, "the main container runs meanwhile"
    assert not statuses()["beside"].ready
    (tmp_path / "ready").touch()
    wait_for("the sidecar to be ready", lambda: statuses()["beside"].ready)


def test_a_pod_whose_main_container_is_done_does_not_wait_for_its_sidecars(cluster: Cluster) -> None:
    sidecar = {**container(["sleep", "600"]), "name": "beside", "restartPolicy": "Always"}
    cluster.create_pod("done", container(["true"]), initContainers=[sidecar], restartPolicy="Never")
    wait_for("the pod to succeed", lambda: cluster.pod("done").status.phase == "Succeeded")
    wait_for(
        "its sidecar to end", lambda: cluster.pod("done").status.init_container_statuses[0].state.terminated is not None
    )


def test_an_image_called_invalid_is_never_pulled(cluster: Cluster) -> None:
    cluster.create_pod("no-image", {**server("nobody"), "image": "invalid/model:1"})

    waiting = wait_for("the pull to fail", lambda: _waiting(cluster, "no-image", "ImagePullBackOff"))

    assert 'pulling image "invalid/model:1"' in waiting.message
    assert not cluster.is_ready("no-image")
    assert cluster.pod("no-image").status.phase == "Pending"


def test_a_container_that_died_is_started_again(cluster: Cluster) -> None:
    cluster.create_pod("dies", container(["sh", "-c", "sleep 0.2; exit 7"]))

    wait_for("a second restart", lambda: cluster.restarts("dies") >= 2)

    assert cluster.pod("dies").status.container_statuses[0].last_state.terminated.exit_code == 7


def test_a_pod_is_not_ready_before_its_startup_probe_succeeds(cluster: Cluster, tmp_path: Path) -> None:
    started = tmp_path / "started"
    probe = {"exec": {"command": ["test", "-e", str(started)]}, "periodSeconds": 1, "failureThreshold": 60}
    cluster.create_pod("slow", server("slow", startupProbe=probe))
    wait_for("the container to run", lambda: cluster.state("slow") and cluster.state("slow").running)
    assert not cluster.is_ready("slow")

    started.touch()

    cluster.wait_ready("slow")


def test_a_container_whose_liveness_probe_fails_is_started_again(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    cluster.create_pod("sick", server("sick", livenessProbe=probe))

    wait_for("a restart", lambda: cluster.restarts("sick") >= 1)


def test_nothing_a_deleted_pod_started_is_left(cluster: Cluster) -> None:
    # The grandchild leaves the container's session, so only the pod's network still tells whose it is.
    script = "import os, subprocess; subprocess.Popen(['sleep', '987654'], start_new_session=True); os.wait()"
    cluster.create_pod("parent", container(["python", "-c", script]))
    wait_for("the grandchild", lambda: _running("987654"))

    cluster.core.delete_namespaced_pod("parent", cluster.namespace)

    wait_for("the pod to go", lambda: not cluster.core.list_namespaced_pod(cluster.namespace).items)
    assert not _running("987654")


def test_a_read_only_root_leaves_only_volumes_writable(cluster: Cluster, bed: Testbed) -> None:
    script = "touch /tmp/inside && ! touch /etc/outside && ! touch /run/outside"
    pod = cluster.create_pod(
        "frozen",
        container(
            ["sh", "-c", script],
            securityContext={"readOnlyRootFilesystem": True},
            volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}],
        ),
        volumes=[{"name": "tmp", "emptyDir": {}}],
        restartPolicy="Never",
    )

    assert cluster.wait_ended("frozen").exit_code == 0, bed.pod_log(pod)


@pytest.mark.parametrize("hidden", [REPOSITORY.parent, Path(sys.base_prefix).parent, Path("/tmp")], ids=str)
def test_a_volume_hides_neither_python_nor_its_packages_nor_the_code(
    cluster: Cluster, bed: Testbed, hidden: Path
) -> None:
    pod = cluster.create_pod(
        "frozen",
        container(
            ["python", "-c", "import kubernetes, mlflow_istio, tests.testbed; print('all there')"],
            securityContext={"readOnlyRootFilesystem": True},
            volumeMounts=[{"name": "over", "mountPath": str(hidden)}],
        ),
        volumes=[{"name": "over", "emptyDir": {}}],
        restartPolicy="Never",
    )

    assert cluster.wait_ended("frozen").exit_code == 0, bed.pod_log(pod)
    assert bed.pod_log(pod) == "all there"


def test_a_pod_is_known_to_the_api_server_as_its_service_account(cluster: Cluster) -> None:
    script = (
        "from kubernetes import client, config; config.load_incluster_config();"
        "print(client.AuthenticationV1Api().create_self_subject_review({}).status.user_info.username)"
    )
    cluster.create_pod("inside", container(["python", "-c", script]), restartPolicy="Never")

    assert cluster.wait_ended("inside").exit_code == 0

    log = cluster.core.read_namespaced_pod_log("inside", cluster.namespace)
    assert log == f"system:serviceaccount:{cluster.namespace}:default"


def test_a_pod_reaches_what_the_command_serves_on_the_bridge(cluster: Cluster, bed: Testbed) -> None:
    with _listening() as port:
        script = f"import urllib.request as u; print(u.urlopen('http://10.244.0.1:{port}').read().decode())"
        pod = cluster.create_pod("asks", container(["python", "-c", script]), restartPolicy="Never")
        assert cluster.wait_ended("asks").exit_code == 0, bed.pod_log(pod)

    assert bed.pod_log(pod) == "from the command"


def test_a_container_without_a_command_says_that_there_are_no_images(cluster: Cluster) -> None:
    cluster.create_pod("bare", {"name": "main", "image": "any"})

    waiting = wait_for("the container to wait", lambda: _waiting(cluster, "bare", "CreateContainerConfigError"))

    assert "names no command; the testbed has no images" in waiting.message


def _waiting(cluster: Cluster, name: str, reason: str) -> Any:
    state = cluster.state(name)
    return state.waiting if state and state.waiting and state.waiting.reason == reason else None


def _running(argument: str) -> list[str]:
    """The pids of the processes that have this argument."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if argument.encode() in arguments:
                found.append(entry.name)
    return found


@contextmanager
def _listening() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the command")

        def log_message(self, format: str, *args: object) -> None:
            """Keeps pytest's output clean."""

    with HTTPServer(("0.0.0.0", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield httpd.server_port
        httpd.shutdown()
        thread.join()
