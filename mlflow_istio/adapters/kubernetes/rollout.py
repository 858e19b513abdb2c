"""Is the current revision of a Deployment up, and if not, what keeps it from coming up. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_istio.core.basics.objects import Object, annotations_of, labels_of, name_of, wanted_replicas
from mlflow_istio.core.mesh.pods import sidecars_in

_REVISION = "deployment.kubernetes.io/revision"
_HASH = "pod-template-hash"
_HOPELESS = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Reasons for which a container waits that do not end by waiting (kubelet's container states)."""

_STUBBORN = frozenset({"ErrImagePull", "RegistryUnavailable"})
"""Those that may pass, but rarely do: the kubelet says them at once, and ``ImagePullBackOff`` only when it has tried again."""


_OUT_OF_MEMORY = "OOMKilled"
"""Why a container ended. It is started again, and mostly ends likewise; ``CrashLoopBackOff`` comes only after the second time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What keeps a Deployment from becoming ready.

    Attributes:
        reason: In one word, as Kubernetes has it, such as ``ImagePullBackOff``.
        message: Kubernetes' own words.
        pod: Which pod, if it is about one.
        container: Which container of it, if that has run and so has a log.
        hopeless: Whether waiting longer is of no use.
        refused: Whether something is refused that is tried again and again: pods (a quota, a policy, no account), an image, memory.
        unplaced: Whether no node takes the pod so far; one may get free, or be added.
    """

    reason: str
    message: str = ""
    pod: str = ""
    container: str = ""
    hopeless: bool = False
    refused: bool = False
    unplaced: bool = False

    def __str__(self) -> str:
        where = f"pod '{self.pod}': " if self.pod else ""
        return where + self.reason + (f": {self.message}" if self.message else "")


def is_observed(deployment: Mapping[str, Any]) -> bool:
    """Whether the status is about the Deployment as it is now; before that, it tells of an older revision."""
    observed = int(deployment.get("status", {}).get("observedGeneration", 0))
    return observed >= int(deployment["metadata"].get("generation", 1))


def is_up(deployment: Mapping[str, Any]) -> bool:
    """Whether all desired replicas are of the current revision and ready, and none of an older one is left."""
    status = deployment.get("status", {})
    replicas = wanted_replicas(deployment)
    return int(status.get("observedGeneration", 0)) >= int(
        deployment["metadata"].get("generation", 1)
    ) and replicas == int(status.get("updatedReplicas") or 0) == int(status.get("replicas") or 0) == int(
        status.get("readyReplicas") or 0
    )


def current_pods(deployment: Mapping[str, Any], replica_sets: Sequence[Object], pods: Sequence[Object]) -> list[Object]:
    """The pods of a Deployment's current revision that are there to stay."""
    uid, revision = deployment["metadata"]["uid"], annotations_of(deployment).get(_REVISION)
    hashes = {
        labels_of(replica_set).get(_HASH)
        for replica_set in replica_sets
        if annotations_of(replica_set).get(_REVISION) == revision
        and any(owner.get("uid") == uid for owner in replica_set["metadata"].get("ownerReferences") or ())
    }
    return [pod for pod in pods if labels_of(pod).get(_HASH) in hashes and "deletionTimestamp" not in pod["metadata"]]


def ready_ones(pods: Sequence[Object]) -> int:
    """How many of the pods are ready."""
    conditions = (pod.get("status", {}).get("conditions") or () for pod in pods)
    return sum(
        any(condition["type"] == "Ready" and condition["status"] == "True" for condition in of_pod)
        for of_pod in conditions
    )


def troubles(deployment: Mapping[str, Any], pods: Sequence[Object]) -> list[Trouble]:
    """What stands in the way of the current revision, the hopeless first."""
    if not is_observed(deployment):
        return []
    problems = [*_of_deployment(deployment), *(trouble for pod in pods for trouble in _of_pod(pod))]
    return sorted(problems, key=lambda trouble: not (trouble.hopeless or trouble.refused))


def _of_deployment(deployment: Mapping[str, Any]) -> Iterator[Trouble]:
    for condition in deployment.get("status", {}).get("conditions") or ():
        refused = condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        overdue = condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded"
        if refused or overdue:
            yield Trouble(
                reason=str(condition.get("reason", condition["type"])),
                message=str(condition.get("message", "")),
                hopeless=overdue,
                refused=refused,
            )


def _of_pod(pod: Mapping[str, Any]) -> Iterator[Trouble]:
    status, name = pod.get("status", {}), name_of(pod)
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Trouble(
                reason=str(condition.get("reason", "Unschedulable")),
                message=str(condition.get("message", "")),
                pod=name,
                unplaced=True,
            )
    sidecars = {sidecar["name"] for sidecar in sidecars_in(pod.get("spec") or {})}
    inits, others = status.get("initContainerStatuses") or (), status.get("containerStatuses") or ()
    first = [container for container in inits if container["name"] not in sidecars]
    beside = [container for container in inits if container["name"] in sidecars]  # they go on while the others start
    for container in (*first, *others, *beside):
        waiting = container.get("state", {}).get("waiting") or {}
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
        container_name = str(container["name"])
        if ended.get("reason") == _OUT_OF_MEMORY and not container.get("ready"):
            yield Trouble(
                reason=_OUT_OF_MEMORY,
                message=_out_of_memory(pod, container_name),
                pod=name,
                container=container_name,
                refused=True,
            )
        elif waiting.get("reason") in _HOPELESS | _STUBBORN:
            yield Trouble(
                reason=waiting["reason"],
                message=str(waiting.get("message", "")),
                pod=name,
                container=container_name if ended else "",
                hopeless=waiting["reason"] in _HOPELESS,
                refused=waiting["reason"] in _STUBBORN,
            )
        elif ended and ended.get("exitCode") and not container.get("ready"):
            code = ended.get("exitCode")
            yield Trouble(
                reason=str(ended.get("reason", "Error")),
                message=f"ended with exit code {code}",
                pod=name,
                container=container_name,
            )
        elif not container.get("ready") and container.get("state", {}).get("running"):
            waits = container in first
            yield Trouble(
                reason="Initializing" if waits else "NotReady",
                message=f"container '{container_name}' runs, and the model server waits for its end"
                if waits
                else "it runs, but its readiness probe does not pass yet",
                pod=name,
                container=container_name,
            )


def _out_of_memory(pod: Mapping[str, Any], container: str) -> str:
    """Kubernetes only says that it was killed; the limit is in the pod's own words."""
    containers = [entry for part in ("initContainers", "containers") for entry in pod.get("spec", {}).get(part) or ()]
    limits = next(
        (entry.get("resources", {}).get("limits") or {} for entry in containers if entry["name"] == container), {}
    )
    limit = f"its limit of {limits['memory']}" if "memory" in limits else "what the node has"
    return f"container '{container}' needs more memory than {limit}: give it more (resources)"


def pod_selector(deployment: Mapping[str, Any]) -> str:
    """The label selector of a Deployment's pods and ReplicaSets."""
    labels = deployment["spec"]["selector"].get("matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in labels.items())
