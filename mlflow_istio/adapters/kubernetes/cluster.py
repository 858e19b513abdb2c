"""A Kubernetes cluster with Istio as a ``Cluster``: raw objects in, raw objects out, one writer at a time.

What is handed out has no ``metadata.managedFields`` (who owns which field): half of an object's size, and of no use to anybody
here; the API server keeps them when a write leaves them out.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlflow_istio.adapters.kubernetes import api_calls, failures
from mlflow_istio.adapters.kubernetes.api_calls import Call, Caller
from mlflow_istio.adapters.kubernetes.api_server import ApiServer, open_connection
from mlflow_istio.adapters.kubernetes.exposure import Exposure, exposure_of
from mlflow_istio.adapters.kubernetes.ownership import disown, given_up
from mlflow_istio.adapters.kubernetes.proxies import Proxies
from mlflow_istio.adapters.kubernetes.readiness import await_ready
from mlflow_istio.adapters.kubernetes.resources import (
    DEPLOYMENT,
    DESTINATION_RULE,
    HORIZONTAL_POD_AUTOSCALER,
    NAMESPACE,
    SCALED_OBJECT,
    SERVICE,
    VIRTUAL_SERVICE,
    Resource,
)
from mlflow_istio.adapters.kubernetes.server_version import check_sidecars
from mlflow_istio.core.basics.objects import API_VERSIONS, Object, name_of
from mlflow_istio.core.basics.target import Target
from mlflow_istio.errors import (
    ClusterError,
    EditConflict,
    Forbidden,
    InvalidInput,
    MlflowIstioError,
    NotFound,
    NotRouted,
)
from mlflow_istio.ports.cluster import Address, Edit

if TYPE_CHECKING:
    from mlflow_istio.core.matching.probe import Probe

_RESOURCES: Mapping[str, Resource] = {
    resource.kind: resource for resource in (DEPLOYMENT, SERVICE, DESTINATION_RULE, VIRTUAL_SERVICE)
}
_LISTED: Mapping[str, Resource] = {resource.kind: resource for resource in (HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT)}
"""Kinds that are the users' own, and listed only; a cluster without KEDA doesn't know its kind."""
_REMEMBERED = ("VirtualService", "DestinationRule")
"""Kinds whose objects nobody but a person or we write; a Deployment's status changes all the time."""
_CERTAIN = 3
"""Server-side apply answers an unknown field with a bare 500; the same words so many times are no passing trouble."""
_IN_A_ROW = 5
"""Answers that must prove a change where several proxies are behind an address: one of two that is late is missed once in 32."""
_GONE_SECONDS = 60.0
_POLL = 0.1


def connect(target: Target, gateway: str | None = None, gateway_url: str | None = None) -> KubernetesCluster:
    """The cluster of a target. Asks it nothing yet.

    Args:
        target: Context and namespace; what it leaves open comes from the kubeconfig, or from the pod we run in.
        gateway: NAMESPACE/NAME of the Istio Gateway, for endpoints that name none themselves.
        gateway_url: Where that gateway can be reached from here, if it can't be found out.

    Raises:
        ClusterError: There is no usable kubeconfig and no in-cluster account.
        InvalidInput: The kubeconfig has no such context.
    """
    return KubernetesCluster(open_connection(target), gateway=gateway, gateway_url=gateway_url)


