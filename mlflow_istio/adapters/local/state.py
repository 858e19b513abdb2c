"""The state directory: objects as files, written whole or not at all, by one process at a time.

::

    format                    version of this layout
    objects/KIND/NAME.json    the objects a cluster would hold, and which fields were applied
    ports.json                ports that stay the same over restarts
    hashes.json               what routes hash, from all DestinationRules, for changes of traffic
    replicas/NAME.json        each process of a Deployment: what runs, where, in which phase
    programs/, supervisord.ini    what the supervisor reads
    envoy/                    what Envoy reads
    logs/                     of every process
    run/                      who runs now: process ids, the sockets of the supervisor and of Envoy's admin interface
    staging/                  files being written
    former/                   objects before a change that is being made
    kept/                     objects, replicas and ports as we wrote them last: what counts for others where one is damaged
    unfinished, draining      marks: a change or a drain was begun

Beside it stand ``NAME.lock`` and ``NAME.id``, which outlive it: the identity by which the registry knows the mesh.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_istio.adapters.local.free_ports import PortBook
from mlflow_istio.adapters.local.replicas import Replica
from mlflow_istio.core.basics.objects import Object, stand_in
from mlflow_istio.core.basics.stored import from_json, parsed
from mlflow_istio.errors import ClusterError, EditConflict, InvalidInput

if TYPE_CHECKING:
    from filelock import FileLock

FORMAT = 1
LOCK_TIMEOUT = 120.0
KEPT_LOGS = 20
_RESTART = "run 'mlflow-istio local down' and 'up', which mends it after a power cut, or restore it"
# These have a meaning in the supervisor's configuration file, inside a path too.
_BAD_CHARACTERS = frozenset("[]*?;#%\"'\\\n\r")


class StoredObject(NamedTuple):
    """One object as it stands in its file.

    Attributes:
        obj: The object.
        applied: The fields that our own verbs last applied.
        applied_by_user: The fields that a user last applied from a file, which is another writer than our verbs.
    """

    obj: Object
    applied: Object
    applied_by_user: Object

    def content(self) -> bytes:
        """As it is written to the disk."""
        by_user = {"applied_by_user": self.applied_by_user} if self.applied_by_user else {}
        return encode({"object": self.obj, "applied": self.applied, **by_user})


class Batch:
    """Files to write and to remove as one: all are written beside first, then each is put in place by a rename.

    When the disk is full nothing has changed: renames need no room. Envoy must see whole files in a given order, so
    parts of the batch can be put in place one after the other.
    """

    def __init__(self, staging: Path) -> None:
        self._staging = staging
        self._staged: dict[Path, str] = {}
        self._count = 0
        self._removed: list[Path] = []

    def put(self, path: Path, content: bytes, *, durable: bool = False) -> None:
        """Stage a file.

        Args:
            path: Where it belongs.
            content: All of it.
            durable: Whether it must survive a power cut.

        Raises:
            ClusterError: It can't be written; nothing was changed.
        """
        self._count += 1
        temporary = f"{self._staging}/{os.getpid()}-{id(self):x}-{self._count}"
        self._staged[path] = temporary
        try:
            if not os.path.isdir(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            self.discard()
            raise ClusterError(
                f"can't write {path}: {exc.strerror}; nothing was changed: make room or mend the directory, then run "
                "the same command again"
            ) from exc

    def put_changed(self, path: Path, content: bytes) -> None:
        """Stage a file unless it stands there already."""
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            pass
        self.put(path, content)

    def remove(self, path: Path) -> None:
        """Stage the removal of a file that may be absent."""
        self._removed.append(path)

    def staged(self) -> list[Path]:
        """The files staged so far."""
        return list(self._staged)

    def carry_out(self, paths: Sequence[Path] | None = None) -> None:
        """Put these staged files in place, in this order; when none are named, all that are left, and remove."""
        for path in list(self._staged) if paths is None else paths:
            temporary = self._staged.pop(path, None)
            if temporary is not None:
                os.replace(temporary, path)
        if paths is None:
            for path in self._removed:
                path.unlink(missing_ok=True)
            self._removed.clear()

    def discard(self) -> None:
        """Forget what is left."""
        for temporary in self._staged.values():
            with suppress(OSError):
                os.unlink(temporary)
        self._staged.clear()
        self._removed.clear()


class StateDirectory:
    """Paths and files of one mesh.

    Args:
        home: Folder of all meshes.
        name: Name of the mesh.
    """

    def __init__(self, home: Path, name: str) -> None:
        self.root = Path(os.path.abspath(home)) / name
        self.lock_file = self.root.parent / f"{name}.lock"
        self._lock: FileLock | None = None
        self.identity_file = self.root.parent / f"{name}.id"
        self.format = self.root / "format"
        self.objects = self.root / "objects"
        self.replicas = self.root / "replicas"
        self.programs = self.root / "programs"
        self.envoy = self.root / "envoy"
        self.logs = self.root / "logs"
        self.run = self.root / "run"
        self.staging = self.root / "staging"
        self.ports = self.root / "ports.json"
        self.hashes = self.root / "hashes.json"
        self.former = self.root / "former"
        self.kept = self.root / "kept"
        self.unfinished = self.root / "unfinished"
        self.draining = self.root / "draining"
        self.drain_lock = self.root / "drain.lock"

    def check(self) -> None:
        """Refuse a directory that another version wrote or that the supervisor could not name.

        Raises:
            ClusterError: Names the directory and what to do.
        """
        bad = sorted(_BAD_CHARACTERS & set(str(self.root)))
        if bad:
            raise ClusterError(f"the state directory {self.root} has {bad[0]!r} in its path: set MLFLOW_ISTIO_HOME")
        try:
            with open(self.format, "rb") as file:
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return
        if not text.strip().isdigit() or int(text) > FORMAT:
            raise ClusterError(
                f"the state directory {self.root} has format {text.strip()[:20]!r} and this version of mlflow-istio "
                f"reads up to {FORMAT}: upgrade mlflow-istio, or set MLFLOW_ISTIO_HOME to another directory"
            )

    def identity(self) -> str:
        """What tells this mesh from one of the same name in another folder; made when it is first asked for.

        Raises:
            ClusterError: It can't be read or made.
        """
        try:
            self.identity_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self.identity_file.with_suffix(f".id-{os.getpid()}-{uuid.uuid4().hex}")
            if not self.identity_file.exists():
                try:
                    fresh.touch(0o600)
                    fresh.write_text(f"{uuid.uuid4()}\n")
                    with suppress(FileExistsError):
                        os.link(fresh, self.identity_file)  # whole or not at all, and only the first of two
                finally:
                    fresh.unlink(missing_ok=True)  # on a full disk, too
            text = self.identity_file.read_text(encoding="utf-8").strip()
            return str(uuid.UUID(text))
        except OSError as exc:
            raise ClusterError(f"can't use {self.identity_file}: {exc.strerror}") from exc
        except ValueError as exc:
            raise ClusterError(
                f"{self.identity_file} holds no identity any more: restore it, or remove it and take the ledger over with "
                "take_over=true"
            ) from exc

    def prepare(self) -> None:
        """Make the directory, for its owner only."""
        try:
            for folder in (
                *(self.root, self.objects, self.replicas, self.programs, self.envoy, self.logs, self.run),
                *(self.staging, self.former, self.kept),
            ):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.root, self.run):  # the sockets in it are believed
                folder.chmod(0o700)
            if not self.format.exists():
                batch = self.batch()
                batch.put(self.format, f"{FORMAT}\n".encode())
                batch.carry_out()
        except OSError as exc:
            raise ClusterError(
                f"can't make the state directory {self.root}: {exc.strerror}; set MLFLOW_ISTIO_HOME to another"
            ) from exc

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to change the directory; other processes wait.

        Raises:
            EditConflict: Another process held it for too long.
            ClusterError: The directory can't be used.
        """
        import filelock  # 30 ms that readers need not pay

        if self._lock is None:
            self._lock = filelock.FileLock(self.lock_file, timeout=LOCK_TIMEOUT)
        lock = self._lock
        try:
            if not self.lock_file.parent.exists():
                self.lock_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock.acquire()
        except filelock.Timeout as exc:
            raise EditConflict(
                f"another command has been changing the mesh in {self.root} for {LOCK_TIMEOUT:g} s: "
                "wait for it or end it, then run the same command again"
            ) from exc
        except OSError as exc:
            raise ClusterError(f"can't use {self.lock_file}: {exc.strerror}; set MLFLOW_ISTIO_HOME to another") from exc
        try:
            self.check()
            yield
        finally:
            lock.release()

    @contextmanager
    def drain_locked(self, *, wait: bool) -> Iterator[bool]:
        """Hold the right to end draining replicas; gives False when another process does it and we don't wait."""
        import filelock

        lock = filelock.FileLock(self.drain_lock, timeout=LOCK_TIMEOUT if wait else 0)
        try:
            lock.acquire()
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def batch(self) -> Batch:
        """A new batch of changes."""
        return Batch(self.staging)

    @contextmanager
    def former_kept(self, kind: str, name: str) -> Iterator[None]:
        """Keep an object's former version until the one put in place inside the block is on the disk.

        It is a mark too: as long as it stands, the change is not finished.
        """
        path = self.object_file(kind, name)
        former = f"{self.former}/{kind}.{name}.json"
        os.link(path, former)
        yield
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.unlink(former)

    def is_finished(self) -> bool:
        """Whether every change that was begun was carried out."""
        return not self.unfinished.exists() and not os.listdir(self.former)

    def finish(self) -> None:
        """Everything that the objects say is carried out."""
        for former in self.former.iterdir():
            former.unlink()
        self.unfinished.unlink(missing_ok=True)

    def restore_torn(self) -> None:
        """Put back the former version of objects whose new one a power cut kept from the disk."""
        for former in self.former.iterdir():
            kind, _, file = former.name.partition(".")
            path = self.objects / kind / file
            try:
                parsed(path.read_bytes(), path.name)
            except (FileNotFoundError, InvalidInput):
                os.replace(former, path)

    @staticmethod
    def mark(path: Path) -> None:
        """Set a mark."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

    def clear_staging(self) -> None:
        """Remove files that a killed process left half written."""
        for name in os.listdir(self.staging):
            os.unlink(self.staging / name)

    def object_file(self, kind: str, name: str) -> Path:
        """Where an object stands."""
        return self.objects / kind / f"{name}.json"

    def log_file(self, name: str) -> Path:
        """Where a process's output stands."""
        return self.logs / f"{name}.log"

    def prune_logs(self) -> None:
        """Remove logs of replicas that are no more, but for those last written to."""
        live = {path.name.removesuffix(".json") for path in self.replicas.glob("*.json")} | {"envoy", "supervisord"}
        gone = [path for path in self.logs.glob("*.log*") if path.name.partition(".log")[0] not in live]
        gone.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in gone[:-KEPT_LOGS]:
            path.unlink(missing_ok=True)

    def object_names(self, kind: str) -> list[str]:
        """Names of all objects of a kind, ordered."""
        return sorted(path.name.removesuffix(".json") for path in (self.objects / kind).glob("*.json"))

    def object(self, kind: str, name: str) -> StoredObject | None:
        """An object with the fields last applied to it, or None when there is none."""
        return self._stored(self.object_file(kind, name), kind, name)

    @staticmethod
    def _stored(path: Path, kind: str, name: str) -> StoredObject | None:
        document = _read(path)
        if document is None:
            return None
        stored = StoredObject(*(document.get(key, {}) for key in ("object", "applied", "applied_by_user")))
        _check_stored(path, stored, kind, name)
        return stored

    def all_objects(self, kind: str, but: Collection[str] = ()) -> dict[str, Object]:
        """All objects of a kind by name, ordered by name, but for those of some names.

        One that can't be read counts as it was written last, so that others can be changed meanwhile.

        Raises:
            ClusterError: One can't be read, nor is it known how it was: what follows from all of them can't be told.
        """
        objects = {}
        for name in self.object_names(kind):
            if name in but:
                continue
            try:
                stored = self.object(kind, name)
            except ClusterError:
                stored = self.kept_object(kind, name)
                if stored is None:
                    raise
            if stored is not None:
                objects[name] = stored.obj
        return objects

    def kept_object(self, kind: str, name: str) -> StoredObject | None:
        """An object as it was written last, whatever its file holds now; None where that isn't known."""
        with suppress(ClusterError):
            return self._stored(self.twin(self.object_file(kind, name)), kind, name)
        return None

    def without_twins(self) -> Iterator[tuple[Path, bytes]]:
        """Files of objects and replicas that can be read and have no copy yet, since an older version wrote them."""
        for path in (*self.objects.glob("*/*.json"), *self.replicas.glob("*.json")):
            if not self.twin(path).exists():
                with suppress(ClusterError):
                    if _read(path) is not None:
                        yield path, path.read_bytes()

    def twin(self, path: Path) -> Path:
        """Where the copy of a file stands that counts where the file is damaged."""
        return self.kept / path.relative_to(self.root)

    def listed(self, kind: str) -> list[Object]:
        """All objects of a kind, ordered by name; one that can't be read is a ``stand_in`` that says why."""
        objects = []
        for name in self.object_names(kind):
            try:
                stored = self.object(kind, name)
            except ClusterError as exc:
                objects.append(stand_in(kind, name, exc.message))
            else:
                objects += [stored.obj] if stored is not None else []
        return objects

    def all_replicas(self, *, damaged: bool = True) -> list[Replica]:
        """All replicas, ordered by name.

        Args:
            damaged: Whether one that can't be read is an error, or left out.

        Raises:
            ClusterError: One can't be read; names its file.
        """
        replicas = []
        for path in sorted(self.replicas.glob("*.json")):
            try:
                document = _read(path)
                if document is not None:
                    replicas.append(from_json(Replica, document.get("replica")))
            except InvalidInput as exc:
                if not self._keep_replica(path, replicas) and damaged:
                    raise ClusterError(f"{path} is damaged ({exc.message}): {_RESTART}") from exc
            except ClusterError:
                if not self._keep_replica(path, replicas) and damaged:
                    raise
        return replicas

    def _keep_replica(self, path: Path, replicas: list[Replica]) -> bool:
        """Take a replica whose file is damaged as it was written last, if that is known."""
        with suppress(ClusterError, InvalidInput):
            document = _read(self.twin(path))
            if document is not None:
                replicas.append(from_json(Replica, document.get("replica")))
                return True
        return False

    def replica_names(self) -> set[str]:
        """Names of all replicas, those that can't be read included."""
        return {path.name.removesuffix(".json") for path in self.replicas.glob("*.json")}

    def port_book(self) -> PortBook | None:
        """The ports that stay, or None for a new directory.

        Each that can't be read is as it was written last; an endpoint of which that isn't known gets another.

        Raises:
            ClusterError: They can't be read, nor is it known how they were.
        """
        if not self.ports.exists():
            return None
        books = [_ports(path) for path in (self.ports, self.twin(self.ports))]
        # The statistics have the port that was the admin interface's before, and its key.
        statistics = next((port for port, _ in books if port is not None), None)
        if statistics is None:
            raise ClusterError(
                f"{self.ports} holds no ports any more: end the mesh with 'mlflow-istio local down', remove the file, and run "
                "'mlflow-istio local up', which gives new ports to all endpoints"
            )
        return PortBook(statistics=statistics, endpoints={**books[1][1], **books[0][1]})

    def known_hashes(self) -> dict[str, Any] | None:
        """What routes hash, as the last whole pass found it; None where that can't be read."""
        with suppress(ClusterError):
            known = _read(self.hashes)
            if known is not None and all(
                isinstance(subsets, dict) and all(isinstance(config, dict) for config in subsets.values())
                for subsets in known.values()
            ):
                return known
        return None

    def promised_ports(self) -> set[int]:
        """All ports that this mesh and its neighbours in the same folder keep for themselves; damage of theirs is not ours."""
        promised: set[Any] = set()
        for path in (*self.root.parent.glob("*/ports.json"), *self.root.parent.glob("*/replicas/*.json")):
            with suppress(ClusterError):
                document = _read(path) or {}
                endpoints, replica = document.get("endpoints"), document.get("replica")
                ports = [document.get("admin"), *(endpoints.values() if isinstance(endpoints, dict) else ())]
                promised |= set(filter(_is_port, [*ports, replica.get("port") if isinstance(replica, dict) else None]))
        return promised

    def purge(self) -> None:
        """Remove everything but the lock, which others may be waiting for."""
        shutil.rmtree(self.root, ignore_errors=True)


