"""A secret that somebody has to say stands nowhere afterwards: not on objects, in registry or artifacts, nor in what is printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from mlflow_istio.calls.webhooks import ask
from mlflow_istio.cli import main
from mlflow_istio.errors import InvalidInput, MlflowIstioError
from tests.support.in_memory import World, a_world
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs, Surroundings, everything

SECRET = "s3cr3t-planted"
WITH_PASSWORD = f"https://ada:{SECRET}@mlflow.example/x"
BY_STEPS: dict[str, Any] = {
    **{"hold": 0, "warmup": 0, "min_requests": 0, "interval": 1, "steps": "50,100", "analysis": "none"},
    "prometheus_url": WITH_PASSWORD,
    "reason": f"as asked at {WITH_PASSWORD}",
}


def left(world: World, verbs: InMemoryVerbs, result: Any) -> str:
    """All that is written or said."""
    return everything(world) + repr(verbs.told) + repr(verbs.warned) + repr(result)


@pytest.mark.parametrize("answer", ["", "no, not today"])
def test_a_release_leaves_no_secret_that_it_was_told(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answering(url: str, **_how: Any) -> requests.Response:
        asked.append(url)
        response = requests.Response()
        response.status_code = 409 if answer and len(asked) > 1 else 200
        response._content = answer.encode()
        return response

    monkeypatch.setenv("GATE", f"https://hooks.example/services/{SECRET}?token={SECRET}")
    monkeypatch.setattr(requests, "post", answering)
    world = a_world("churn-v1")
    verbs = InMemoryVerbs(world)
    hooks = {"webhooks": ["env:GATE"], "deadline": 2}
    result = verbs.release("churn", "models:/churn/2", {**BY_STEPS, **hooks})
    assert asked
    assert SECRET in asked[0]
    assert SECRET not in left(world, verbs, result)
    assert "env:GATE" in everything(world)


def test_what_is_shown_of_an_address_is_scheme_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(_url: str, **_how: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = 403
        return response

    monkeypatch.setattr(requests, "post", refusing)
    world = a_world("churn-v1")
    verbs = InMemoryVerbs(world)
    hook = f"https://hooks.example/services/{SECRET}"
    result = verbs.release("churn", "models:/churn/2", {**BY_STEPS, "webhooks": [hook], "deadline": 2})
    assert "https://hooks.example says 403" in repr(result)
    assert SECRET not in repr(result) + repr(verbs.warned) + repr(verbs.told) + repr(vars(world.runs))
    history = verbs.history("churn")
    assert SECRET not in repr(history)


@pytest.mark.parametrize(
    "hook", [WITH_PASSWORD, f"https://hooks.example/x?token={SECRET}", f"ftp://a/{SECRET}", f"https://u@h/{SECRET}"]
)
def test_an_address_with_a_secret_is_refused_without_saying_it(hook: str) -> None:
    with pytest.raises(InvalidInput, match="env:NAME") as refused:
        InMemoryVerbs(a_world("churn-v1")).release("churn", "models:/churn/2", {**BY_STEPS, "webhooks": [hook]})
    assert SECRET not in str(refused.value) or hook.startswith("ftp")


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATE", raising=False)
    assert ask("env:GATE", {}, 1.0) == "no answer (environment variable GATE holds no http or https address here)"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "DATABASE_URL"])
def test_no_address_with_a_password_stands_in_a_pod(name: str) -> None:
    world = a_world("churn-v1")
    world.cluster.writes.clear()
    tries: tuple[Callable[[InMemoryVerbs], Any], ...] = (
        lambda verbs: verbs.create("churn-v2", "models:/churn/2", None, "churn", {"env": {name: WITH_PASSWORD}}),
        lambda verbs: verbs.update("churn-v1", None, None, {"env": {name: WITH_PASSWORD}}),
    )
    for call in tries:
        with pytest.raises(InvalidInput, match=f"{name}.*env_from_secret") as refused:
            call(InMemoryVerbs(Surroundings(world=world), CLUSTER))
        assert SECRET not in str(refused.value)
    assert world.cluster.writes == []


@pytest.mark.parametrize("command", [["status"], ["history", "churn"], ["history", "churn", "--json"], ["doctor"]])
def test_commands_print_no_password_that_an_earlier_version_wrote(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = a_world("churn-v1")
    verbs = InMemoryVerbs(world)
    verbs.update_endpoint("churn", {"timeout": "2s", "reason": "because"})
    last = world.registry.history("prod", "churn")[-1]
    world.registry.altered[last.id] = last.as_tag().replace("because", WITH_PASSWORD)
    for module in ("traffic", "doctor"):
        monkeypatch.setattr(f"mlflow_istio.cli.{module}.verbs_on", lambda _target: InMemoryVerbs(world))
    result = CliRunner().invoke(main, command)
    assert result.output
    assert SECRET not in result.output


def test_no_error_says_a_password() -> None:
    assert SECRET not in str(MlflowIstioError(f"no {WITH_PASSWORD}", detail=f"at {WITH_PASSWORD}"))
