"""The local mesh: a ``Cluster`` on this machine, with real Envoy and model servers as processes.

The objects that a cluster would hold stand as files in a state directory; every change is carried out at once. See
``workloads`` for what of a Deployment is carried out, ``envoy_routes`` for VirtualServices, ``envoy_clusters`` for
Services and DestinationRules. Whatever else an object holds is refused by the path of the field, before anything is
stored. Processes inherit the environment of the command that brought the mesh up.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from mlflow_istio.adapters.local import inspection, storage
from mlflow_istio.adapters.local.control import Control
from mlflow_istio.adapters.local.files import Change
from mlflow_istio.adapters.local.inspection import MeshStatus
from mlflow_istio.adapters.local.processes import admin_socket
from mlflow_istio.adapters.local.replicas import SERVING, WAITING, Replica, is_current
from mlflow_istio.adapters.local.state import StateDirectory
from mlflow_istio.adapters.local.workloads import Workload, check_name, workload
from mlflow_istio.core.basics.objects import UNREADABLE, Object, labels_of
from mlflow_istio.core.mesh import recorder_beside
from mlflow_istio.core.mesh.autoscalers import AUTOSCALERS
from mlflow_istio.errors import ClusterError, InvalidInput, NotFound, NotReady, NotRouted, Unsupported
from mlflow_istio.ports.cluster import Address, Edit

if TYPE_CHECKING:
    from mlflow_istio.core.matching.probe import Probe

PAUSE = 0.3
_POLL = 0.05
_LOG_LINES = 20


class AppliedObject(NamedTuple):
    """What applying one object of a user's file did, or would do.

    Attributes:
        kind: Its kind.
        name: Its name.
        before: As it was; None: it is new.
        after: As it is, or would be.
    """

    kind: str
    name: str
    before: Object | None
    after: Object

    @property
    def what(self) -> str:
        """As kubectl says it: ``created``, ``configured`` or ``unchanged``."""
        return "created" if self.before is None else "configured" if self.after != self.before else "unchanged"


class LocalMesh:
    """A mesh on this machine; implements ``ports.Cluster``.

    Making one touches nothing. Reading works while the mesh is down; whatever needs processes brings it up.

    Args:
        home: Folder of all meshes of this user.
        name: Name of the mesh.
        pause: Seconds between the last request to a replica and the request to stop, where its Deployment has no
            ``lifecycle.preStop.sleep``.

    Raises:
        ClusterError: The system is not one on which the local mesh runs.
        InvalidInput: The name is no DNS name.
    """

    def __init__(self, home: Path, name: str = "default", *, pause: float = PAUSE) -> None:
        if sys.platform == "win32":
            raise ClusterError("the local mesh runs on Linux and macOS: use WSL, or a cluster with Istio")
        self.name = check_name("mesh", name)
        self._state = StateDirectory(home, name)
        self._control = Control(self._state, name, pause)

    @property
    def scope(self) -> str:
        """``local-`` and the mesh's name."""
        return f"local-{self.name}"

    @property
    def place(self) -> str:
        """See ``ports.Cluster``. It outlives a purge: a mesh of the same name in the same folder is the same place."""
        return self._state.identity()

    def get(self, kind: str, name: str) -> Object | None:
        """See ``ports.Cluster``."""
        check_name(storage.check_kind(kind), name)
        self._state.check()
        stored = self._state.object(kind, name)
        return None if stored is None else self._with_status(stored.obj)

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        """See ``ports.Cluster``. Nothing scales by itself here."""
        if kind in AUTOSCALERS:
            return []
        storage.check_kind(kind)
        self._state.check()
        objects = [obj for obj in self._state.listed(kind) if labels.items() <= labels_of(obj).items()]
        return [self._with_status(obj) for obj in objects]

    def apply(self, obj: Object) -> Object:
        """See ``ports.Cluster``. Returns before a new revision is ready; ``wait_ready`` waits for it.

        Only a change of replicas waits for those that another command ends: a stream of theirs may take minutes.
        """
        wanted = storage.admitted(obj)
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        with self._changing(kind):
            stored = self._state.object(kind, name)
            live, last, by_user = stored or (None, {}, {})
            claimed = storage.ownable(wanted)
            merged = storage.with_fields_applied(live, last, wanted)
            if live is not None and storage.same(live, merged) and claimed == last:
                after = live
            else:
                after = self._store(kind, name, live, merged, claimed, by_user)
        self._control.drain(wait=kind == "Deployment")
        return self._with_status(after)

    def apply_by_user(self, objects: Sequence[Object], *, dry_run: bool = False) -> Sequence[AppliedObject]:
        """Create objects or set the fields that a user's file gives, as ``kubectl apply`` does: all of them, or none.

        What the user applied before and gives no more is removed; what our verbs and others set stays. Lists are one value.

        Args:
            objects: As in the file; each once.
            dry_run: Whether only to check them. The mesh need not be up.

        Raises:
            InvalidInput: A value can't be right, or an object is given twice; nothing was stored.
            Unsupported: A field can't be carried out; nothing was stored.
            StateConflict: Two objects claim one host; nothing was stored.
            EditConflict: An object was read before it was last changed (``metadata.resourceVersion``); nothing was stored.
        """
        wanted = [storage.admitted(obj) for obj in objects]
        named = [(obj["kind"], obj["metadata"]["name"]) for obj in wanted]
        for kind, name in named:
            if named.count((kind, name)) > 1:
                raise InvalidInput(f"{kind} {name} is given twice: only one of them can be meant")
        kinds = {kind for kind, _ in named}
        with self._state.locked() if dry_run else self._changing(kinds.pop() if len(kinds) == 1 else ""):
            changes = [self._change_by_user(obj) for obj in wanted]
            changed = [change for change in changes if change.after != change.before]
            if dry_run:
                self._control.check(changed)
            elif changed:
                self._control.change(*changed)
        if not dry_run:
            self._control.drain(wait=True)
        return [
            AppliedObject(change.kind, change.name, change.before, change.after)
            for change in changes
            if change.after is not None
        ]

    def _change_by_user(self, wanted: Object) -> Change:
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        stored = self._state.object(kind, name)
        live, applied, last = stored or (None, {}, {})
        claimed = storage.ownable(wanted)
        merged = storage.with_fields_applied(live, last, wanted)
        if live is None:
            storage.check_new(wanted)
        unchanged = live is not None and storage.same(live, merged) and claimed == last
        after = live if unchanged else self._as_stored(live, merged)
        return Change(kind=kind, name=name, before=live, after=after, applied=applied, applied_by_user=claimed)

    def edit(self, kind: str, name: str, change: Edit) -> tuple[Object | None, Object]:
        """See ``ports.Cluster``. A change of nothing but traffic makes no call to any process."""
        check_name(storage.check_kind(kind), name)
        with self._changing(kind):
            stored = self._state.object(kind, name)
            before, last, by_user = stored or (None, {}, {})
            shown = None if before is None else self._with_status(before)
            wanted = storage.admitted(change(None if shown is None else storage.copied(shown)))
            if shown is not None and storage.same(shown, wanted):
                return shown, storage.copied(shown)
            storage.check_identity(wanted, kind, name)
            after = self._store(kind, name, before, wanted, last, by_user)
        self._control.drain(wait=kind == "Deployment")
        return shown, self._with_status(after)

    def delete(self, kind: str, name: str) -> bool:
        """See ``ports.Cluster``."""
        check_name(storage.check_kind(kind), name)
        self._state.check()
        path = self._state.object_file(kind, name)
        if not path.exists():
            return False
        with self._changing(kind):
            there = path.exists()
            if there:
                stored = None
                with suppress(ClusterError):  # damaged: it may go all the same
                    stored = self._state.object(kind, name)
                before = stored.obj if stored else None
                self._control.change(
                    Change(kind=kind, name=name, before=before, after=None, applied={}, applied_by_user={})
                )
        self._control.drain(wait=kind == "Deployment")
        return there

    def wait_ready(self, deployment: str, timeout: float) -> None:
        """See ``ports.Cluster``. A new revision takes over here, once all its replicas are ready."""
        self._state.check()
        deadline = time.monotonic() + timeout
        supervisor = self._control.supervisor
        while True:
            stored = self._state.object("Deployment", check_name("Deployment", deployment))
            if stored is None:
                raise NotFound(f"there is no Deployment '{deployment}' in mesh '{self.name}'")
            wanted = workload(stored.obj)
            if wanted.replicas == 0:
                raise NotReady(f"Deployment '{deployment}' wants 0 replicas, which are never ready: scale it up")
            if not self._control.is_up():
                self.up()
            current = self._current(wanted)
            ready = inspection.ready_names(current, supervisor)
            for name in ready:
                supervisor.note_ready(name)
            if len(ready) == len(current) == wanted.replicas and self._takes_requests(wanted):
                return
            failed = inspection.failed(current, ready, supervisor)
            if failed is not None:
                raise NotReady(
                    f"replica '{failed.name}' of Deployment '{deployment}' ended before it was ready: see its last log "
                    "lines",
                    detail=inspection.last_words(self._state, failed.name, _LOG_LINES),
                )
            if time.monotonic() > deadline:
                raise NotReady(
                    f"Deployment '{deployment}' has {len(ready)} of {wanted.replicas} replicas ready after "
                    f"{timeout:g} s: see their last log lines, or wait longer",
                    detail=inspection.last_words(self._state, deployment, _LOG_LINES),
                )
            time.sleep(_POLL)

    def wait_routed(self, probe: Probe, timeout: float) -> Sequence[str]:
        """See ``ports.Cluster``. There is one proxy, which takes plain HTTP alone."""
        if not probe.gets_in("http", None):
            return []
        from mlflow_istio.calls.probing import confirm  # it needs requests

        if not self._control.is_up():
            self.up()
        try:
            confirm(probe, url=self.address(probe.virtual_service).url, headers={}, timeout=timeout)
        except NotRouted as exc:
            raise NotRouted(exc.message, detail=self._control.envoy.log()) from exc
        return [f"envoy {self.scope}"]

    def address(self, virtual_service: str) -> Address:
        """See ``ports.Cluster``."""
        self._state.check()
        port = inspection.endpoint_ports(self._state).get(virtual_service)
        if port is None:
            raise NotFound(f"there is no endpoint '{virtual_service}' in mesh '{self.name}'")
        return Address(url=f"http://127.0.0.1:{port}")

    def admin_urls(self) -> Sequence[str]:
        """Where Envoy's admin interface is, for whoever reads its statistics; empty before the mesh was first up.

        Its socket, not the port for Prometheus: while Envoy is down, another user's program could answer there.
        """
        socket_path = admin_socket(self._state)
        return () if self._state.port_book() is None else (f"unix://{quote(str(socket_path))}",)

    def figure_pages(self, deployments: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Where the replicas that get requests listen, by deployment, and the paths at which they show figures."""
        pages: dict[str, dict[str, Sequence[str]]] = {name: {} for name in deployments}
        for replica in self._state.all_replicas():
            if replica.deployment in pages and replica.phase == SERVING:
                recorder = (recorder_beside.PAGE,) if recorder_beside.is_recorded_beside(replica.command) else ()
                pages[replica.deployment][f"http://127.0.0.1:{replica.port}"] = ("/metrics", *recorder)
        return pages

    def up(self, *, new_ports: bool = False) -> MeshStatus:
        """Start what does not run, let an Envoy that does not answer begin anew, and wait until it takes requests.

        Args:
            new_ports: Whether an endpoint whose port another program took may get another.

        Raises:
            ClusterError: A port is taken, or the state directory can't be used.
            NotReady: The supervisor or Envoy did not come up; ``detail`` has its last log lines.
        """
        with self._state.locked():
            self._control.bring_up(new_ports=new_ports)
        self._control.drain(wait=False)
        return self.status()

    def down(self, *, purge: bool = False) -> None:
        """End all processes and wait until they are gone.

        Args:
            purge: Whether to remove the objects, ports and logs too.
        """
        with self._state.locked():
            if self._state.root.exists():
                if self._control.supervisor.is_alive():
                    self._control.supervisor.shut_down()
                self._control.supervisor.end_leftovers()
                admin_socket(self._state).unlink(missing_ok=True)
            if purge:
                self._state.purge()

    def status(self) -> MeshStatus:
        """What runs now."""
        self._state.check()
        return inspection.status(self.name, self._state, self._control.supervisor)

    def logs(self, name: str, lines: int = 100) -> str:
        """The last log lines of ``envoy``, ``supervisord``, a replica, or all replicas of a deployment.

        Raises:
            NotFound: Nothing of that name has a log.
        """
        return inspection.logs(self._state, name, lines)

    @contextmanager
    def _changing(self, kind: str) -> Iterator[None]:
        """Hold the lock, with the mesh up; a change of traffic comes before looking whether it is."""
        with self._state.locked():
            look_later = kind == "VirtualService" and self._control.is_settled()
            if not look_later:
                self._control.ensure_up()
            yield
            if look_later:
                self._control.ensure_up()

    def _store(
        self, kind: str, name: str, before: Object | None, wanted: Object, applied: Object, by_user: Object
    ) -> Object:
        after = self._as_stored(before, wanted)
        change = Change(kind=kind, name=name, before=before, after=after, applied=applied, applied_by_user=by_user)
        self._control.change(change)
        return after

    @staticmethod
    def _as_stored(before: Object | None, wanted: Object) -> Object:
        """A new or changed object with the metadata that a server gives."""
        if before is not None:
            return storage.updated(before, wanted)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return storage.created(wanted, uid=str(uuid.uuid4()), now=now)

    def _with_status(self, obj: Object) -> Object:
        if obj["kind"] != "Deployment" or UNREADABLE in obj:
            return obj
        try:
            return inspection.with_status(obj, self._state, self._control.supervisor)
        except (InvalidInput, Unsupported):
            return obj  # its file was edited by hand to what can't be carried out, so nothing of it is ready

    def _current(self, wanted: Workload) -> Sequence[Replica]:
        """The replicas of a Deployment's current revision that are there to stay."""
        mine = (replica for replica in self._state.all_replicas() if replica.deployment == wanted.name)
        return [replica for replica in mine if is_current(replica, wanted)]

    def _takes_requests(self, wanted: Workload) -> bool:
        """Whether the current revision, all ready, has taken over and Envoy holds none of it back."""
        if any(replica.phase == WAITING for replica in self._current(wanted)):
            with self._changing("Deployment"):
                self._control.advance()
            self._control.drain(wait=True)
        current = self._current(wanted)
        unhealthy = self._control.envoy.admin().unhealthy_ports()
        return (
            unhealthy is not None
            and len(current) == wanted.replicas
            and all(replica.phase == SERVING and replica.port not in unhealthy for replica in current)
        )