class KubernetesCluster:
    """One namespace of a Kubernetes cluster with Istio; implements ``ports.Cluster``.

    Args:
        connection: The API server and who we are there.
        gateway: NAMESPACE/NAME of the Istio Gateway.
        gateway_url: Where it can be reached from here.
        patience: Seconds for which what passes by itself is tried again.
    """

    def __init__(
        self,
        connection: ApiServer,
        *,
        gateway: str | None = None,
        gateway_url: str | None = None,
        patience: float = api_calls.PATIENCE,
    ) -> None:
        self._namespace = connection.namespace
        self._caller = Caller(connection, patience)
        self._proxies = Proxies(self._caller, gateway, gateway_url)
        self._exposures: dict[str, Exposure] = {}
        self._seen: dict[tuple[str, str], Object] = {}
        self._namespace_seen = False
        self.warn: Callable[[str], None] = lambda _line: None
        """Called with one line when pods wait for a node."""

    @property
    def scope(self) -> str:
        """The namespace."""
        return self._namespace

    def close(self) -> None:
        """Close its sockets."""
        self._caller.connection.close()

    def get(self, kind: str, name: str) -> Object | None:
        """See ``ports.Cluster``."""
        obj = self._caller.ask(self._call("get", kind, name))
        if obj is None:
            self._exposures.pop(name, None)
            self._check_namespace()
            return None
        return self._remembered(kind, self._handed_out(kind, obj))

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        """See ``ports.Cluster``. One call, however many there are."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        query = {"label_selector": selector} if selector else {}
        if kind in _LISTED:
            return [*self._listed(_LISTED[kind], query)]
        listed = self._caller.ask(self._call("list", kind, query=query))
        if not listed["items"]:
            self._check_namespace()
        return sorted((self._handed_out(kind, obj) for obj in listed["items"]), key=name_of)

    def _listed(self, resource: Resource, query: Mapping[str, Any]) -> Sequence[Object]:
        """Objects of a kind that this cluster may not know."""
        try:
            listed = self._caller.ask(Call(verb="list", resource=resource, namespace=self._namespace, query=query))
        except NotFound:
            return []
        kind, version = resource.kind, f"{resource.group}/{resource.version}"
        objects = [{"apiVersion": version, "kind": kind, **obj} for obj in (listed or {}).get("items") or []]
        return sorted(objects, key=name_of)

    def apply(self, obj: Object) -> Object:
        """See ``ports.Cluster``. Server-side apply: fields of other managers stay, ours that are not given any more go."""
        wanted = self._placed(obj)
        kind, name = str(wanted["kind"]), name_of(wanted)
        if kind == "Deployment":
            check_sidecars(self._caller, wanted)
        call = self._call("patch", kind, name, body=wanted)
        unreadable: list[str] = []

        def attempt() -> Object:
            try:
                return dict(self._caller.send(call))
            except failures.FOREIGN as exc:
                unreadable.append(failures.words_without_reason(exc))
                if unreadable[-1] and unreadable.count(unreadable[-1]) == _CERTAIN:
                    raise ClusterError(
                        f"{kind} '{name}' was not applied: the cluster can't read it", detail=unreadable[-1]
                    ) from exc
                raise

        try:
            stored = self._caller.insist(attempt, conflicts=True)
            if "deletionTimestamp" in stored["metadata"]:
                self._await_gone(kind, name)
                stored = self._caller.insist(attempt, conflicts=True)
        except failures.FOREIGN as exc:
            raise self._caller.explained(exc, call) from exc
        return self._handed_out(kind, stored)

    def edit(self, kind: str, name: str, change: Edit) -> tuple[Object | None, Object]:
        """See ``ports.Cluster``.

        Where this cluster has read the object before, ``change`` is tried on what was read, which saves a round trip: the write
        carries that object's version, so it is done only where nobody has written since. Anything but a write, an error of
        ``change`` too, counts only on an object that is read anew.

        A write whose answer was lost is looked up, not repeated blindly: when ``change`` finds nothing left to do then, the pair
        begins with the object as it was before that write.
        """
        unanswered: list[Object | None] = []
        calls_made: list[Call] = []

        def attempt() -> tuple[Object | None, Object]:
            before, after = self._evaluated(kind, name, change, calls_made)
            if before is not None and after == before:
                return (unanswered[0] if unanswered else before), before
            wanted = self._placed(after)
            if (str(wanted["kind"]), name_of(wanted)) != (kind, name):
                raise InvalidInput(f"an edit of {kind} '{name}' must not make it {wanted['kind']} '{name_of(wanted)}'")
            verb, named = ("create", "") if before is None else ("update", name)
            calls_made.append(self._call(verb, kind, named, body=wanted))
            try:
                stored = self._caller.send(calls_made[-1])
            except failures.FOREIGN as exc:
                if before is not None and failures.is_absent(exc, calls_made[-1].resource.plural):
                    return attempt()  # deleted since it was read
                if failures.is_unanswered(exc):
                    unanswered.append(before)
                raise
            return before, self._remembered(kind, self._handed_out(kind, stored))

        try:
            before, after = self._caller.insist(attempt, conflicts=True)
        except failures.FOREIGN as exc:
            return self._settled(exc, calls_made[-1], name, change, unanswered)
        if given_up(before, after):
            try:
                disown(self._caller, self._call, kind, name)
            except failures.FOREIGN as exc:
                raise self._caller.explained(exc, self._call("update", kind, name)) from exc
        return before, after

    def delete(self, kind: str, name: str) -> bool:
        """See ``ports.Cluster``. Returns once the object is gone; a Deployment's pods then end in their own grace period."""
        self._exposures.pop(name, None)
        call = self._call("delete", kind, name, query={"body": {"propagationPolicy": "Background"}})
        unanswered: list[bool] = []

        def attempt() -> bool:
            try:
                self._caller.send(call)
            except failures.FOREIGN as exc:
                if failures.is_absent(exc, call.resource.plural):
                    return bool(unanswered)
                if failures.is_unanswered(exc):
                    unanswered.append(True)
                raise
            return True

        try:
            done = self._caller.insist(attempt, conflicts=True)
        except failures.FOREIGN as exc:
            raise self._caller.explained(exc, call) from exc
        if done:
            self._await_gone(kind, name)
        return done

    def wait_ready(self, deployment: str, timeout: float) -> None:
        """See ``ports.Cluster``."""
        try:
            await_ready(self._caller, deployment, timeout, self.warn)
        except NotFound:
            self._check_namespace()
            raise

    def wait_routed(self, probe: Probe, timeout: float) -> Sequence[str]:
        """See ``ports.Cluster``. Asks every gateway where the probe gets in, as far as we reach it, and our own sidecar."""
        from mlflow_istio.calls.probing import confirm  # it needs requests

        deadline = time.monotonic() + timeout
        proved = []
        exposure = self._exposure(probe.virtual_service)
        for proxy in self._proxies.reachable(exposure.at(probe.gateways)):
            if not probe.gets_in(proxy.scheme, proxy.port):
                continue
            left = max(0.1, deadline - time.monotonic())
            try:
                confirm(
                    probe,
                    url=proxy.address.url,
                    headers=proxy.address.headers,
                    timeout=left,
                    in_a_row=_IN_A_ROW if proxy.several and probe.answered_by_proxy else 1,
                )
            except NotRouted as exc:
                raise NotRouted(f"{proxy.name}: {exc.message}", detail=exc.detail) from exc
            proved.append(proxy.name)
        return proved

    def address(self, virtual_service: str) -> Address:
        """See ``ports.Cluster``. Through the gateway; without one, the address inside the mesh."""
        return self._proxies.address(self._exposure(virtual_service))

    def check_gateway(self, gateway: str) -> None:
        """Refuse a gateway that does not exist, before anything is applied.

        Raises:
            NotFound: There is none; names those there are.
            InvalidInput: It is not written as NAMESPACE/NAME.
        """
        self._proxies.check(gateway)

    def _call(
        self,
        verb: str,
        kind: str,
        name: str = "",
        *,
        body: Object | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Call:
        if kind not in _RESOURCES:
            raise InvalidInput(f"kind {kind!r} is none of {', '.join(sorted(_RESOURCES))}")
        return Call(
            verb=verb, resource=_RESOURCES[kind], namespace=self._namespace, name=name, body=body, query=query or {}
        )

    def _read(self, call: Call) -> Object | None:
        """One read, for an attempt that is repeated as a whole."""
        try:
            return self._handed_out(call.resource.kind, self._caller.send(call))
        except failures.FOREIGN as exc:
            if failures.is_absent(exc, call.resource.plural):
                return None
            raise

    def _evaluated(
        self, kind: str, name: str, change: Edit, calls_made: MutableSequence[Call]
    ) -> tuple[Object | None, Object]:
        """The object before and after a change: as it was last seen if that makes a write, else as it is."""
        seen = self._seen.pop((kind, name), None)
        if seen is not None:
            with contextlib.suppress(MlflowIstioError):
                after = change(copy.deepcopy(seen))
                if after != seen:
                    return seen, after
        calls_made.append(self._call("get", kind, name))
        before = self._read(calls_made[-1])
        return before, change(copy.deepcopy(before))

    def _remembered(self, kind: str, obj: Object) -> Object:
        """The object, of which a copy is kept for the next edit."""
        if kind in _REMEMBERED:
            self._seen[kind, name_of(obj)] = copy.deepcopy(obj)
        return obj

    def _settled(
        self, exc: Exception, call: Call, name: str, change: Edit, unanswered: Sequence[Object | None]
    ) -> tuple[Object | None, Object]:
        """What became of an edit whose attempts ran out: done after all, or an error that says what is known."""
        kind = call.resource.kind
        if failures.is_conflict(exc):
            raise EditConflict(f"{kind} '{name}' kept being changed by others: run the same command again") from exc
        problem = self._caller.explained(exc, call)
        if not unanswered:
            raise problem from exc
        try:
            now = self._read(self._call("get", kind, name))
        except failures.FOREIGN:
            raise ClusterError(
                f"{problem.message}; whether {kind} '{name}' was changed can't be told until then",
                detail=problem.detail,
            ) from exc
        if now is not None and change(copy.deepcopy(now)) == now:
            return unanswered[0], now
        raise problem from exc

    def _placed(self, obj: Object) -> Object:
        """The object in our namespace."""
        kind = str(obj.get("kind"))
        if kind not in _RESOURCES:
            raise InvalidInput(f"kind {kind!r} is none of {', '.join(sorted(_RESOURCES))}")
        name = name_of(obj)
        if obj.get("apiVersion") != API_VERSIONS[kind]:
            raise InvalidInput(f"{kind} '{name}' has apiVersion {obj.get('apiVersion')!r}: use {API_VERSIONS[kind]!r}")
        elsewhere = obj["metadata"].get("namespace", self._namespace)
        if elsewhere != self._namespace:
            raise InvalidInput(
                f"{kind} '{name}' says namespace '{elsewhere}', the target says '{self._namespace}': leave it out of the template"
            )
        bare = {key: value for key, value in obj.items() if key != "status"}
        return {**bare, "metadata": {**obj["metadata"], "namespace": self._namespace}}

    def _handed_out(self, kind: str, obj: Object) -> Object:
        """An object as callers see it, and a note of where it is exposed."""
        obj["metadata"].pop("managedFields", None)
        if kind == "VirtualService":
            self._exposures[name_of(obj)] = exposure_of(obj)
        # A list's items of built-in kinds say neither.
        return {"apiVersion": API_VERSIONS[kind], "kind": kind, **obj}

    def _exposure(self, virtual_service: str) -> Exposure:
        """Hosts and gateways of a VirtualService, as it was last read or written here."""
        if virtual_service not in self._exposures and self.get("VirtualService", virtual_service) is None:
            raise NotFound(f"there is no endpoint '{virtual_service}' in namespace '{self._namespace}'")
        return self._exposures[virtual_service]

    def _await_gone(self, kind: str, name: str) -> None:
        """Wait for an object that finalizers hold back."""
        deadline = time.monotonic() + _GONE_SECONDS
        read = self._call("get", kind, name)
        while (leaving := self._caller.ask(read)) is not None and "deletionTimestamp" in leaving["metadata"]:
            if time.monotonic() > deadline:
                held = ", ".join(leaving["metadata"].get("finalizers") or ("nobody",))
                raise ClusterError(
                    f"{kind} '{name}' is being deleted, but is held back by {held} for more than {_GONE_SECONDS:g} s: "
                    "run the same command again"
                )
            time.sleep(_POLL)

    @cached_property
    def place(self) -> str:
        """See ``ports.Cluster``: the namespace's uid."""
        call = Call(verb="get", resource=NAMESPACE, namespace=self._namespace, name=self._namespace)
        try:
            answer = self._caller.insist(lambda: self._caller.send(call))
        except failures.FOREIGN as exc:
            explained = self._caller.explained(exc, call)
            if isinstance(explained, Forbidden):
                return ""  # doctor says so
            raise explained from exc
        return str(answer["metadata"]["uid"])

    def _check_namespace(self) -> None:
        """Where nothing was found, the namespace may be what is missing; asked once."""
        if self._namespace_seen:
            return
        call = Call(verb="get", resource=NAMESPACE, namespace=self._namespace, name=self._namespace)
        try:
            self._caller.insist(lambda: self._caller.send(call))
        except failures.FOREIGN as exc:
            if failures.is_absent(exc, NAMESPACE.plural):
                raise NotFound(failures.missing_namespace(self._namespace)) from exc
            # Whoever may not read namespaces gets rights inside one only where it exists.
        self._namespace_seen = True
