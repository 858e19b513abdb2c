"""Looking at a mesh without changing it: what runs, what is ready, what the logs say."""

from __future__ import annotations

import http.client
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow_istio.adapters.local.envoy.admin import EnvoyAdmin
from mlflow_istio.adapters.local.envoy.documents import STATISTICS_PATH
from mlflow_istio.adapters.local.processes import ENVOY, SUPERVISOR, Supervisor, admin_socket
from mlflow_istio.adapters.local.replicas import DRAINING, SERVING, Replica, is_current
from mlflow_istio.adapters.local.state import StateDirectory, read_tail
from mlflow_istio.adapters.local.workloads import workload
from mlflow_istio.calls.grpc_health import serving
from mlflow_istio.core.basics.log_lines import READ, telling
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import NotFound

_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessStatus:
    """One process of the mesh: the proxy or a model server.

    Attributes:
        name: ``envoy``, or the replica's name.
        deployment: The replica's Deployment; empty for Envoy.
        revision: The revision of the pod template that it runs; empty for Envoy.
        phase: ``waiting`` (for its revision to take over), ``serving`` or ``draining``.
        state: RUNNING, STARTING, BACKOFF (it ended and is tried again after a pause), STOPPING, DOWN and so on.
        ready: Whether it answers its readiness check.
        pid: Process id; 0 when it does not run.
        port: Its port on 127.0.0.1; Envoy's is that of its statistics, 0 before the mesh was first up.
        restarts: How often it was started again since the mesh came up.
        log: Its log file.
    """

    name: str
    deployment: str
    revision: str
    phase: str
    state: str
    ready: bool
    pid: int
    port: int
    restarts: int
    log: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshStatus:
    """What runs in a mesh.

    Attributes:
        name: Name of the mesh.
        directory: Its state directory.
        running: Whether its processes are supervised now.
        statistics_url: Envoy's statistics, for Prometheus; empty before the mesh was first up.
        endpoints: Port of each endpoint on 127.0.0.1, by its name.
        processes: Envoy, then the replicas by name.
    """

    name: str
    directory: Path
    running: bool
    statistics_url: str
    endpoints: dict[str, int]
    processes: tuple[ProcessStatus, ...]

    @property
    def replicas(self) -> tuple[ProcessStatus, ...]:
        """The model servers."""
        return tuple(process for process in self.processes if process.deployment)


def status(name: str, state: StateDirectory, supervisor: Supervisor) -> MeshStatus:
    """What runs now."""
    running = supervisor.is_alive()
    programs = supervisor.programs() if running else {}
    replicas = state.all_replicas(damaged=False)
    ready = ready_names(replicas, supervisor) if running else frozenset()
    book = state.port_book()

    def process(name: str, *, ready: bool, port: int, replica: Replica | None = None) -> ProcessStatus:
        program = programs.get(name)
        return ProcessStatus(
            name=name,
            deployment=replica.deployment if replica else "",
            revision=replica.revision if replica else "",
            phase=replica.phase if replica else SERVING,
            # The supervisor calls a process STARTING for its first seconds, ready or not.
            state="RUNNING" if ready else program.state if program else "DOWN",
            ready=ready,
            pid=program.pid if program else 0,
            port=port,
            restarts=max(0, supervisor.starts(name) - 1) if running else 0,
            log=state.log_file(name),
        )

    port = 0 if book is None else book.statistics
    envoy = process(ENVOY, ready=running and EnvoyAdmin(path=admin_socket(state)).is_ready(), port=port)
    servers = [
        process(server.name, ready=server.name in ready, port=server.port, replica=server) for server in replicas
    ]
    return MeshStatus(
        name=name,
        directory=state.root,
        running=running,
        statistics_url=f"http://127.0.0.1:{port}{STATISTICS_PATH}" if port else "",
        endpoints=endpoint_ports(state),
        processes=(envoy, *servers),
    )


def endpoint_ports(state: StateDirectory) -> dict[str, int]:
    """The port of each VirtualService that there is."""
    book = state.port_book()
    if book is None:
        return {}
    return {name: book.endpoints[name] for name in state.object_names("VirtualService") if name in book.endpoints}


def with_status(deployment: Object, state: StateDirectory, supervisor: Supervisor) -> Object:
    """A Deployment with its status as it is now; replicas of every revision count, as on a cluster."""
    wanted = workload(deployment)
    live = [
        replica
        for replica in state.all_replicas(damaged=False)
        if replica.deployment == wanted.name and replica.phase != DRAINING
    ]
    ready = len(ready_names(live, supervisor))
    counts = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": len(live),
        "updatedReplicas": sum(is_current(replica, wanted) for replica in live),
        "readyReplicas": ready,
        "availableReplicas": ready,
    }
    return {**deployment, "status": counts}


def ready_names(replicas: Sequence[Replica], supervisor: Supervisor) -> frozenset[str]:
    """Names of those that are ready now, asked at the same time.

    A replica without a readiness check is ready as long as its process lives.
    """
    if len(replicas) < 2:
        answers = [_is_ready(replica, supervisor) for replica in replicas]
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            answers = list(pool.map(lambda replica: _is_ready(replica, supervisor), replicas))
    return frozenset(replica.name for replica, answer in zip(replicas, answers, strict=True) if answer)


def failed(replicas: Sequence[Replica], ready: Collection[str], supervisor: Supervisor) -> Replica | None:
    """A replica that ended before it was ready, whether it is being tried again or not.

    One that was ready before and was killed gets one start to become ready again.
    """
    programs = supervisor.programs()
    for replica in replicas:
        program = programs.get(replica.name)
        if replica.name in ready or program is None:
            continue
        futile = supervisor.starts(replica.name) - supervisor.last_ready_start(replica.name)
        ended = program.state in ("BACKOFF", "EXITED")
        if program.state == "FATAL" or futile > 1 or (ended and futile > 0):
            return replica
    return None


def logs(state: StateDirectory, name: str, lines: int) -> str:
    """The last log lines of a process, or of all replicas of a deployment, each under its name.

    Raises:
        NotFound: Nothing of that name has a log.
    """
    return _under_names(_logs(state, name, lines))


def last_words(state: StateDirectory, name: str, lines: int) -> str:
    """Of the log of a process, or of those of all replicas of a deployment, the lines that tell why it isn't ready.

    Raises:
        NotFound: Nothing of that name has a log.
    """
    return _under_names({process: telling(log, lines) for process, log in _logs(state, name, READ).items()})


def _logs(state: StateDirectory, name: str, lines: int) -> Mapping[str, Sequence[str]]:
    """The last log lines of each process: under no name where there can be only one."""
    if name in (ENVOY, SUPERVISOR) or state.log_file(name).exists():
        return {"": read_tail(state.log_file(name), lines)}
    names = [replica.name for replica in state.all_replicas(damaged=False) if replica.deployment == name]
    if not names:
        raise NotFound(
            f"nothing in {state.logs} is called '{name}': use {ENVOY}, {SUPERVISOR}, a deployment or a replica"
        )
    return {name: read_tail(state.log_file(name), lines) for name in names}


def _under_names(logs: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(line for name, log in logs.items() for line in (*((f"==> {name} <==",) if name else ()), *log))


def _is_ready(replica: Replica, supervisor: Supervisor) -> bool:
    if not supervisor.is_noted(replica.name):
        return False
    if replica.readiness is None:
        return True
    if replica.readiness.service is not None:
        return serving(f"127.0.0.1:{replica.port}", replica.readiness.service, timeout=replica.readiness.timeout)
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=replica.readiness.timeout)
    try:
        connection.request("GET", replica.readiness.path)
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
