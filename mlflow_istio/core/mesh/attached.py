"""What somebody else runs, as a deployment of an endpoint: what of it is written down, and the objects of ours that lead to it.

Nothing of it is ever written. A Deployment of ours without replicas stands for it (``standing_in``), so that whatever asks for the
endpoint's deployments finds it; a Service of ours selects its pods, and a DestinationRule of ours has its subset there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.basics.names import check_endpoint_name, nearest
from mlflow_istio.core.basics.objects import (
    API_VERSIONS,
    DEPLOYMENT_LABEL,
    DOMAIN,
    ENDPOINT_LABEL,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    Object,
    annotations_of,
    labels_of,
    name_of,
    ready_replicas,
    wanted_replicas,
)
from mlflow_istio.core.basics.stored import compact, form, from_json, parsed, stored, to_json
from mlflow_istio.core.endpoint.traffic import attached_host
from mlflow_istio.core.mesh.manifests import (
    FLAVOR_ANNOTATION,
    RUNTIME_ANNOTATION,
    STREAMS_ANNOTATION,
    VERSION_ANNOTATION,
)
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput, StateConflict

ATTACHED_ANNOTATION = f"{DOMAIN}/attached"
"""Of a Deployment that stands for what somebody else runs: what that is."""

KINDS: Mapping[str, str] = {"deployment": "Deployment", "service": "Service", "inferenceservice": "Service"}
"""Words of ``attach`` to the kind of the object that is read."""

PREDICTOR = "-predictor"
"""How KServe's Standard mode ends the names of a predictor's Deployment and Service (``constants.PredictorServiceName``, 0.20)."""

KSERVE_LABEL = "serving.kserve.io/inferenceservice"
"""Of KServe's Deployments: the InferenceService (``constants.InferenceServicePodLabelKey``)."""
_KSERVE_PART = ("component", "predictor")

_ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):(?P<port>[0-9]{1,5})/?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_RESTARTED = "restartedAt"
"""How annotations of a pod template end that only say that its pods were started again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is to be attached, as it was said.

    Attributes:
        kind: ``Deployment``, ``Service``, or empty for an address on this machine.
        name: The object's name.
        port: The port of an address, else 0.
        reference: The words that name it.
    """

    kind: str
    name: str
    reference: str
    port: int = 0

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'" if self.kind else self.reference


