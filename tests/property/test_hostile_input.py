"""Ten thousand inputs of somebody who means harm, over all verbs and front ends: no traceback, nothing half written, no hang.

Half of them go through the command line, half through the client that MLflow loads, on targets of both kinds; the ports behind
them are in memory. What becomes of them is printed at the end. They are the same each time, unless ``HOSTILE_INPUTS`` sets their
number: then they are others.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
import requests
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from mlflow_istio.cli import main
from mlflow_istio.client.plugin import IstioDeploymentClient
from mlflow_istio.errors import LONGEST
from mlflow_istio.options.base import ConnectionOptions, CreateOptions, UpdateEndpointOptions, UpdateOptions
from mlflow_istio.releases.context import Context
from mlflow_istio.testing import StillClock
from tests.property.test_foreign_text import HOSTILE
from tests.support.damage import TEXTS, VALUES
from tests.support.in_memory import World
from tests.support.in_memory_verbs import CLUSTER, LOCAL, InMemoryPlace, InMemoryVerbs
from tests.support.worlds import NAMES, fork, three_endpoints
from tests.unit.cli.test_flags import MODELS as OF_COMMANDS
from tests.unit.client.test_binding import MODELS as OF_VERBS

INPUTS = int(os.environ.get("HOSTILE_INPUTS", "10000"))
LONG = 60
"""Seconds after which an input has hung; what takes longest takes less than one."""
LOOKS = 40
"""Times that a verb may wait before it counts as one that goes on by itself."""


class Enough(BaseException):
    """A verb that waits by design has waited enough."""


class Hung(BaseException):
    """An input is not answered."""


class ShortClock(StillClock):
    """A clock that lets nobody wait for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._left = LOOKS

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._left -= 1
        if not self._left:
            raise Enough


class ShortPlace(InMemoryPlace):
    """A place whose verbs come to an end."""

    def _context(self, *arguments: Any, **more: Any) -> Context:
        return replace(super()._context(*arguments, **more), clock=ShortClock())


class Attacked(InMemoryVerbs):
    """All verbs on a copy of a world."""

    def _place(self, options: ConnectionOptions) -> InMemoryPlace:
        place = super()._place(options)
        return ShortPlace(**{name: getattr(place, name) for name in place.__dataclass_fields__})


OF_METHODS = {
    **OF_VERBS,
    **{name.replace("-", "_"): model for name, model in OF_COMMANDS.items()},
    "create_deployment": CreateOptions,
    "create_endpoint": CreateOptions,
    "update_deployment": UpdateOptions,
    "update_endpoint": UpdateEndpointOptions,
}


def options_of(name: str) -> st.SearchStrategy[str]:
    """Names of options, most of which the verb has; never the folder of templates, which a value could find on this machine."""
    known = sorted({*OF_METHODS.get(name.replace("-", "_"), CreateOptions).model_fields} - {"templates"})
    return st.sampled_from([*known, *known, *known, "no-such-option", "[/x]", ""])


