"""A command that is interrupted ends with a word, whoever interrupts it, and leaves the signals as they were."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from mlflow_istio.cli import main, release, traffic
from mlflow_istio.client.errors import mapped, mlflow_errors
from mlflow_istio.showing.interruption import LAST_LINE, ended_as_by_ctrl_c

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def unhandled() -> Iterator[None]:
    """The signals as a shell leaves them to a job in the foreground, and afterwards as they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    now = {number: signal.getsignal(number) for number in SIGNALS[1:]}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert set(now.values()) <= {signal.SIG_DFL, signal.SIG_IGN}


class Interrupted:
    """Verbs of which every one is interrupted while it is at work."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __getattr__(self, _verb: str) -> Any:
        def work(*_: Any, **__: Any) -> Any:
            os.kill(os.getpid(), self._number)
            return True

        return work


def interrupted(monkeypatch: pytest.MonkeyPatch, number: int, *arguments: str) -> Result:
    for family in (traffic, release):
        monkeypatch.setattr(family, "verbs_on", lambda _target: Interrupted(number))
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "arguments", [("promote", "churn"), ("rollback", "churn"), ("status", "churn"), ("approve", "churn")]
)
def test_every_command_says_what_stays(
    monkeypatch: pytest.MonkeyPatch, number: int, arguments: tuple[str, ...]
) -> None:
    done = interrupted(monkeypatch, number, *arguments)
    assert (done.exit_code, done.output.strip()) == (130, LAST_LINE)


def asking(number: int) -> click.Command:
    @click.command()
    def ask() -> None:
        with mlflow_errors():
            os.kill(os.getpid(), number)

    return ask


@pytest.mark.parametrize("number", SIGNALS)
def test_the_mlflow_command_says_it_too(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A group stands for MLflow's, ``mlflow.cli.cli``, whose import takes seconds and brings its server along."""
    command = click.Group(commands=[asking(number)])
    monkeypatch.setitem(sys.modules, "mlflow.cli", SimpleNamespace(cli=command))
    done = CliRunner().invoke(command, ["ask"])
    assert (done.exit_code, done.output.strip()) == (130, LAST_LINE)


def test_another_program_that_click_runs_ends_in_its_own_way() -> None:
    done = CliRunner().invoke(asking(signal.SIGINT))
    assert (done.exit_code, done.output.strip()) == (1, "Aborted!")


def test_a_program_of_somebody_elses_keeps_its_signals_and_its_interrupt() -> None:
    handlers = []

    @mapped
    def called_from_a_notebook() -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        called_from_a_notebook()
    assert handlers == [signal.SIG_DFL]


def test_what_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup: the terminal may go."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert interrupted(monkeypatch, signal.SIGHUP, "approve", "churn").exit_code == 0


def test_a_thread_has_no_signals() -> None:
    seen: list[Any] = []

    def work() -> None:
        with ended_as_by_ctrl_c():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