@form(sparse=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """What somebody else runs, as it was when it was attached.

    Attributes:
        reference: The words that named it: ``deployment/NAME``, ``service/NAME``, ``inferenceservice/NAME`` or an address.
        kind: Kind of the object; empty for an address.
        name: Its name.
        selector: Labels of its pods; none for an address.
        port: Port at which the pods listen, a number or a container port's name.
        workloads: The Deployments whose pods those were.
        template: What their pods were made of, as a digest; empty for an address.
        images: Their images.
    """

    reference: str = field(metadata=stored(name="said"))
    kind: str = ""
    name: str = ""
    selector: Mapping[str, str] = field(default_factory=dict)
    port: str = ""
    workloads: tuple[str, ...] = ()
    template: str = ""
    images: tuple[str, ...] = ()

    @property
    def target_port(self) -> int | str:
        """The port as a Service names it."""
        return int(self.port) if self.port.isdigit() else self.port

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'" if self.kind else self.reference


def parse_attach(text: str) -> Target:
    """What ``attach`` names.

    Raises:
        InvalidInput: It names nothing that can be attached.
    """
    address = _ADDRESS.fullmatch(text)
    if address is not None and 1 <= int(address["port"]) <= 65535:
        return Target(kind="", name="", port=int(address["port"]), reference=text.rstrip("/"))
    word, slash, name = text.partition("/")
    if word in KINDS and slash and _NAME.fullmatch(name):
        return Target(kind=KINDS[word], name=name + (PREDICTOR if word == "inferenceservice" else ""), reference=text)
    words = ", ".join(f"{kind}/NAME" for kind in KINDS)
    hint = f" ({nearest(word.lower(), KINDS)})" if slash and word not in KINDS and "://" not in text else ""
    raise InvalidInput(f"it must be {words}, or http://127.0.0.1:PORT on a laptop{hint}")


def selector_of(obj: Mapping[str, Any], target: Target) -> dict[str, str]:
    """The labels by which a Service can select the pods of a Deployment, or those that a Service selects.

    Raises:
        InvalidInput: It selects in a way that no Service of ours can.
    """
    spec = obj.get("spec") or {}
    if target.kind == "Service":
        if spec.get("type") == "ExternalName":
            raise InvalidInput(
                f"{target} is of type ExternalName, behind which no pods are known (KServe's Knative mode makes such ones): adopt "
                "a route to it with 'mlflow-istio adopt'"
            )
        if not spec.get("selector"):
            raise InvalidInput(
                f"{target} has no selector, so nobody can say which pods are behind it: attach the Deployment, or adopt a route to "
                "it with 'mlflow-istio adopt'"
            )
        return dict(spec["selector"])
    selector = spec.get("selector") or {}
    if selector.get("matchExpressions"):
        raise InvalidInput(
            f"{target} selects its pods by matchExpressions, which no Service can: attach a Service of its pods (service/NAME)"
        )
    return dict(selector.get("matchLabels") or {})


def workloads_behind(selector: Mapping[str, str], deployments: Iterable[Object]) -> list[Object]:
    """The Deployments whose pods have these labels; none of those that stand for others."""
    return [
        obj
        for obj in deployments
        if selector and ATTACHED_ANNOTATION not in annotations_of(obj) and selector.items() <= _pod_labels(obj).items()
    ]


def attachment_of(target: Target, obj: Mapping[str, Any], workloads: Sequence[Object], port: int | None) -> Attachment:
    """What is written down of what somebody else runs.

    Args:
        target: What was said.
        obj: The Deployment or Service that it names.
        workloads: The Deployments whose pods it has.
        port: The port that was said: of a Service its own, of a Deployment its containers'.

    Raises:
        StateConflict: It is ours.
        InvalidInput: It has no Deployment behind it, or not one port, or not that one.
    """
    for part in (obj, *workloads):
        labels = labels_of(part)
        if ENDPOINT_LABEL in labels:
            what = f"deployment '{labels[DEPLOYMENT_LABEL]}' of " if DEPLOYMENT_LABEL in labels else ""
            raise StateConflict(
                f"{target} can't be attached: it is {what}endpoint '{labels[ENDPOINT_LABEL]}', which is released as it is"
            )
    if not workloads:
        raise InvalidInput(
            f"no Deployment is behind {target}, and only pods of Deployments can be counted: adopt a route to it with "
            "'mlflow-istio adopt'"
        )
    port_of_pods = (
        _services_port(obj, target, port) if target.kind == "Service" else _pods_port(workloads[0], target, port)
    )
    return Attachment(
        reference=target.reference,
        kind=target.kind,
        name=target.name,
        selector=selector_of(obj, target),
        port=str(port_of_pods),
        workloads=tuple(sorted(name_of(workload) for workload in workloads)),
        template=template_digest(workloads),
        images=_images(workloads),
    )


def address_attached(target: Target) -> Attachment:
    """What is written down of a server that listens on this machine."""
    return Attachment(reference=target.reference, port=str(target.port))


def check_free(attachment: Attachment, name: str, others: Iterable[Object]) -> None:
    """Refuse what is a deployment of some endpoint already: one workload has one version, one share and one set of counts.

    Raises:
        StateConflict: Names that deployment.
    """
    for other in others:
        attachment_there = readable_attachment(other)
        if attachment_there is None or name_of(other) == name:
            continue
        same = (
            bool(set(attachment_there.workloads) & set(attachment.workloads))
            or attachment_there.reference == attachment.reference
        )
        if same or (not attachment_there.kind and not attachment.kind and attachment_there.port == attachment.port):
            raise StateConflict(
                f"{attachment} is attached already, as deployment '{name_of(other)}' of endpoint "
                f"'{labels_of(other)[ENDPOINT_LABEL]}': release that one, or delete it first"
            )


def attachment_in(deployment: Mapping[str, Any]) -> Attachment | None:
    """What a Deployment of ours stands for; None where it runs pods of its own.

    Raises:
        InvalidInput: Its annotation was damaged.
    """
    text = annotations_of(deployment).get(ATTACHED_ANNOTATION)
    if text is None:
        return None
    where = f"annotation {ATTACHED_ANNOTATION} of Deployment '{name_of(deployment)}'"
    try:
        return from_json(Attachment, parsed(text, where))
    except InvalidInput as exc:
        raise InvalidInput(f"{where} is damaged ({exc.message}): delete the deployment, and attach it again") from exc


def readable_attachment(deployment: Mapping[str, Any]) -> Attachment | None:
    """What a Deployment of ours stands for; None, too, where its annotation was damaged, which doctor says."""
    try:
        return attachment_in(deployment)
    except InvalidInput:
        return None


def is_attached(deployment: Mapping[str, Any]) -> bool:
    """Whether a Deployment stands for what somebody else runs."""
    return ATTACHED_ANNOTATION in annotations_of(deployment)


def standing_in(
    name: str, endpoint: str, model: ModelVersion, flavor: str, attachment: Attachment, runtime: Runtime
) -> Object:
    """The Deployment of ours that stands for it. It has no replicas, and no label by which a Service would find any.

    Raises:
        InvalidInput: No Service can have the name.
    """
    check_endpoint_name(name)
    annotations = {
        VERSION_ANNOTATION: model.label,
        FLAVOR_ANNOTATION: flavor,
        ATTACHED_ANNOTATION: compact(to_json(attachment)),
    }
    if runtime != MLFLOW:
        annotations[RUNTIME_ANNOTATION] = compact(to_json(runtime))
    if runtime.streams:
        annotations[STREAMS_ANNOTATION] = "true"
    own = {f"{DOMAIN}/stands-for": name}
    container = {"name": "nothing", "image": "runs-elsewhere", "command": ["true"]}
    return {
        "apiVersion": API_VERSIONS["Deployment"],
        "kind": "Deployment",
        "metadata": {"name": name, "labels": _labels(name, endpoint), "annotations": annotations},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": own},
            "template": {"metadata": {"labels": own}, "spec": {"containers": [container]}},
        },
    }


