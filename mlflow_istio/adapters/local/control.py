"""Making processes and Envoy follow the objects: one pass from what is wanted to what runs.

A pass is made under the state directory's lock. It computes everything first, stages every file, and only then puts
them in place: the object, then the replicas, then clusters, then routes, then listeners, so that no request meets a
route whose cluster is missing. A mark stands in the directory from the first step to the last; whoever finds it makes
the pass again. Replicas that are no longer wanted are ended afterwards, without the lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath

from mlflow_istio.adapters.local import watches
from mlflow_istio.adapters.local.blueprint import Blueprint, blueprint
from mlflow_istio.adapters.local.envoy import documents
from mlflow_istio.adapters.local.envoy.balancing import Hashes, hashes
from mlflow_istio.adapters.local.envoy.clusters import service_ports
from mlflow_istio.adapters.local.envoy.route_table import route_configuration
from mlflow_istio.adapters.local.files import Change, Files
from mlflow_istio.adapters.local.free_ports import PortBook, is_free, port_source
from mlflow_istio.adapters.local.inspection import ready_names
from mlflow_istio.adapters.local.processes import ENVOY, SWEEPER, Supervisor
from mlflow_istio.adapters.local.proxy_watch import EnvoyWatch
from mlflow_istio.adapters.local.replicas import DRAINING, WAITING, Replica
from mlflow_istio.adapters.local.state import Batch, StateDirectory, encode
from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.core.mesh.delegation import delegates_of, is_delegate, merged
from mlflow_istio.errors import ClusterError, InvalidInput, NotReady, StateConflict, Unsupported

# An Envoy that is started again by the supervisor takes less.
_PATIENCE = 10.0


class Control:
    """What runs one mesh.

    Args:
        state: The mesh's state directory.
        name: Name of the mesh.
        pause: Seconds between a replica's last request and the request to stop.
    """

    def __init__(self, state: StateDirectory, name: str, pause: float) -> None:
        self._state = state
        self._name = name
        self._pause = pause
        self.supervisor = Supervisor(state, name)
        self.envoy = EnvoyWatch(state=state, supervisor=self.supervisor, mesh=name)
        self._files = Files(state=state, supervisor=self.supervisor, mesh=name)

    def is_settled(self) -> bool:
        """Whether the mesh was up before and no change is half done."""
        return self._state.ports.exists() and self._state.is_finished()

    def ensure_up(self) -> None:
        """Start what does not run, and finish what another process began. The lock must be held."""
        with self._disk_errors():
            if not self.supervisor.is_alive():
                self.start()
                return
            self._state.clear_staging()
            if not self.envoy.admin().is_there():
                self._restart_envoy()
                self._state.mark(self._state.unfinished)  # an older version had other listeners
            if not self._state.is_finished():
                self.carry_out()

    def is_up(self) -> bool:
        """Whether everything was started and can be asked; not whether each part answers."""
        return self.supervisor.is_alive() and self.envoy.admin().is_there()

    def bring_up(self, *, new_ports: bool) -> None:
        """Make everything run as the objects say, and wait until Envoy takes requests. The lock must be held.

        Args:
            new_ports: As for ``start``.
        """
        with self._disk_errors():
            if self.supervisor.is_alive():
                self._revive_envoy()
                _check_open(self.carry_out(reopen=True))
                ports = self._open_ports()
                if self.envoy.silent(ports):
                    # It closed a port and will not open it again: its listeners were drained.
                    self._restart_envoy()
                    _check_open(self.carry_out())
                    _check_open(dict.fromkeys(self.envoy.silent(ports), "it takes no connection"))
            else:
                self.start(new_ports=new_ports)

    def start(self, *, new_ports: bool = False) -> None:
        """Start supervisor, Envoy and all replicas. The lock must be held.

        Args:
            new_ports: Whether an endpoint whose port another program took may get another.

        Raises:
            ClusterError: A port is taken; names it and its endpoint.
            NotReady: The supervisor or Envoy did not come up; ``detail`` has the last log lines.
        """
        self._state.prepare()
        self._state.clear_staging()
        self._state.restore_torn()
        self.supervisor.end_leftovers()
        watches.check_room(watches.ENVOY_OWN + len(self._state.object_names("VirtualService")))
        new_port = port_source(self._state.promised_ports())
        book = self._free_book(new_port, new_ports=new_ports)
        replicas = [
            replica if is_free(replica.port) else replace(replica, port=new_port())
            for replica in self._state.all_replicas(damaged=False)
            if replica.phase != DRAINING
        ]
        batch = self._state.batch()
        for name in self._state.replica_names() - {replica.name for replica in replicas}:
            self._remove_replica(batch, name)
        self._files.stage_ports(batch, book, durable=True)
        self._files.stage_programs(batch)
        for path, content in self._state.without_twins():
            batch.put(self._state.twin(path), content)
        for replica in replicas:
            self._files.stage_replica(batch, replica)
        self._state.mark(self._state.unfinished)
        batch.carry_out()
        self._state.draining.unlink(missing_ok=True)
        try:
            _check_open(self.carry_out(run=self.supervisor.start))
        except ClusterError:
            # Down as a whole: the next command begins anew and says the same, if nothing was mended.
            if self.supervisor.is_alive():
                self.supervisor.shut_down()
            raise

    def change(self, *changes: Change) -> None:
        """Store objects, all or none, and carry out what follows. The lock must be held.

        A change of nothing but traffic does not look whether the mesh is up: ``ensure_up`` is for the caller.

        Raises:
            Unsupported: A field can't be carried out; nothing was stored.
            InvalidInput: A value can't be right; nothing was stored.
            ClusterError: A file can't be written, nothing was stored; or Envoy did not follow, the objects are stored.
        """
        with self._disk_errors():
            if len(changes) == 1 and self._is_only_traffic(changes[0]):
                self._change_traffic(changes[0])
                return
            self.ensure_up()
            refused = self.carry_out(changes)
            changed = {change.name for change in changes}
            _check_open({name: reason for name, reason in refused.items() if name in changed})

    def check(self, changes: Sequence[Change]) -> None:
        """Refuse what ``change`` would refuse, and change nothing. The lock must be held; the mesh need not be up."""
        with self._disk_errors():
            self._checked(changes, ports=self._state.port_book() or PortBook(statistics=0, endpoints={}))

    def carry_out(
        self, changes: Sequence[Change] = (), *, run: Callable[[], None] | None = None, reopen: bool = False
    ) -> dict[str, str]:
        """One pass over everything. The lock must be held.

        Args:
            changes: Objects to store with it, each once.
            run: Starts everything, when nothing runs yet.
            reopen: Whether Envoy is to try again to open ports that were taken.

        Returns:
            Why Envoy can't open an endpoint, by its name; what else there was to do is done.
        """
        plan = self._checked(changes)
        batch = self._state.batch()
        for change in changes:
            self._files.stage_object(batch, change)
        self._files.stage_ports(batch, plan.ports)
        batch.put_changed(self._state.hashes, encode(plan.hashes))
        for replica in plan.replicas:
            self._files.stage_replica(batch, replica)
        first = batch.staged()
        clusters_file = self._files.envoy_file(documents.CLUSTERS)
        batch.put_changed(clusters_file, documents.discovery(plan.clusters))
        for name, config in plan.routes.items():
            batch.put_changed(self._files.envoy_file(documents.routes_file(name)), documents.discovery([config]))
        put = batch.put if reopen else batch.put_changed
        put(self._files.envoy_file(documents.LISTENERS), documents.discovery(plan.listeners))

        self._state.mark(self._state.unfinished)
        if any(replica.phase == DRAINING for replica in plan.replicas):
            self._state.mark(self._state.draining)
        batch.carry_out(first)
        if run is None:
            self._run_replicas(plan.replicas)
            batch.carry_out([clusters_file])
            self.envoy.await_clusters(plan.clusters)
            batch.carry_out()
        else:
            batch.carry_out()
            run()
            self.envoy.await_ready()
            self.envoy.await_clusters(plan.clusters)
        refused = self.envoy.await_listeners([*plan.open_ports, documents.STATISTICS])
        if refused.pop(documents.STATISTICS, ""):
            self._move_statistics(plan)
        for change in changes:
            closed = change.kind == "VirtualService" and change.name not in plan.open_ports
            if closed and change.before is not None and not is_delegate(change.before):
                self.envoy.await_closed(plan.ports.endpoints[change.name])
        self._state.finish()
        return refused

    def _move_statistics(self, plan: Blueprint) -> None:
        """Give Envoy's statistics another port, since another program has theirs: nobody but a scraper relies on it."""
        ports = replace(plan.ports, statistics=port_source(self._state.promised_ports())())
        configs = documents.listeners(plan.open_ports, PurePosixPath(self._state.envoy), statistics=ports.statistics)
        batch = self._state.batch()
        self._files.stage_ports(batch, ports)
        batch.put(self._files.envoy_file(documents.LISTENERS), documents.discovery(configs))
        batch.carry_out()
        self.envoy.await_open(documents.STATISTICS)

    def advance(self) -> None:
        """Let a new revision that is ready take over. The lock must be held and the mesh must be up."""
        if any(replica.phase == WAITING for replica in self._state.all_replicas()):
            self.carry_out()

    def drain(self, *, wait: bool) -> None:
        """End the replicas that get no requests any more. The lock must not be held.

        Args:
            wait: Whether to wait for another process that does the same.
        """
        if not self._state.draining.exists():
            return
        with self._state.drain_locked(wait=wait) as mine:
            if not mine:
                return
            leaving = [replica for replica in self._state.all_replicas() if replica.phase == DRAINING]
            names = [replica.name for replica in leaving]
            if leaving and self.supervisor.is_alive():
                time.sleep(max(self._pause if replica.pause is None else replica.pause for replica in leaving))
                self.supervisor.end(names)
            with self._state.locked():
                batch = self._state.batch()
                for name in names:
                    self._remove_replica(batch, name)
                self.supervisor.forget(names)
                batch.carry_out()
                self._state.prune_logs()
                if not any(replica.phase == DRAINING for replica in self._state.all_replicas()):
                    self._state.draining.unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise ClusterError(
                f"can't change the mesh in {self._state.root}: {exc.strerror or exc}; make room or mend the directory, "
                "then run the same command again: it finishes what was begun"
            ) from exc

    def _remove_replica(self, batch: Batch, name: str) -> None:
        document, config = self._files.replica_files(name)
        # The document last: as long as it stands, the next command knows what is left to do.
        batch.remove(config)
        batch.remove(self._state.twin(document))
        batch.remove(document)

    def _checked(self, changes: Sequence[Change], *, ports: PortBook | None = None) -> Blueprint:
        """What follows from the objects once they are changed, all of it checked; nothing is written yet."""
        plan = self._blueprint(changes, ports or self._state.port_book())
        routed = [change for change in changes if change.kind == "VirtualService"]
        new = sum(change.before is None for change in routed)
        if new:
            watches.check_room(new)
        for change in routed:
            if change.after is not None:
                for name in self._carriers(change, routed):
                    self._files.check_by_envoy(change, plan.routes[name])
        return plan

    def _blueprint(self, changes: Sequence[Change], ports: PortBook | None) -> Blueprint:
        objects: dict[str, dict[str, Object]] = {
            kind: self._state.all_objects(kind, {change.name for change in changes if change.kind == kind})
            for kind in API_VERSIONS
        }
        for change in changes:
            if change.after is not None:
                objects[change.kind][change.name] = change.after
        replicas = self._state.all_replicas()
        if ports is None:
            raise ClusterError(f"{self._state.ports} is missing: run 'mlflow-istio local down', then 'up'")
        new = {change.name for change in changes if change.kind == "VirtualService" and change.before is None}
        if new:
            # An endpoint of that name was there before; nobody relies on its port if another program has it now.
            free = {name: port for name, port in ports.endpoints.items() if name not in new or is_free(port)}
            ports = replace(ports, endpoints=free)
        waiting = [replica for replica in replicas if replica.phase == WAITING]

        def planned(objects: Mapping[str, Mapping[str, Object]]) -> Blueprint:
            return blueprint(
                objects={kind: dict(sorted(named.items())) for kind, named in objects.items()},
                replicas=replicas,
                ready=ready_names(waiting, self.supervisor) if waiting else (),
                ports=ports,
                new_port=port_source(self._state.promised_ports()),
                folder=PurePosixPath(self._state.envoy),
            )

        try:
            return planned(objects)
        except (InvalidInput, Unsupported, StateConflict):
            by_hand = self._changed_by_hand(objects, {(change.kind, change.name) for change in changes})
            if not by_hand:
                raise
        return planned({kind: {**named, **by_hand.get(kind, {})} for kind, named in objects.items()})

    def _changed_by_hand(
        self, objects: Mapping[str, Mapping[str, Object]], but: Collection[tuple[str, str]]
    ) -> dict[str, dict[str, Object]]:
        """Objects whose files hold something else than we wrote, as we wrote them: what counts where the files can't be right."""
        edited: dict[str, dict[str, Object]] = {}
        for kind, named in objects.items():
            for name, obj in named.items():
                kept = None if (kind, name) in but else self._state.kept_object(kind, name)
                if kept is not None and kept.obj != obj:
                    edited.setdefault(kind, {})[name] = kept.obj
        return edited

    def _is_only_traffic(self, change: Change) -> bool:
        """Whether nothing but the routes of one VirtualService change."""
        return (
            change.kind == "VirtualService"
            and change.before is not None
            and change.after is not None
            and change.before["spec"].get("hosts") == change.after.get("spec", {}).get("hosts")
            and all(self._files.envoy_file(documents.routes_file(name)).exists() for name in self._carriers(change))
        )

    def _carriers(self, change: Change, beside: Sequence[Change] = ()) -> list[str]:
        """Names of the VirtualServices with hosts in whose routes a changed one stands: itself, or the roots of a delegate.

        Args:
            change: The change of one.
            beside: Changes of others that are made with it.
        """
        assert change.after is not None
        if not is_delegate(change.after):
            return [change.name]
        objects: dict[str, Object | None] = dict(self._state.all_objects("VirtualService"))
        objects.update((other.name, other.after) for other in beside)
        return [
            name for name, obj in objects.items() if obj and not is_delegate(obj) and change.name in delegates_of(obj)
        ]

    def _change_traffic(self, change: Change) -> None:
        """The short way, for the change that users wait for: two files, no call to anybody.

        The disk is waited for when Envoy has its routes already; until then the former object stays beside the new one.
        """
        assert change.after is not None
        batch = self._state.batch()
        self._files.stage_object(batch, change, durable=False)
        if change.before is None or change.before["spec"] != change.after["spec"]:
            ports, hashes = _ServicePorts(self._state), self._known_hashes()
            alone = route_configuration(change.after, ports, hashes)
            for name in self._carriers(change):
                whole = self._merged(name, change)
                config = alone if whole is change.after else route_configuration(whole, ports, hashes)
                self._files.check_by_envoy(change, config)
                batch.put(self._files.envoy_file(documents.routes_file(name)), documents.discovery([config]))
        with self._state.former_kept(change.kind, change.name):
            batch.carry_out()

    def _known_hashes(self) -> Hashes:
        """What routes hash, as the last whole pass found it; found again where that can't be read."""
        known = self._state.known_hashes()
        return hashes(list(self._state.all_objects("DestinationRule").values())) if known is None else known

    def _merged(self, name: str, change: Change) -> Object:
        """A VirtualService with its delegates, as it is once a change is made."""
        assert change.after is not None

        def find(other: str) -> Object | None:
            if other == change.name:
                return change.after
            stored = self._state.object("VirtualService", other)
            return stored.obj if stored else None

        root = find(name)
        assert root is not None
        return merged(root, find) if delegates_of(root) else root

    def _free_book(self, new_port: Callable[[], int], *, new_ports: bool) -> PortBook:
        """The ports that stay, all of them free now."""
        book = self._state.port_book()
        if book is None:
            return PortBook(statistics=new_port())
        names = self._state.object_names("VirtualService")
        owners = {name: port for name, port in book.endpoints.items() if name in names}
        taken = {name: port for name, port in owners.items() if not is_free(port)}
        if taken and not new_ports:
            name, port = min(taken.items())
            raise ClusterError(
                f"port {port} of endpoint '{name}' is taken by another program: end that program (it listens on "
                f"127.0.0.1:{port}), or let the endpoint have another with 'mlflow-istio local up --new-ports'"
            )
        statistics = book.statistics if is_free(book.statistics) else new_port()
        return PortBook(statistics=statistics, endpoints={**book.endpoints, **{name: new_port() for name in taken}})

    def _open_ports(self) -> dict[str, int]:
        """Port of each VirtualService that has hosts."""
        ports, known = self._state.port_book(), self._state.all_objects("VirtualService")
        return {} if ports is None else {name: ports.endpoints[name] for name in known if not is_delegate(known[name])}

    def _revive_envoy(self) -> None:
        """Wait until Envoy answers; one that does not is started again."""
        try:
            if self.envoy.admin().is_there():
                self.envoy.await_ready(_PATIENCE)
                return
        except NotReady:
            pass
        self._restart_envoy()

    def _restart_envoy(self) -> None:
        """Let Envoy begin anew, with the settings that this version gives it. The lock must be held."""
        if self._state.port_book() is None:
            raise ClusterError(f"{self._state.ports} is missing: run 'mlflow-istio local down', then 'up'")
        # Its socket first: as long as that is gone, whoever comes after us begins here, too.
        self.envoy.admin().path.unlink(missing_ok=True)
        self.supervisor.end([ENVOY])
        batch = self._state.batch()
        self._files.stage_programs(batch)
        batch.carry_out()
        self.supervisor.add([ENVOY])
        self.envoy.await_ready()

    def _run_replicas(self, replicas: Sequence[Replica]) -> None:
        """Start what is missing and end what nobody wants."""
        wanted = {replica.name for replica in replicas} | {ENVOY}
        if (self._state.programs / f"{SWEEPER}.ini").exists():  # a mesh that an older version started has none
            wanted.add(SWEEPER)
        running = set(self.supervisor.programs())
        self.supervisor.add(sorted(wanted - running))
        self.supervisor.end(sorted(running - wanted))


class _ServicePorts(Mapping[str, tuple[int, ...]]):
    """The ports of each Service, read when asked for: a change of traffic names one or two."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._known: dict[str, tuple[int, ...]] = {}

    def __getitem__(self, name: str) -> tuple[int, ...]:
        if name not in self._known:
            service = self._state.object("Service", name)
            if service is None:
                raise KeyError(name)
            self._known[name] = service_ports(service.obj)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.all_objects("Service"))

    def __len__(self) -> int:
        return len(self._state.all_objects("Service"))


def _check_open(refused: Mapping[str, str]) -> None:
    for name, reason in sorted(refused.items()):
        raise ClusterError(
            f"Envoy can't open the port of endpoint '{name}' ({reason}): end the program that holds it and run "
            "'mlflow-istio local up', or run 'mlflow-istio local down' and 'mlflow-istio local up --new-ports'"
        )
