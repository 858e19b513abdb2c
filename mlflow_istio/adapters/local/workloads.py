"""What the local mesh carries out of a Deployment, as a value. Pure.

Accepted, and carried out: ``replicas``, ``selector.matchLabels``, the template's labels and annotations, one container
with ``name``, ``command``, ``args``, ``env`` (plain values; ``$(NAME)`` refers to earlier ones as in Kubernetes), one
``ports`` entry, ``readinessProbe`` (``httpGet`` or ``grpc``, and its timings), ``lifecycle.preStop.sleep`` (how long a replica
that no longer gets requests waits before it is stopped) and ``terminationGracePeriodSeconds``.

Accepted, and without effect on one machine: ``image``, ``imagePullPolicy``, ``resources``, ``startupProbe`` and
``initialDelaySeconds`` (a replica gets no request before it is ready, however long it takes),
``restartPolicy: Always``, ``strategy`` of type RollingUpdate (all new replicas come up beside the old ones),
``progressDeadlineSeconds``, ``revisionHistoryLimit``.

Everything else is refused by its path.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.adapters.local.supported_fields import Field, read
from mlflow_istio.core.basics.stored import form, stored
from mlflow_istio.errors import InvalidInput

REVISION_LENGTH = 10
_GRACE_SECONDS = 30
_REPLICAS_LIMIT = 1000
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")


@form(closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """How a replica shows that it is ready: a GET answered with 200 to 399, or SERVING by grpc.health.v1.

    Attributes:
        path: Path asked; empty where the health of a service is.
        service: The service whose health is asked, empty: the whole server's; None where a path is asked.
        period: Seconds between two checks.
        timeout: Seconds until a check without an answer has failed.
        failures: Failed checks in a row after which a ready replica is unready.
        successes: Passed checks in a row after which an unready replica is ready.
    """

    path: str
    service: str | None = field(default=None, metadata=stored(sparse=True))
    period: int = 10
    timeout: int = 1
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What one process runs, and how it is known, stopped and seen to be ready.

    Attributes:
        labels: Labels of its pod.
        command: Command and arguments, references to the environment not yet resolved.
        environment: Names and values in their order, references not yet resolved.
        readiness: How it shows that it is ready; None means as soon as it runs.
        grace: Seconds between the request to stop and the kill.
        pause: Seconds between the last request and the request to stop; None leaves it to the mesh.
    """

    labels: Mapping[str, str]
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    readiness: Readiness | None
    grace: int
    pause: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload(Program):
    """A Deployment as the local mesh runs it.

    Attributes:
        name: Name of the Deployment.
        replicas: Wanted number of replicas.
        revision: Hash of the pod template; another revision means other processes.
    """

    name: str
    replicas: int
    revision: str


def workload(deployment: Mapping[str, Any]) -> Workload:
    """Read a Deployment.

    Raises:
        Unsupported: A field that the local mesh can't carry out; names its path.
        InvalidInput: A value that can't be right.
    """
    spec = (
        read(deployment)
        .member("spec")
        .members("replicas", "selector", "template", "strategy", "progressDeadlineSeconds", "revisionHistoryLimit")
    )
    _check_strategy(spec["strategy"])
    template = spec["template"].members("metadata", "spec")
    metadata = template["metadata"].members("labels", "annotations")
    labels = metadata["labels"].texts()
    selector = spec["selector"].members("matchLabels")["matchLabels"]
    if not selector or not selector.texts().items() <= labels.items():
        raise spec["selector"].invalid("must have matchLabels that the template's labels hold")
    pod = template["spec"].members("containers", "terminationGracePeriodSeconds", "restartPolicy")
    if pod["restartPolicy"] and pod["restartPolicy"].text() != "Always":
        raise pod["restartPolicy"].unsupported("it always restarts")
    containers = pod["containers"].each()
    if len(containers) != 1:
        raise pod["containers"].unsupported(f"a replica is one process, and this has {len(containers)} containers")
    container = containers[0].members(
        *("name", "image", "imagePullPolicy", "resources", "command", "args", "env", "ports"),
        *("readinessProbe", "startupProbe", "lifecycle"),
    )
    if not container["command"].each():
        raise container["command"].unsupported("it runs no images, so the command must be given")
    grace = pod["terminationGracePeriodSeconds"]
    ports = _ports(container["ports"])
    if container["startupProbe"]:
        _readiness(container["startupProbe"], ports)
    return Workload(
        name=str(deployment["metadata"]["name"]),
        replicas=spec["replicas"].integer(low=0, high=_REPLICAS_LIMIT) if spec["replicas"] else 1,
        labels=labels,
        command=tuple(part.text() for key in ("command", "args") for part in container[key].each()),
        environment=_environment(container["env"]),
        readiness=_readiness(container["readinessProbe"], ports),
        grace=grace.integer(low=0, high=3600) if grace else _GRACE_SECONDS,
        pause=_pause(container["lifecycle"]),
        revision=_revision(spec["template"].value),
    )