def attached_service(name: str, endpoint: str, attachment: Attachment, protocol: str) -> Object:
    """The Service of ours that leads to it: its pods by their labels, or a port of this machine."""
    port: Object = {"name": protocol, "appProtocol": protocol, "port": 80, "targetPort": attachment.target_port}
    spec: Object = {"selector": dict(attachment.selector), "ports": [port]}
    if not attachment.kind:
        port = {"name": protocol, "appProtocol": protocol, "port": int(attachment.port)}
        spec = {"type": "ExternalName", "externalName": "localhost", "ports": [port]}
    return {
        "apiVersion": API_VERSIONS["Service"],
        "kind": "Service",
        "metadata": {"name": attached_host(name), "labels": _labels(name, endpoint)},
        "spec": spec,
    }


def attached_rule(name: str, endpoint: str, rule: Mapping[str, Any]) -> Object:
    """The DestinationRule of ours for that Service: what the endpoint's own says of all, and of this subset.

    Args:
        name: The deployment.
        endpoint: The endpoint.
        rule: The endpoint's DestinationRule, with the subset.
    """
    spec = rule.get("spec") or {}
    own: Mapping[str, Any] = next((subset for subset in spec.get("subsets") or [] if subset.get("name") == name), {})
    subset = {"name": name, **({"trafficPolicy": own["trafficPolicy"]} if own.get("trafficPolicy") else {})}
    shared = {key: spec[key] for key in ("trafficPolicy", "exportTo") if spec.get(key)}
    return {
        "apiVersion": API_VERSIONS["DestinationRule"],
        "kind": "DestinationRule",
        "metadata": {"name": attached_host(name), "labels": _labels(name, endpoint)},
        "spec": {"host": attached_host(name), **shared, "subsets": [subset]},
    }


def as_attached(standing: Object, workloads: Sequence[Object]) -> Object:
    """The Deployment that stands for it, with the replicas that it has where it runs.

    Args:
        standing: As it is stored.
        workloads: The Deployments whose pods it has now.
    """
    attachment = readable_attachment(standing)
    if attachment is None:
        return standing
    if not attachment.kind:  # whether a process of somebody's listens is seen when it is asked
        return {**standing, "spec": {**standing["spec"], "replicas": 1}, "status": {"replicas": 1, "readyReplicas": 1}}
    wanted = sum(wanted_replicas(workload) for workload in workloads)
    status = {
        "replicas": sum(int((workload.get("status") or {}).get("replicas") or 0) for workload in workloads),
        "readyReplicas": sum(ready_replicas(workload) for workload in workloads),
    }
    return {**standing, "spec": {**standing["spec"], "replicas": wanted}, "status": status}


def without_replicas(deployment: Object) -> Object:
    """A Deployment that stands for others as it is stored, whoever asked how many replicas those have."""
    return {**deployment, "spec": {**deployment["spec"], "replicas": 0}} if is_attached(deployment) else deployment


