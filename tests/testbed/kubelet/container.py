"""One container: its process, its probes, its restarts, and the status Kubernetes shows of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tests.testbed.kubelet import environment, image, probes, volumes
from tests.testbed.kubelet.environment import Lookup, NotRunnableError
from tests.testbed.network import BRIDGE_ADDRESS, Host
from tests.testbed.processes import tail

# Any image of this name can't be pulled; every other image is taken as there, and not looked at.
_UNPULLABLE = "invalid"
_RETRY_SECONDS = 1.0
_HEALTHY_SECONDS = 600.0
_LEAST_SECONDS = 2.0
_MESSAGE_LINES, _MESSAGE_BYTES = 80, 2048
_ENTER = Path(__file__).with_name("enter.py")
_INHERITED = ("LANG", "LC_ALL", "TZ", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the containers of one pod share.

    Attributes:
        facts: `nodeName`, `hostIP` and `podIP`.
        laid: the folder of each volume.
        eager: look for the first success of a probe more often than its period says.
        first_delay, longest_delay: seconds before the second restart in a row, and the most it doubles up to.
    """

    pod: Mapping[str, Any]
    facts: Mapping[str, str]
    host: Host
    folder: Path
    laid: Mapping[str, Path]
    lookup: Lookup
    changed: Callable[[], None]
    api_port: int
    eager: bool
    first_delay: float
    longest_delay: float