def encode(document: Mapping[str, Any]) -> bytes:
    """A JSON document as it is stored."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def encode_ports(book: PortBook) -> bytes:
    """As they are stored: the port of the statistics under the key that it had as the admin interface's."""
    return encode({"admin": book.statistics, "endpoints": dict(book.endpoints)})


def read_tail(path: Path, lines: int) -> Sequence[str]:
    """The last lines of a log; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            size = log.tell()
            log.seek(max(0, size - 400 * max(lines, 1)))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ()
    return tuple(text.splitlines()[-lines:]) if lines > 0 else ()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ClusterError(f"can't read {path}: {exc.strerror}") from exc
    try:
        document = parsed(text, str(path))
    except InvalidInput as exc:
        raise ClusterError(f"{exc.message}: {_RESTART}") from exc
    if not isinstance(document, dict):
        raise ClusterError(f"{path} holds no object any more: {_RESTART}")
    return document


def _ports(path: Path) -> tuple[int | None, dict[str, int]]:
    """What of a file of ports can be read: that of the statistics, and those of endpoints."""
    document: Mapping[str, Any] = {}
    with suppress(ClusterError):
        document = _read(path) or {}
    statistics, endpoints = document.get("admin"), document.get("endpoints")
    known = endpoints.items() if isinstance(endpoints, dict) else ()
    return (
        statistics if isinstance(statistics, int) and _is_port(statistics) else None,
        {name: port for name, port in known if _is_port(port)},
    )


def _is_port(port: Any) -> bool:
    return isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65_536


def _check_stored(path: Path, stored: StoredObject, kind: str, name: str) -> None:
    """Refuse what no API server would hold under that name; what is in its spec, whoever reads it looks at.

    Raises:
        ClusterError: It is such; names the file.
    """
    obj = stored.obj
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    texts = [metadata.get(key, {}) for key in ("labels", "annotations")] if isinstance(metadata, dict) else [None]
    whole = (
        isinstance(metadata, dict)
        and (obj.get("kind"), metadata.get("name")) == (kind, name)
        and isinstance(obj.get("spec"), dict)
        and all(isinstance(part, dict) and all(map(_is_text, part.values())) for part in texts)
        and all(_is_text(metadata.get(key)) for key in ("uid", "creationTimestamp", "resourceVersion"))
        and metadata["resourceVersion"].isdecimal()
        and type(metadata.get("generation")) is int
        and type(obj["spec"].get("replicas", 1)) is int
        and isinstance(stored.applied, dict)
        and isinstance(stored.applied_by_user, dict)
    )
    if not whole:
        raise ClusterError(
            f"{path} holds no {kind} '{name}' any more: restore it, or take the object away with "
            f"'mlflow-istio local delete {kind} {name}'"
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