def not_ready(deployment: Mapping[str, Any]) -> str:
    """Why what is attached can't get requests, in one clause; empty where it can, or is none."""
    attachment = readable_attachment(deployment)
    ready = ready_replicas(deployment)
    if attachment is None or ready:
        return ""
    wanted = wanted_replicas(deployment)
    has = f"{ready} of {wanted} pods ready" if wanted else "no pods: it is gone, or scaled to 0"
    if not wanted and attachment.name.endswith(PREDICTOR):
        has += " (KServe deletes a predictor whose canary it promotes)"
    return f"{attachment}, which '{name_of(deployment)}' stands for, has {has}"


def changed_since(attachment: Attachment, workloads: Sequence[Object]) -> str:
    """What of it its owner has changed since it was attached, so that its version may be another; empty for nothing."""
    if not attachment.kind or not workloads or template_digest(workloads) == attachment.template:
        return ""
    images = _images(workloads)
    if images != attachment.images:
        return f"its images were {', '.join(attachment.images) or 'none'}, and are {', '.join(images) or 'none'}"
    names = tuple(sorted(name_of(workload) for workload in workloads))
    if names != attachment.workloads:
        return f"its pods were those of {', '.join(attachment.workloads)}, and are those of {', '.join(names)}"
    return "its pod template is another"


def other_predictors(workloads: Sequence[Object], deployments: Iterable[Object]) -> tuple[str, tuple[str, ...]]:
    """The InferenceService that KServe runs these pods for, and its other predictors: promoting one of them deletes these.

    (``components/predictor.go`` of KServe 0.20: what is no longer named is deleted, Deployment and Service.)
    """
    services = {labels_of(workload)[KSERVE_LABEL] for workload in workloads if KSERVE_LABEL in labels_of(workload)}
    own = {name_of(workload) for workload in workloads}
    part, predictor = _KSERVE_PART
    others = [
        name_of(deployment)
        for deployment in deployments
        if labels_of(deployment).get(KSERVE_LABEL) in services
        and labels_of(deployment).get(part) == predictor
        and name_of(deployment) not in own
    ]
    return (min(services), tuple(sorted(others))) if services else ("", ())


def template_digest(workloads: Iterable[Object]) -> str:
    """What pods are made of, as a digest; that they were started again is no change."""
    parts = {name_of(workload): _template(workload) for workload in workloads}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _template(deployment: Mapping[str, Any]) -> Object:
    template = deployment["spec"].get("template") or {}
    metadata = template.get("metadata") or {}
    kept = {
        key: value for key, value in (metadata.get("annotations") or {}).items() if not str(key).endswith(_RESTARTED)
    }
    return {"labels": metadata.get("labels") or {}, "annotations": kept, "spec": template.get("spec") or {}}


def _images(workloads: Iterable[Object]) -> tuple[str, ...]:
    images = [str(container.get("image", "")) for obj in workloads for container in _containers(obj)]
    return tuple(dict.fromkeys(images))


def _containers(deployment: Mapping[str, Any]) -> list[Any]:
    return list(((deployment["spec"].get("template") or {}).get("spec") or {}).get("containers") or [])


def _pods_port(deployment: Object, target: Target, port: int | None) -> int:
    ports = [port for container in _containers(deployment) for port in container.get("ports") or []]
    if port is not None:
        return port
    if len(ports) == 1:
        return int(ports[0]["containerPort"])
    has = ", ".join(_named(entry["containerPort"], entry.get("name")) for entry in ports)
    raise InvalidInput(
        f"{target} names {'the ports ' + has if ports else 'no port'} of its containers: say which one is asked with 'port'"
    )


def _services_port(service: Mapping[str, Any], target: Target, port: int | None) -> int | str:
    ports = (service.get("spec") or {}).get("ports") or []
    chosen = [entry for entry in ports if port in (None, entry.get("port"))]
    if len(chosen) != 1:
        has = ", ".join(_named(entry["port"], entry.get("name")) for entry in ports) or "none"
        raise InvalidInput(f"{target} has the ports {has}: say which one of them is asked with 'port'")
    target_port = chosen[0].get("targetPort") or chosen[0]["port"]
    return target_port if isinstance(target_port, str) else int(target_port)


def _named(number: Any, name: Any) -> str:
    return f"{number} ({name})" if name else str(number)


def _labels(name: str, endpoint: str) -> dict[str, str]:
    return {ENDPOINT_LABEL: endpoint, DEPLOYMENT_LABEL: name, MANAGED_BY_LABEL: FIELD_MANAGER}


def _pod_labels(deployment: Mapping[str, Any]) -> dict[str, str]:
    return dict(((deployment["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {})
