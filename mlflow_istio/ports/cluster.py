"""What runs deployments and routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.probe import Probe

Edit: TypeAlias = Callable[[Object | None], Object]
"""A pure function from the object as it is (None when absent) to the object as it should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """How a caller reaches an endpoint.

    Attributes:
        url: Base URL; scoring is ``POST {url}{scoring}``.
        headers: Headers to send with every request (on the local mesh none but those that an endpoint's own match asks for).
        scoring: Path of scoring below the URL: that of the model server, but where an adopted route takes exact paths.
        body: What it takes, in the words of ``core.runtime``.
        protocol: What is spoken there, likewise.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    scoring: str = "/invocations"
    body: str = "mlflow"
    protocol: str = "http"


@runtime_checkable
class Cluster(Protocol):
    """What runs deployments and routes: real Kubernetes with Istio, or the local mesh.

    Objects are raw dicts of the kinds ``Deployment``, ``Service``, ``DestinationRule`` and ``VirtualService``.
    Nothing handed in is changed, nothing handed out is shared.
    """

    @property
    def scope(self) -> str:
        """Where this is, for the registry's names: the namespace, or ``local-MESH``."""

    @property
    def place(self) -> str:
        """Identity of where this is, made once: the namespace's uid, or the mesh's; empty where we may not read it.

        Two places may have one scope, such as equal namespaces of two clusters; the registry tells them apart by this.
        """

    def get(self, kind: str, name: str) -> Object | None:
        """The object, or None when there is none.

        A Deployment carries a current ``status.replicas`` and ``status.readyReplicas``.

        Raises:
            ClusterError: The cluster can't be reached or refuses.
        """

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        """The objects of a kind that carry all the labels, ordered by name.

        Kinds of autoscalers (``core.mesh.autoscalers``) are listed too, and nothing else is done with them; a cluster that doesn't
        know a kind has none of it. Where one object can't be read, ``core.basics.objects.stand_in`` stands for it; such have no
        labels.

        Raises:
            Forbidden: We may not list them.
        """

    def apply(self, obj: Object) -> Object:
        """Create the object or set the fields that we own, and return it as stored.

        Applying the same object twice changes nothing the second time.

        Raises:
            Unsupported: A field that this cluster can't carry out; nothing was applied.
            ClusterError: The cluster refused (a webhook's words in ``detail``); nothing was applied.
        """

    def edit(self, kind: str, name: str, change: Edit) -> tuple[Object | None, Object]:
        """Read, apply a pure function, and write under optimistic concurrency; reread and reapply on conflict.

        When ``change`` returns an object equal to what it got, nothing is written.

        Args:
            kind: The object's kind.
            name: The object's name.
            change: Gets the object as it is, or None when it is absent (what it returns is then created).
                An exception it raises passes through, with nothing written.

        Returns:
            The object before (None if it was created) and after, as stored.

        Raises:
            EditConflict: Others kept changing it until the retries ran out.
            Unsupported: As for ``apply``; nothing was written.
            ClusterError: The cluster refused; nothing was written.
        """

    def delete(self, kind: str, name: str) -> bool:
        """Delete the object; False when there was none. Deleting a Deployment ends its processes."""

    def wait_ready(self, deployment: str, timeout: float) -> None:
        """Block until all desired replicas of a Deployment's current revision are ready.

        Args:
            deployment: Name of the Deployment.
            timeout: Seconds.

        Raises:
            NotReady: It did not come up; ``detail`` has the last log lines. Zero desired replicas are never ready.
            NotFound: There is no such Deployment.
        """

    def wait_routed(self, probe: Probe, timeout: float) -> Sequence[str]:
        """Ask every reachable proxy until it gives the answer that proves the probe.

        Returns:
            The proxies that proved it; empty when this cluster has no proxy we can reach (which proves nothing).

        Raises:
            NotRouted: A reachable proxy did not give the answer in time.
        """

    def address(self, virtual_service: str) -> Address:
        """How to reach the hosts of a VirtualService; ``releases.context.address_of`` knows how to reach an endpoint.

        Raises:
            NotFound: There is none of that name.
        """
