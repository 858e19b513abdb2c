"""What leads to an attached workload: a Service and a DestinationRule of ours. Nothing of the workload itself is ever written."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow_istio.core.basics.objects import DEPLOYMENT_LABEL, ENDPOINT_LABEL, Object, labels_of, name_of
from mlflow_istio.core.endpoint.traffic import attached_host
from mlflow_istio.core.mesh.attached import attached_rule, attached_service, attachment_in
from mlflow_istio.core.mesh.manifests import runtime_of_deployment
from mlflow_istio.errors import StateConflict
from mlflow_istio.releases.context import Context, is_ours


def lead_to(context: Context, standing: Object, rule: Object) -> bool:
    """Write what leads to an attached workload, where it is not as it should be; whether it was not.

    Args:
        context: The ports.
        standing: The Deployment that stands for it; nothing is done for another.
        rule: The endpoint's DestinationRule, whose settings hold there, too.

    Raises:
        StateConflict: An object of that name is somebody else's.
    """
    attachment = attachment_in(standing)
    if attachment is None:
        return False
    name, endpoint = name_of(standing), labels_of(standing)[ENDPOINT_LABEL]
    protocol = runtime_of_deployment(standing).protocol
    check_name_free(context, name, endpoint)
    service = context.cluster.get("Service", attached_host(name))
    wanted = attached_service(name, endpoint, attachment, protocol)
    lost = service is None or service["spec"].get("selector") != wanted["spec"].get("selector")
    if lost:
        context.cluster.apply(wanted)
    meant = attached_rule(name, endpoint, rule)

    def as_meant(present: Object | None) -> Object:
        return meant if present is None else {**present, "spec": meant["spec"]}

    before, after = context.cluster.edit("DestinationRule", attached_host(name), as_meant)
    return lost or before != after


def check_name_free(context: Context, name: str, endpoint: str) -> None:
    """Refuse a deployment whose Service or DestinationRule would be one of somebody else's.

    Raises:
        StateConflict: Names the object.
    """
    for kind in ("Service", "DestinationRule"):
        obj = context.cluster.get(kind, attached_host(name))
        if obj is not None and not (is_ours(obj, endpoint) and labels_of(obj).get(DEPLOYMENT_LABEL) == name):
            raise StateConflict(f"{kind} '{attached_host(name)}' exists and is not ours: use another deployment name")


def let_go(context: Context, endpoint: str, names: Iterable[str]) -> bool:
    """Take away what leads to attached workloads, which stay as they are; whether there was any."""
    gone = []
    for name in names:
        for kind in ("DestinationRule", "Service"):
            obj = context.cluster.get(kind, attached_host(name))
            if obj is not None and is_ours(obj, endpoint):
                gone.append(context.cluster.delete(kind, attached_host(name)))
    return any(gone)