PLAUSIBLE: tuple[Any, ...] = (
    *(
        "0",
        "1",
        "10",
        "50",
        "100",
        "101",
        "-1",
        "1e9",
        "5m",
        "2d",
        "true",
        "false",
        "none",
        "auto",
        "open",
        "guarded",
        "*",
        ".",
    ),
    *(
        "canary",
        "ab",
        "blue-green",
        "shadow",
        "promote",
        "rollback",
        "abort",
        "pause",
        "resume",
        "5,25,50,100",
        "x-arm",
        "cookie",
    ),
    *(
        "models:/ash/2",
        "ash-v1",
        "ash-v2",
        "birch-v2",
        "churn-v2",
        "churn",
        "a.example",
        "/x",
        "x-a=b",
        "errors",
        "http://h:1/x",
    ),
    *('{"ash-v1": 50, "ash-v2": 50}', '{"headers": {"x": "y"}}', '{"headers": {"x": {"regex": "(a+)+$"}}}', "[]", "{}"),
)
SHORT_TEXTS = tuple(text for text in TEXTS if len(text) < 10_000)
LIKELY = tuple(f"{name}-v{number}" for name in NAMES for number in (1, 2, 3)) + NAMES
TEXT = st.one_of(
    st.sampled_from(PLAUSIBLE),
    st.sampled_from(HOSTILE),
    st.sampled_from(SHORT_TEXTS),
    st.sampled_from(LIKELY),
    st.text(max_size=12),
)
TEXTS_MEANT = ("because", "x", "a.example")
NAME = st.sampled_from(LIKELY) | st.sampled_from(NAMES) | st.sampled_from(NAMES) | TEXT
MEANT: dict[str, tuple[Any, ...]] = {
    "endpoint": NAMES,
    "name": LIKELY,
    "deployment_name": LIKELY,
    "candidate": ("ash-v2", "birch-v2", "ash-v3"),
    "model_uri": ("models:/ash/2", "models:/ash/3", "models:/birch/3", "models:/churn@champion"),
    "strategy": ("canary", "ab", "blue-green", "shadow"),
    "action": ("promote", "rollback", "abort", "pause", "resume"),
    "to": ("ash-v1", "ash-v3", "1", "2"),
    "match": ('{"headers": {"x-user": "staff"}}',),
    "weights": ('{"ash-v1": 50, "ash-v2": 50}',),
    "steps": ("5,50,100",),
    "duration": ("1m",),
    "timeout": ("3s",),
    "retries": ('{"attempts": 2}',),
    "warmup": ("30s", "0"),
    "kpi": ("errors", "latency"),
    "header": ("x-arm",),
    "user_id": ("somebody",),
    "under": ("models",),
    "path": ("/x", "/x/y?z=1"),
    "virtual_service": ("ash",),
    "route": ("main",),
    **dict.fromkeys(
        ("weight", "abort", "mirror", "replicas", "wait", "hold", "interval", "min_requests"), ("0", "10", "503")
    ),
    **dict.fromkeys(("reason", "release_id", "scope", "alias", "cookie", "host", "method"), TEXTS_MEANT),
    **dict.fromkeys(
        ("force", "supersede", "dry_run", "detach", "redeploy", "fix", "replace", "keep_old", "take_over"), ("true",)
    ),
}
"""What is meant to be given by these names."""
NESTED = st.recursive(
    TEXT | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
VALUE = TEXT | st.sampled_from(PLAUSIBLE) | st.sampled_from(VALUES) | NESTED
TARGETS = st.sampled_from((LOCAL, CLUSTER) * 12 + ("istio-local:/..", "istio:/[/x]", "istio://%/x", ""))
SOME = st.sampled_from((0, 0, 1, 1, 1, 2, 3))


COMMANDS = tuple(
    (name, command)
    for name, command in main.commands.items()
    if name not in ("demo", "local")  # which start processes of this machine
)
METHODS = tuple(
    (name, member)
    for name, member in inspect.getmembers(IstioDeploymentClient, inspect.isfunction)
    if not name.startswith("_") and name != "explain"
)


def given_as(name: str, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is meant by that name as often as what is not."""
    meant = st.sampled_from(MEANT[name]) if name in MEANT else st.sampled_from(PLAUSIBLE)
    return meant | meant | other | other


@st.composite
def argvs(draw: st.DrawFn) -> list[str]:
    """A command line, most of whose words could be meant."""
    name, command = draw(st.sampled_from(COMMANDS))
    words = [name]
    flags = [one for one in command.params if isinstance(one, click.Option)]
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and (parameter.required or draw(st.booleans())):
            words.append(draw(given_as(str(parameter.name), NAME)))
    free = [one for one in flags if one.name not in ("target", "config", "output", "templates")]
    for flag in [draw(st.sampled_from(free)) for _ in range(draw(SOME))] if free else ():
        words += [flag.opts[0]] if flag.is_flag else [flag.opts[0], str(draw(given_as(str(flag.name), TEXT)))]
    if any(one.name == "config" for one in flags):
        for _ in range(draw(SOME)):
            option = draw(options_of(name))
            words += ["-C", f"{option}={draw(given_as(option, TEXT))}"]
    return [word.replace("\x00", "") for word in [*words, "-t", draw(TARGETS)]]  # which no command line can hold


@st.composite
def method_calls(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """A call of the client, most of whose arguments could be meant."""
    name, method = draw(st.sampled_from(METHODS))
    arguments: dict[str, Any] = {}
    chosen = [draw(options_of(name)) for _ in range(draw(SOME))]
    options = {option: draw(given_as(option, VALUE)) for option in chosen}
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        if parameter.name == "config":
            arguments["config"] = options
        elif parameter.kind is parameter.VAR_KEYWORD:
            arguments = {**options, **arguments}
        elif parameter.name != "output" and (parameter.default is parameter.empty or draw(st.booleans())):
            arguments[parameter.name] = draw(given_as(parameter.name, NAME | NAME | VALUE))
    return draw(TARGETS), name, arguments


class Tally:
    """What became of the inputs."""

    def __init__(self) -> None:
        self.became: Counter[str] = Counter()
        self.inputs = 0

    def add(self, what: str) -> None:
        self.inputs += 1
        self.became[what] += 1


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def ring(_number: int, _frame: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def standing(world: World) -> tuple[Any, ...]:
    """What a verb that refuses leaves as it is."""
    registry = world.registry
    return (
        dict(world.cluster._objects),
        {run: dict(tags) for run, tags in registry.runs.items()},
        dict(registry.tags),
        dict(registry.aliases),
    )


def check_refused(message: str) -> None:
    """One line, of bounded length, that does nothing to a terminal."""
    assert message
    assert message.isprintable(), message
    assert len(message) <= LONGEST + 200
    assert "Traceback" not in message


TO_OBEY = set("\x1b\x9b\u202e\u2066\x00\x07")
"""What a terminal would obey, of what the inputs hold."""


@contextmanager
def verbs_attacked(world: World) -> Iterator[None]:
    with mock.patch("mlflow_istio.verbs.Verbs", lambda target, **_told: Attacked(world, target)), no_longer_than(LONG):
        yield


def unreachable(*_arguments: Any, **_more: Any) -> None:
    raise requests.ConnectionError("nobody is there")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, no clock that waits, and a folder of its own for what a value may name."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("hostile"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("requests.Session.request", unreachable)
        patch.setattr("time.sleep", lambda _seconds: None)
        patch.setenv("MLFLOW_ISTIO_HOME", str(Path.cwd() / "home"))
        patch.delenv("MLFLOW_ISTIO_TARGET", raising=False)
        yield
    os.chdir(before)


def many(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize="HOSTILE_INPUTS" not in os.environ,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )


def told(tally: Tally, capsys: pytest.CaptureFixture[str], way: str) -> None:
    with capsys.disabled():
        became = ", ".join(f"{count} {what}" for what, count in tally.became.most_common())
        print(f"\n{tally.inputs} hostile inputs through {way}: 0 tracebacks, 0 partial writes, 0 hangs ({became})")


def test_the_command_line_survives_them(quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    runner = CliRunner()

    @many(INPUTS // 2)
    @given(argvs())
    def attack(words: list[str]) -> None:
        world = fork(three_endpoints())
        before = standing(world)
        with verbs_attacked(world):
            try:
                result = runner.invoke(main, words)
            except Enough:
                tally.add("went on until it was ended")
                return
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            raise error
        assert "Traceback" not in result.output
        assert not TO_OBEY & set(result.output)
        assert result.exit_code != 1 or standing(world) == before, result.output
        tally.add({0: "carried out", 1: "refused"}.get(result.exit_code, "not understood"))

    attack()
    told(tally, capsys, "the command line")
    assert tally.inputs >= INPUTS // 2


def test_the_client_survives_them(quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()

    @many(INPUTS - INPUTS // 2)
    @given(method_calls())
    def attack(attempt: tuple[str, str, dict[str, Any]]) -> None:
        target, name, arguments = attempt
        world = fork(three_endpoints())
        before = standing(world)
        refusal = ""
        with verbs_attacked(world):
            try:
                getattr(IstioDeploymentClient(target), name)(**arguments)
            except Enough:
                tally.add("went on until it was ended")
                return
            except MlflowException as exc:
                refusal = exc.message
        if refusal:
            check_refused(refusal.splitlines()[0])
            assert standing(world) == before, refusal
        tally.add("refused" if refusal else "carried out")

    attack()
    told(tally, capsys, "the client")
    assert tally.inputs >= INPUTS - INPUTS // 2
