"""Which processes a Deployment should have, given those it has. Pure.

A replica begins as ``waiting`` (it runs but gets no requests), or as ``serving`` when nothing else serves; it ends as
``draining`` (it gets no new requests and is stopped after a pause). A new revision takes over as a whole, when all its
replicas are ready; until then the old one serves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mlflow_istio.adapters.local.envoy.clusters import Endpoint
from mlflow_istio.adapters.local.workloads import Program, Workload, resolved
from mlflow_istio.core.basics.stored import form

WAITING = "waiting"
SERVING = "serving"
DRAINING = "draining"


@form(closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Replica(Program):
    """One process of a Deployment, as it is kept in the state directory.

    Attributes:
        name: Unique in the mesh.
        deployment: Its Deployment.
        revision: The revision of the pod template that it runs.
        phase: ``waiting``, ``serving`` or ``draining``.
        port: Its port on 127.0.0.1.
    """

    name: str
    deployment: str
    revision: str
    phase: str
    port: int


def endpoints(replicas: Sequence[Replica]) -> list[Endpoint]:
    """Those that may get requests."""
    return [
        Endpoint(deployment=replica.deployment, labels=replica.labels, port=replica.port, readiness=replica.readiness)
        for replica in replicas
        if replica.phase == SERVING
    ]


def planned(
    wanted: Workload | None, present: Sequence[Replica], ready: Collection[str], new_port: Callable[[], int]
) -> list[Replica]:
    """The replicas that a Deployment should have next.

    Args:
        wanted: The Deployment; None when it was deleted.
        present: Its replicas now, all phases.
        ready: Names of the replicas that answer their readiness check; only those waiting matter.
        new_port: Gives a free port.
    """
    if wanted is None:
        return [_drained(replica) for replica in present]
    live = [replica for replica in present if replica.phase != DRAINING]
    current = sorted(
        (replica for replica in live if replica.revision == wanted.revision), key=lambda replica: replica.name
    )
    older = [replica for replica in live if replica.revision != wanted.revision]
    serving_older = [replica for replica in older if replica.phase == SERVING]
    kept, surplus = current[: wanted.replicas], current[wanted.replicas :]
    missing = wanted.replicas - len(kept)
    takes_over = not missing and all(replica.phase == SERVING or replica.name in ready for replica in kept)
    if takes_over or not serving_older:
        kept = [replace(replica, phase=SERVING) for replica in kept]
    result = [replica for replica in present if replica.phase == DRAINING]
    result += [_drained(replica) for replica in surplus]
    result += [_drained(replica) if takes_over or replica.phase == WAITING else replica for replica in older]
    result += kept
    names = {replica.name for replica in present}
    free = (name for name in (_name(wanted, index) for index in range(len(names) + missing)) if name not in names)
    phase = WAITING if serving_older else SERVING
    result += [_new(wanted, name, phase, new_port()) for name in islice(free, missing)]
    return sorted(result, key=lambda replica: replica.name)


def is_current(replica: Replica, wanted: Workload) -> bool:
    """Whether the replica runs the Deployment's current revision and is there to stay."""
    return replica.revision == wanted.revision and replica.phase != DRAINING


def _name(wanted: Workload, index: int) -> str:
    return f"{wanted.name}-{wanted.revision}-{index}"


def process(replica: Replica) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command and environment of the replica's process, references resolved.

    The command may begin with ``python``, which stands for the interpreter that runs the mesh.
    """
    given = {"MLFLOW_ISTIO_HOST": "127.0.0.1", "MLFLOW_ISTIO_PORT": str(replica.port)}
    return resolved(replica.command, replica.environment, given)


def _new(wanted: Workload, name: str, phase: str, port: int) -> Replica:
    return Replica(
        name=name,
        deployment=wanted.name,
        revision=wanted.revision,
        phase=phase,
        port=port,
        labels=dict(wanted.labels),
        command=wanted.command,
        environment=wanted.environment,
        readiness=wanted.readiness,
        grace=wanted.grace,
        pause=wanted.pause,
    )


def _drained(replica: Replica) -> Replica:
    return replace(replica, phase=DRAINING)
