"""What somebody else runs becomes a deployment: it is looked at, written down, and led to. Nothing of it is ever written."""

from __future__ import annotations

from dataclasses import fields
from urllib.parse import urlsplit

from mlflow_istio.calls.loopback import is_listening
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import DEPLOYMENT_LABEL, Object, labels_of, name_of
from mlflow_istio.core.mesh.attached import (
    Attachment,
    Target,
    address_attached,
    as_attached,
    attachment_in,
    attachment_of,
    check_free,
    not_ready,
    selector_of,
    workloads_behind,
)
from mlflow_istio.errors import NotFound, NotReady, StateConflict
from mlflow_istio.releases.context import Context


def look_at(context: Context, target: Target, name: str, port: int | None) -> Attachment:
    """What is to be attached as it is now.

    Args:
        context: The ports.
        target: What was said.
        name: The deployment that it becomes.
        port: The port that was said.

    Raises:
        NotFound: It is not there; names the nearest.
        StateConflict: It is ours, or attached already.
        InvalidInput: Which pods it has, or their port, can't be told.
    """
    there = context.cluster.list("Deployment", {})
    if not target.kind:
        attachment = address_attached(target)
        _check_nobodys_endpoint(context, attachment)
    else:
        obj = context.cluster.get(target.kind, target.name)
        if obj is None:
            known = [
                name_of(obj) for obj in context.cluster.list(target.kind, {}) if DEPLOYMENT_LABEL not in labels_of(obj)
            ]
            raise NotFound(
                f"there is no {target.kind} '{target.name}' to attach in {context.cluster.scope}: {nearest(target.name, known)}"
            )
        workloads = [obj] if target.kind == "Deployment" else there
        attachment = attachment_of(target, obj, workloads_behind(selector_of(obj, target), workloads), port)
    check_free(attachment, name, there)
    return attachment


def _check_nobodys_endpoint(context: Context, attachment: Attachment) -> None:
    """Refuse the address at which an endpoint of this mesh is called: its requests would come back to the proxy without an end.

    Raises:
        StateConflict: Names the endpoint.
    """
    for obj in context.cluster.list("VirtualService", {}):
        try:
            url = context.cluster.address(name_of(obj)).url
        except NotFound:  # one that is reached through another
            continue
        if urlsplit(url).port == int(attachment.port):
            raise StateConflict(
                f"{attachment} can't be attached: it is where VirtualService '{name_of(obj)}' of {context.cluster.scope} is "
                "called, which would send requests in a circle; attach the server itself"
            )


def check_standing(name: str, deployment: Object | None, attachment: Attachment | None) -> None:
    """Refuse to make of a deployment that is there what it is not: it never changes what runs it.

    Raises:
        StateConflict: Says what it is, and what was asked for.
    """
    attachment_there = attachment_in(deployment) if deployment is not None else attachment
    if attachment_there is None and attachment is None:
        return
    if attachment_there is None or attachment is None or _place(attachment_there) != _place(attachment):
        has = f"stands for {attachment_there}" if attachment_there is not None else "runs pods of its own"
        asked = f"would stand for {attachment}" if attachment is not None else "would run pods of its own"
        raise StateConflict(
            f"deployment '{name}' {has} and {asked}: a deployment never changes what runs it: use another name"
        )


def check_ready(standing: Object, attachment: Attachment, workloads: list[Object]) -> None:
    """Refuse what has nobody to answer.

    Raises:
        NotReady: Says how many of its pods are ready.
    """
    if not attachment.kind and not is_listening(int(attachment.port)):
        raise NotReady(f"nobody listens at {attachment}: nothing was attached; start the server first")
    why = not_ready(as_attached(standing, workloads))
    if why:
        raise NotReady(f"{why}: nothing was attached; its owner has to bring it up first")


def _place(attachment: Attachment) -> tuple[object, ...]:
    """What an attachment is, whatever its owner has made of it since."""
    return tuple(
        getattr(attachment, field.name) for field in fields(attachment) if field.name in ("kind", "name", "port")
    )
