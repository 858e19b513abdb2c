"""What a kubelet's container states say of a deployment that does not come up."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.adapters.kubernetes.rollout import Trouble, troubles

DEPLOYMENT = {"metadata": {"name": "m-v2", "generation": 1}, "status": {"observedGeneration": 1}}


def trouble(**status: Any) -> Trouble:
    """The one trouble of a pod whose container has this status."""
    statuses = [{"name": "model-server", "ready": False, **status}]
    pod = {"metadata": {"name": "m-v2-x"}, "status": {"containerStatuses": statuses}}
    (found,) = troubles(DEPLOYMENT, [pod])
    return found


def test_a_failed_pull_is_told_by_the_kubelets_first_word_yet_given_a_moment() -> None:
    """ImagePullBackOff comes only after another pull, and a registry that can't be reached takes half a minute to say so."""
    found = trouble(state={"waiting": {"reason": "ErrImagePull", "message": "not found"}})
    assert (found.reason, found.message, found.refused, found.hopeless) == ("ErrImagePull", "not found", True, False)


@pytest.mark.parametrize(
    "reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"]
)
def test_a_container_that_never_ran_has_no_log_to_ask_for(reason: str) -> None:
    assert trouble(state={"waiting": {"reason": reason}}).container == ""


def found_beside(recorder: Any, server: Any, *inits: Any) -> list[tuple[str, str]]:
    """The troubles of a pod with a recorder beside its model server, as reason and container."""
    spec = {"initContainers": [{"name": "download"}, {"name": "recorder", "restartPolicy": "Always"}]}
    statuses = {
        "initContainerStatuses": [*inits, {"name": "recorder", **recorder}],
        "containerStatuses": [{"name": "model-server", "ready": False, **server}],
    }
    pod = {"metadata": {"name": "m-v2-x"}, "spec": spec, "status": statuses}
    return [(found.reason, found.container) for found in troubles(DEPLOYMENT, [pod])]


RUNS: Any = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
WAITS: Any = {"state": {"waiting": {"reason": "PodInitializing"}}}


def test_of_a_pod_with_a_sidecar_the_model_server_is_told_of_first() -> None:
    assert found_beside({"ready": False, "state": RUNS}, {"state": RUNS}) == [
        ("NotReady", "model-server"),
        ("NotReady", "recorder"),
    ]
    assert found_beside({"ready": True, "state": RUNS}, {"state": RUNS}) == [("NotReady", "model-server")]


def test_a_sidecar_that_crashes_or_is_killed_is_what_keeps_its_pod_from_coming_up() -> None:
    crashed = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 2}}}
    assert found_beside({"ready": False, **crashed}, {"state": RUNS})[0] == ("CrashLoopBackOff", "recorder")
    pull = {"ready": False, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    assert found_beside(pull, WAITS) == [("ImagePullBackOff", "")]
    killed = {"ready": False, "state": RUNS, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    assert ("OOMKilled", "recorder") in found_beside(killed, {"state": RUNS})


def test_a_download_that_goes_on_is_no_server_that_is_not_ready() -> None:
    download = {"name": "download", "ready": False, "state": RUNS}
    assert found_beside({"ready": False, **WAITS}, WAITS, download) == [("Initializing", "download")]


@pytest.mark.parametrize(
    "state", [{"running": {}}, {"waiting": {"reason": "CrashLoopBackOff"}}], ids=["started again", "given up on"]
)
def test_a_server_that_ran_out_of_memory_is_told_so_and_given_a_moment(state: Any) -> None:
    """Kubernetes starts it again at once, and says CrashLoopBackOff, which tells nobody why, when it has ended twice."""
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    container = {"name": "model-server", "resources": {"limits": {"memory": "64Mi"}}}
    status = {"name": "model-server", "ready": False, "state": state, "lastState": {"terminated": ended}}
    pod = {
        "metadata": {"name": "m-v2-x"},
        "spec": {"containers": [container]},
        "status": {"containerStatuses": [status]},
    }
    (found,) = troubles(DEPLOYMENT, [pod])
    assert (found.reason, found.container, found.refused) == ("OOMKilled", "model-server", True)
    assert (
        found.message == "container 'model-server' needs more memory than its limit of 64Mi: give it more (resources)"
    )


def test_a_container_that_crashed_has_a_log() -> None:
    found = trouble(
        state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"exitCode": 1, "reason": "Error"}}
    )
    assert (found.reason, found.container, found.hopeless) == ("CrashLoopBackOff", "model-server", True)