def resolved(
    command: Sequence[str], environment: Sequence[tuple[str, str]], given: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command and environment of one process, with ``$(NAME)`` resolved as Kubernetes does it.

    Args:
        command: Command and arguments.
        environment: Names and values in their order; each may refer to those before it.
        given: Variables of this one process; they win over the environment.
    """
    known = dict(given)
    for name, value in environment:
        if name not in given:
            known[name] = _expand(value, known)
    return tuple(_expand(part, known) for part in command), known


def _expand(text: str, environment: Mapping[str, str]) -> str:
    def value(reference: re.Match[str]) -> str:
        if reference.group() == "$$":
            return "$"
        return environment.get(reference.group(1), reference.group())

    return _REFERENCE.sub(value, text)


def _check_strategy(strategy: Field) -> None:
    members = strategy.members("type", "rollingUpdate")
    if members["type"] and members["type"].text() != "RollingUpdate":
        raise members["type"].unsupported("it only rolls")
    members["rollingUpdate"].members("maxSurge", "maxUnavailable")


def _ports(field: Field) -> tuple[int | str, ...]:
    """Number and name of the container's port."""
    ports = field.each()
    if len(ports) > 1:
        raise ports[1].unsupported("a replica has one port")
    known: list[int | str] = []
    for port in ports:
        members = port.members("name", "containerPort", "protocol")
        if members["protocol"] and members["protocol"].text() != "TCP":
            raise members["protocol"].unsupported("use TCP")
        known.append(members["containerPort"].integer(low=1, high=65535))
        if members["name"]:
            known.append(members["name"].text())
    return tuple(known)


def _environment(field: Field) -> tuple[tuple[str, str], ...]:
    variables: dict[str, str] = {}
    for entry in field.each():
        members = entry.members("name", "value")
        name = members["name"].name()
        if not _ENV_NAME.fullmatch(name):
            raise members["name"].invalid("is no name of a variable")
        value = members["value"].text() if members["value"] else ""
        if "\0" in value:
            raise members["value"].invalid("must not hold a null character")
        variables.pop(name, None)
        variables[name] = value
    return tuple(variables.items())


def _readiness(field: Field, ports: tuple[int | str, ...]) -> Readiness | None:
    if not field:
        return None
    timings = ("periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold", "initialDelaySeconds")
    members = field.members("httpGet", "grpc", *timings)
    if bool(members["httpGet"]) == bool(members["grpc"]):
        raise field.unsupported("use httpGet or grpc")
    service = _health_service(members["grpc"], ports) if members["grpc"] else None

    def number(key: str, default: int) -> int:
        return members[key].integer(low=1, high=3600) if members[key] else default

    return Readiness(
        path=_path(members["httpGet"], ports) if members["httpGet"] else "",
        service=service,
        period=number("periodSeconds", 10),
        timeout=number("timeoutSeconds", 1),
        failures=number("failureThreshold", 3),
        successes=number("successThreshold", 1),
    )


def _path(field: Field, ports: tuple[int | str, ...]) -> str:
    get = field.members("path", "port", "scheme")
    if get["scheme"] and get["scheme"].text() != "HTTP":
        raise get["scheme"].unsupported("use HTTP")
    _check_port(get["port"], ports)
    path = get["path"].text() if get["path"] else "/"
    if not path.startswith("/"):
        raise get["path"].invalid("must start with '/'")
    return path


def _health_service(field: Field, ports: tuple[int | str, ...]) -> str:
    grpc = field.members("port", "service")
    grpc["port"].integer(low=1, high=65535)  # Kubernetes takes no name of a port here
    _check_port(grpc["port"], ports)
    return grpc["service"].text() if grpc["service"] else ""


def _check_port(port: Field, ports: tuple[int | str, ...]) -> None:
    if ports and port.value not in ports:
        raise port.unsupported(f"a replica has one port, {ports[0]}")


def _pause(lifecycle: Field) -> float | None:
    sleep = lifecycle.members("preStop")["preStop"].members("sleep")["sleep"]
    if not lifecycle:
        return None
    return float(sleep.members("seconds")["seconds"].integer(low=0, high=3600))


def _revision(template: Mapping[str, Any]) -> str:
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:REVISION_LENGTH]


def check_name(kind: str, name: str) -> str:
    """The name, if Kubernetes would take it.

    Raises:
        InvalidInput: It is no DNS name in lower case.
    """
    if len(name) > 253 or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name):
        raise InvalidInput(
            f"{name!r} is not a DNS label, so it can't be the name of a {kind}: use lower-case letters, digits and "
            "'-', beginning and ending with a letter or digit"
        )
    return name