class Container:
    """Runs one container until it is stopped, or ends and its restart policy lets it rest."""

    def __init__(self, spec: Mapping[str, Any], around: Surroundings, *, policy: str) -> None:
        self.name = str(spec["name"])
        self.log = around.folder / f"{self.name}.log"
        self._spec, self._around, self._policy = spec, around, policy
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
        self._last_state: dict[str, Any] = {}
        self._ready = self._started = False
        self._restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"container {self.name}", daemon=True)
        self.finished = threading.Event()

    def start(self) -> None:
        """Starts the container without waiting for it."""
        self._thread.start()

    def stop(self, deadline: float, turn: Callable[[], object] | None = None) -> None:
        """Ends the container for good: preStop, SIGTERM, and SIGKILL once `time.monotonic()` reaches the deadline.

        Args:
            turn: waits until a sidecar may be told to end; however late that is, it then has a moment.
        """
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None and process.poll() is None:
            self._before_stop(deadline)
            if turn is not None:
                turn()
                deadline = max(deadline, time.monotonic() + _LEAST_SECONDS)
            _signal(process, signal.SIGTERM)
            self._thread.join(max(0.0, deadline - time.monotonic()))
            _kill_session(process)
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def has_run(self) -> bool:
        """Whether its program was ever started."""
        return "waiting" not in self._state or bool(self._last_state)

    @property
    def is_started(self) -> bool:
        """Whether its program runs and its startup probe, if there is one, has succeeded."""
        with self._lock:
            return self._started

    @property
    def exit_code(self) -> int | None:
        """The code it ended with for good, None before that."""
        return int(self._state["terminated"]["exitCode"]) if self.finished.is_set() else None

    def status(self) -> dict[str, Any]:
        """What stands in the pod's `containerStatuses`."""
        with self._lock:
            return {
                "name": self.name,
                "image": self._spec.get("image", ""),
                "imageID": "",
                "ready": self._ready,
                "started": self._started,
                "restartCount": self._restarts,
                "state": self._state,
                "lastState": self._last_state,
            }

    def _run(self) -> None:
        if self._spec.get("image", "").startswith(_UNPULLABLE):
            message = f'Back-off pulling image "{self._spec["image"]}"'
            self._show({"waiting": {"reason": "ImagePullBackOff", "message": message}})
            self._stopping.wait()
            return
        delay = 0.0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                process = self._launch()
            except NotRunnableError as error:
                self._show({"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}})
                self._stopping.wait(_RETRY_SECONDS)
                continue
            if process is None:
                return
            self._watch(process)
            if not self._is_to_run_again(process.returncode):
                self.finished.set()
                self._around.changed()
                return
            if time.monotonic() - began > _HEALTHY_SECONDS:
                delay = 0.0
            self._wait_for_restart(delay)
            delay = min(max(2 * delay, self._around.first_delay), self._around.longest_delay)

    def _launch(self) -> subprocess.Popen[bytes] | None:
        """Starts the program, unless the container is being stopped."""
        around = self._around
        known = environment.variables(self._spec, around.pod, around.facts, around.lookup)
        argv = environment.command(self._spec, known, sys.executable)
        with self._lock:
            if self._stopping.is_set():
                return None
            self._environment = {**self._base_environment(), **known}
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(
                    self._entering(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                )
            return self._process

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Probes the program until it ends, and sees to it that nothing it started outlives it."""
        began, ended = now(), threading.Event()
        started = "startupProbe" not in self._spec
        ready = started and "readinessProbe" not in self._spec
        self._show({"running": {"startedAt": began}}, started=started, ready=ready)
        prober = threading.Thread(target=self._probe, args=(process, ended), daemon=True)
        prober.start()
        code = process.wait()
        ended.set()
        _kill_session(process)
        details: dict[str, Any] = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": began,
            "finishedAt": now(),
        }
        if code != 0 and self._spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            details["message"] = tail(self.log, _MESSAGE_LINES)[-_MESSAGE_BYTES:]
        self._show({"terminated": details})

    def _probe(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        if "startupProbe" in self._spec:
            for good in self._verdicts("startupProbe", ended):
                if good:
                    self._show_probed(ended, started=True, ready="readinessProbe" not in self._spec)
                    break
                self._end_unhealthy(process, ended)
                return
        if "livenessProbe" in self._spec:
            threading.Thread(target=self._probe_liveness, args=(process, ended), daemon=True).start()
        if "readinessProbe" in self._spec:
            for good in self._verdicts("readinessProbe", ended):
                self._show_probed(ended, started=True, ready=good)

    def _probe_liveness(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        for good in self._verdicts("livenessProbe", ended):
            if not good:
                self._end_unhealthy(process, ended)
                return

    def _verdicts(self, kind: str, ended: threading.Event) -> Any:
        probe = self._spec[kind]
        address = self._around.host.address
        return probes.verdicts(
            probe,
            lambda: probes.check(probe, self._spec, address, self._execute),
            ended,
            eager=self._around.eager,
        )

    def _end_unhealthy(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        _signal(process, signal.SIGTERM)
        if not ended.wait(float(self._around.pod["spec"].get("terminationGracePeriodSeconds", 30))):
            _kill_session(process)

    def _is_to_run_again(self, code: int) -> bool:
        if self._stopping.is_set() or self._policy == "Never":
            return False
        return self._policy == "Always" or code != 0

    def _wait_for_restart(self, delay: float) -> None:
        with self._lock:
            self._restarts += 1
            self._last_state = self._state
        reason = "CrashLoopBackOff" if delay else "ContainerCreating"
        message = f"back-off {delay:.0f}s restarting failed container={self.name}" if delay else ""
        self._show({"waiting": {"reason": reason, "message": message}})
        self._stopping.wait(delay)

    def _before_stop(self, deadline: float) -> None:
        hook = (self._spec.get("lifecycle") or {}).get("preStop") or {}
        seconds = max(0.0, deadline - time.monotonic())
        if "sleep" in hook:
            self._thread.join(min(seconds, float(hook["sleep"]["seconds"])))
        elif "exec" in hook:
            self._execute(list(hook["exec"]["command"]), seconds)

    def _execute(self, argv: list[str], seconds: float) -> bool:
        """Runs another command in the container."""
        if argv[0] in ("python", "python3"):
            argv = [sys.executable, *argv[1:]]
        try:
            done = subprocess.run(
                self._entering(argv), env=self._environment, capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _entering(self, argv: list[str]) -> list[str]:
        scratch = self._around.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        task = {
            "argv": argv,
            "network": str(self._around.host.namespace),
            "directory": self._spec.get("workingDir", "/"),
            "mounts": volumes.mounts(self._spec, self._around.laid),
            "kept": image.paths(),
            "read_only": bool((self._spec.get("securityContext") or {}).get("readOnlyRootFilesystem")),
            "scratch": str(scratch),
        }
        return [sys.executable, "-I", "-S", str(_ENTER), json.dumps(task)]

    def _base_environment(self) -> dict[str, str]:
        """What an image and the kubelet would give: no variable of the testbed's own environment gets in by chance."""
        home = self._around.folder / "home"
        home.mkdir(exist_ok=True)
        return {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
            "HOME": str(home),
            "HOSTNAME": self._around.pod["metadata"]["name"],
            "PYTHONPATH": str(image.REPOSITORY),
            "KUBERNETES_SERVICE_HOST": BRIDGE_ADDRESS,
            "KUBERNETES_SERVICE_PORT": str(self._around.api_port),
        }

    def _show_probed(self, ended: threading.Event, *, started: bool, ready: bool) -> None:
        """Takes a probe's verdict over, unless the program it probed has ended meanwhile."""
        with self._lock:
            if ended.is_set() or (self._started, self._ready) == (started, ready):
                return
            self._started, self._ready = started, ready
        self._around.changed()

    def _show(self, state: dict[str, Any], *, started: bool = False, ready: bool = False) -> None:
        with self._lock:
            if (self._state, self._started, self._ready) == (state, started, ready):
                return
            self._state, self._started, self._ready = state, started, ready
        self._around.changed()


def now() -> str:
    """The time as the Kubernetes API writes it, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the program's process group; the group's number is its pid, as it leads its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
