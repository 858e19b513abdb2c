"""The commands of a release: what they pass on, what they print, and their exit status."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlflow_istio.cli import main
from mlflow_istio.cli import release as commands
from mlflow_istio.errors import StateConflict
from mlflow_istio.verbs import Result as Done


class Verbs:
    """Verbs that note what they are asked and end as told."""

    def __init__(self, **ends: Any) -> None:
        self.ends = ends
        self.asked: list[tuple[str, Any]] = []

    def release(self, endpoint: str, model_uri: str | None, options: dict[str, Any], *, watch: Any) -> Done:
        self.asked.append((endpoint, {"model_uri": model_uri, **options}))
        return self._end()

    def resume_release(self, endpoint: str, options: dict[str, Any], *, watch: Any) -> Done:
        self.asked.append((endpoint, options))
        return self._end()

    def goes_on_by_itself(self, _endpoint: str) -> bool:
        return bool(self.ends.get("planned", True))

    def unpause(self, endpoint: str, _options: Any) -> Done:
        self.asked.append((endpoint, "unpause"))
        return Done(view={"traffic": {"v1": 100}})

    def approve(self, endpoint: str, _options: Any) -> str:
        raise StateConflict(f"nothing waits for approval at endpoint '{endpoint}'")

    def reject(self, _endpoint: str, _options: Any) -> str:
        return "promotion"

    def _end(self) -> Done:
        if "signal" in self.ends:
            os.kill(os.getpid(), self.ends["signal"])
        verdict = {"word": "hold", "reason": "Because."}
        view = {"outcome": self.ends.get("outcome"), "verdict": verdict, "release_id": "r1", "traffic": {"v1": 100}}
        return Done(view={**view, **self.ends.get("view", {})}, difference=self.ends.get("difference"))


def run(monkeypatch: pytest.MonkeyPatch, verbs: Verbs, *arguments: str) -> Result:
    monkeypatch.setattr(commands, "verbs_on", lambda _target: verbs)
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("promoted", 0),
        ("open", 0),
        ("rolled-back", 3),
        ("aborted", 3),
        ("superseded", 3),
        ("inconclusive", 4),
        ("held", 4),
    ],
)
@pytest.mark.parametrize("command", ["release", "resume"])
def test_the_exit_status_tells_how_the_release_ended(
    monkeypatch: pytest.MonkeyPatch, command: str, outcome: str, status: int
) -> None:
    done = run(monkeypatch, Verbs(outcome=outcome), command, "churn")
    assert done.exit_code == status
    assert f"release r1 of churn: {outcome}. Because.\ntraffic: v1 100%" in done.output
    done = run(monkeypatch, Verbs(outcome=outcome), command, "churn", "--json")
    assert (done.exit_code, json.loads(done.stdout)["outcome"]) == (status, outcome)


def test_flags_and_options_arrive_as_options(monkeypatch: pytest.MonkeyPatch) -> None:
    verbs = Verbs(outcome="promoted")
    flags = ["--steps", "5,50", "--min-requests", "7", "--no-promote", "--detach", "-C", "alpha=0.1"]
    run(monkeypatch, verbs, "release", "churn", "models:/churn/2", *flags)
    options = {"steps": "5,50", "min_requests": "7", "promote": "false", "detach": True, "alpha": "0.1"}
    assert verbs.asked == [("churn", {"model_uri": "models:/churn/2", **options})]


def test_a_dry_run_prints_plan_and_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    verbs = Verbs(view={"plan": ["step by step"]}, difference="+ a line")
    done = run(monkeypatch, verbs, "release", "churn", "models:/churn/2", "--dry-run")
    assert done.output.splitlines() == ["step by step", "+ a line", "dry run: nothing was changed"]
    done = run(monkeypatch, Verbs(view={"plan": []}, difference=""), "release", "churn", "--json", "--dry-run")
    assert json.loads(done.stdout)["difference"] == ""


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_driving_and_names_the_command_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, what: int
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        done = run(monkeypatch, Verbs(outcome="held", signal=what), "release", "churn", "-t", "istio-local:/x")
    finally:
        signal.signal(signal.SIGINT, interrupted)
    assert done.exit_code == 130
    assert "Go on with: mlflow-istio resume churn -t istio-local:/x" in done.output
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("arguments", [("--unpause",), ()])
def test_resume_of_a_release_without_a_plan_only_ends_its_pause(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    verbs = Verbs(planned=bool(arguments))
    done = run(monkeypatch, verbs, "resume", "churn", *arguments)
    assert (done.exit_code, verbs.asked) == (0, [("churn", "unpause")])


def test_an_answer_names_its_gate_or_says_that_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, Verbs(), "approve", "churn")
    assert (done.exit_code, done.output) == (1, "Error: nothing waits for approval at endpoint 'churn'\n")
    done = run(monkeypatch, Verbs(), "reject", "churn")
    assert done.output == "rejected 'promotion' of churn: the traffic returns to the stable\n"
