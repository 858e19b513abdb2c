"""A kind of model server as one value, and how a user's own is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf
from typing import Any

from mlflow_istio.core.basics.names import check_environment, nearest
from mlflow_istio.core.basics.stored import form
from mlflow_istio.errors import InvalidInput

BODIES = ("mlflow", "json", "v2", "none")
"""What scoring takes: a body of MLflow's scoring server, made of any input; the JSON that was given, as it is; the V2 protocol's
JSON or message, made of either; or nothing that anybody knows."""
PROTOCOLS = ("http", "grpc")
"""What callers speak, in Kubernetes' words for ``appProtocol``."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_SERVICE = re.compile(r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?")
_METHOD = re.compile(r"(/[A-Za-z_]\w*(\.[A-Za-z_]\w*)*/[A-Za-z_]\w*)?")
_STANDS_FOR = re.compile(r"\$\$|\$\{?([A-Z_]+)\}?|\$")
_VARIABLES = {"HOST": "MLFLOW_ISTIO_HOST", "PORT": "MLFLOW_ISTIO_PORT", "MODEL": "MLFLOW_ISTIO_MODEL_URI"}
"""What ``$HOST``, ``$PORT`` and ``$MODEL`` in a command stand for: variables that every model server of ours is started with."""


@form(closed=True, sparse=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """A kind of model server.

    Attributes:
        name: What people call it.
        about: What it is, in one line.
        image: Its container image; empty: nobody but the user knows.
        command: What is run in it, with ``$HOST``, ``$PORT`` and ``$MODEL``; empty: what the image runs.
        args: Its arguments, likewise.
        env: Environment that it needs, likewise.
        port: Where it listens in its pod.
        protocol: One of ``PROTOCOLS``.
        readiness: Path that answers 200 to a GET once it is ready; over gRPC the service whose health is asked, empty: the whole
            server's.
        scoring: Path that takes a POST to be scored; over gRPC the method, empty: nobody knows one.
        body: One of ``BODIES``.
        names_version: Whether its answers carry the header of the version; else the route adds it.
        streams: Whether its answers are mostly streamed.
        keep_alive: Seconds for which it keeps a connection open on which nothing is asked; 0: longer than any proxy. Five is what
            Uvicorn does unless told otherwise, and llama.cpp's server.
        connection_requests: Requests after which it closes a connection; 0: no such number.
        records: Whether it keeps requests and answers, so that a shadow can be compared.
    """

    name: str
    about: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 8080
    protocol: str = "http"
    readiness: str = "/"
    scoring: str = "/invocations"
    body: str = "json"
    names_version: bool = False
    records: bool = False
    streams: bool = False
    keep_alive: float = 5.0
    connection_requests: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput(f"runtime {self.name!r}: 'name' is up to 40 lower-case letters, digits and '-'")
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 1 <= self.port <= 65535:
            raise self._wrong("port", "is a number from 1 to 65535")
        if (
            isinstance(self.keep_alive, bool)
            or not isinstance(self.keep_alive, int | float)
            or not 0 <= self.keep_alive < inf
        ):
            raise self._wrong("keep_alive", "is a number of seconds, 0 for a server that closes no idle connection")
        requests = self.connection_requests
        if isinstance(requests, bool) or not isinstance(requests, int) or not 0 <= requests < 2**31:
            raise self._wrong("connection_requests", "is a number of requests, 0 for a server that doesn't count them")
        try:
            check_environment(self.env)
        except InvalidInput as exc:
            raise self._wrong("env", f"can't be: {exc.message}") from exc
        if self.body not in BODIES:
            raise self._wrong("body", f"can't be {self.body!r}: {nearest(str(self.body), BODIES)}")
        if self.protocol not in PROTOCOLS:
            raise self._wrong("protocol", f"can't be {self.protocol!r}: {nearest(str(self.protocol), PROTOCOLS)}")
        if self.protocol == "grpc":
            self._check_grpc()
        elif self.body == "none":
            raise self._wrong("body", f"can't be {self.body!r} without protocol: grpc")
        for what in ("readiness", "scoring") if self.protocol == "http" else ():
            try:
                check_url_path(getattr(self, what))
            except InvalidInput as exc:
                raise self._wrong(what, f"can't be {getattr(self, what)!r}: {exc.message}") from exc
        for what in ("command", "args"):
            parts = getattr(self, what)
            if not all(isinstance(part, str) and "\0" not in part for part in parts):
                raise self._wrong(what, "is a list of texts")
            for part in parts:
                _written(part, self.name, what)

    def _check_grpc(self) -> None:
        if not _SERVICE.fullmatch(self.readiness):
            raise self._wrong(
                "readiness", f"can't be {self.readiness!r}: over gRPC it is a service such as package.Service"
            )
        if not _METHOD.fullmatch(self.scoring):
            raise self._wrong(
                "scoring", f"can't be {self.scoring!r}: over gRPC it is a method such as /package.Service/Method"
            )
        if self.body != ("v2" if self.scoring else "none"):
            raise self._wrong("body", "is v2 over gRPC where 'scoring' names a method, and none where it is empty")

    @property
    def process(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Command and arguments as Kubernetes takes them: ``$(NAME)`` for a variable, ``$$`` for a dollar sign."""
        command = tuple(_written(part, self.name, "command") for part in self.command)
        return command, tuple(_written(part, self.name, "args") for part in self.args)

    @property
    def environment(self) -> dict[str, str]:
        """Its environment, likewise."""
        return {name: _written(value, self.name, f"env.{name}") for name, value in self.env.items()}

    @property
    def takes_model(self) -> bool:
        """Whether it is told where the model's files lie."""
        return self._is_told("MODEL")

    @property
    def takes_port(self) -> bool:
        """Whether it is told the port at which it has to listen."""
        return self._is_told("PORT")

    @property
    def takes_host(self) -> bool:
        """Whether it is told the address at which it has to listen."""
        return self._is_told("HOST")

    def with_options(self, **changes: Any) -> Runtime:
        """The runtime with what is given; None leaves a field as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def _is_told(self, placeholder: str) -> bool:
        texts = (*self.command, *self.args, *self.env.values())
        return any(placeholder in match.groups() for part in texts for match in _STANDS_FOR.finditer(part))

    def _wrong(self, what: str, why: str) -> InvalidInput:
        return InvalidInput(f"runtime '{self.name}': '{what}' {why}")


def runtime_of(document: Any, where: str) -> Runtime:
    """A user's own profile.

    Args:
        document: What its file holds.
        where: The file, for messages.

    Raises:
        InvalidInput: A key is unknown, or a value is none; names it.
    """
    if not isinstance(document, Mapping):
        raise InvalidInput(f"runtime profile '{where}' must hold keys and values such as 'port: 8080'")
    known = {member.name: member for member in fields(Runtime)}
    for key in document:
        if key not in known:
            raise InvalidInput(f"runtime profile '{where}': there is no '{key}': {nearest(str(key), known)}")
    if "name" not in document:
        raise InvalidInput(f"runtime profile '{where}' must have a 'name'")
    values = dict(document)
    for key in ("command", "args"):
        if key in values:
            values[key] = texts(values[key], f"runtime profile '{where}': '{key}'")
    env = values.get("env", {})
    if not isinstance(env, Mapping) or not all(isinstance(part, str) for pair in env.items() for part in pair):
        raise InvalidInput(f"runtime profile '{where}': 'env' must hold texts: put quotes around numbers")
    for key in ("name", "about", "image", "protocol", "readiness", "scoring", "body"):
        if key in values and not isinstance(values[key], str):
            raise InvalidInput(f"runtime profile '{where}': '{key}' must be a text")
    for key in ("names_version", "records", "streams"):
        if key in values and not isinstance(values[key], bool):
            raise InvalidInput(f"runtime profile '{where}': '{key}' is true or false")
    return Runtime(**values)


def check_url_path(path: str) -> str:
    """Return the path if a request can have it.

    Raises:
        InvalidInput: It can't.
    """
    if re.fullmatch(r"/[!-~]*", path) and "#" not in path:
        return path
    raise InvalidInput("it must be a path such as /v2/health/ready")


def texts(value: Any, what: str) -> tuple[str, ...]:
    """A list of texts.

    Raises:
        InvalidInput: It is none.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise InvalidInput(f'{what} must be a list of texts, such as ["serve", "--port", "$PORT"]')
    return tuple(value)


def _written(text: str, name: str, what: str) -> str:
    def instead(match: re.Match[str]) -> str:
        if match[0] in ("$$", "$"):
            return "$$"
        if match[1] not in _VARIABLES:
            raise InvalidInput(
                f"runtime '{name}': '{what}' has {match[0]}, which stands for nothing: "
                f"{nearest(match[1], _VARIABLES)}; a dollar sign is $$"
            )
        return f"$({_VARIABLES[match[1]]})"

    return _STANDS_FOR.sub(instead, text)
