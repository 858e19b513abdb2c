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


def test_a_container_that_crashed_has_a_log() -> None:
    found = trouble(
        state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"exitCode": 1, "reason": "Error"}}
    )
    assert (found.reason, found.container, found.hopeless) == ("CrashLoopBackOff", "model-server", True)
