"""A secret that somebody has to say stands nowhere afterwards: not on objects, in registry or artifacts, nor in what is printed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from mlflow_istio.calls.webhooks import ask
from mlflow_istio.cli import main
from mlflow_istio.errors import InvalidInput, MlflowIstioError
from mlflow_istio.options import analysis, base, release, routes
from tests.support.in_memory import World, a_world
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs, Surroundings, everything
from tests.support.worlds import DETACHED, fork, three_endpoints

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


CALLS: Mapping[type[base.ConnectionOptions], tuple[Callable[[InMemoryVerbs, dict[str, Any]], Any], dict[str, Any]]] = {
    base.AdoptOptions: (
        lambda verbs, config: verbs.adopt("new", config),
        {"virtual_service": "ash", "route": "mlflow-istio.ash.split"},
    ),
    base.CreateOptions: (lambda verbs, config: verbs.create("new-v1", "models:/ash/2", None, "new", config), {}),
    base.UpdateOptions: (lambda verbs, config: verbs.update("ash-v1", None, None, config), {}),
    base.DeleteOptions: (lambda verbs, config: verbs.delete("ash-v3", "ash", config), {}),
    base.DeleteEndpointOptions: (lambda verbs, config: verbs.delete_endpoint("ash", config), {}),
    base.UpdateEndpointOptions: (lambda verbs, config: verbs.update_endpoint("ash", config), {"weight": 50}),
    base.ReadOptions: (lambda verbs, config: verbs.history("ash", config), {}),
    analysis.AnalyseOptions: (lambda verbs, config: verbs.analyse("birch", config), {}),
    analysis.CompareOptions: (lambda verbs, config: verbs.compare("ash", config), {}),
    analysis.DeclareOptions: (
        lambda verbs, config: verbs.declare("birch", config),
        {"winner": "birch-v2", "force": True},
    ),
    release.ReleaseOptions: (
        lambda verbs, config: verbs.release("birch", "models:/birch/3", config),
        {**DETACHED, "supersede": True},
    ),
    release.ResumeOptions: (lambda verbs, config: verbs.resume_release("churn", config), {}),
    release.RehearseOptions: (
        lambda verbs, config: verbs.rehearse("ash", config),
        {"runs": 1, "horizon": 300, "phase": 0},
    ),
    routes.ChaosOptions: (
        lambda verbs, config: verbs.chaos("ash", config),
        {"abort": 503, "duration": "1s", "source": "none"},
    ),
    routes.FaultOptions: (lambda verbs, config: verbs.fault("ash", config), {"abort": 503}),
    routes.PinsOptions: (lambda verbs, config: verbs.pins("ash", config), {}),
    routes.PolicyOptions: (lambda verbs, config: verbs.policy("ash", config), {"timeout": "3s"}),
    routes.RouteOptions: (
        lambda verbs, config: verbs.route("ash", config),
        {"to": "ash-v3", "match": {"headers": {"x-u": "s"}}},
    ),
    routes.SweepOptions: (lambda verbs, config: verbs.sweep(config), {}),
}
"""Each kind of options, with a call that does its work with those given beside."""


def outputs(world: World, target: str) -> str:
    """Everything that is shown, exported and reported of a world's endpoints afterwards."""
    verbs = InMemoryVerbs(fork(world), target)
    made = [verbs.endpoints(), verbs.deployments(), verbs.doctor()]
    for view in made[0]:
        name = view["name"]
        for show in (verbs.endpoint, verbs.history, verbs.export, verbs.report):
            made.append(problem_of(partial(show, name), made))
    return repr(made)


def problem_of(call: Callable[[], Any], results: list[Any]) -> str:
    """What it is refused with; its result is kept where it is not."""
    try:
        results.append(call())
    except MlflowIstioError as exc:
        return str(exc)
    return ""


DO_THEIR_WORK = {
    *(base.UpdateEndpointOptions, analysis.DeclareOptions, release.ReleaseOptions),
    *(routes.FaultOptions, routes.PolicyOptions, routes.RouteOptions),
}


@pytest.mark.parametrize("model", CALLS, ids=lambda model: model.__name__)
def test_an_address_with_a_password_in_any_option_stands_nowhere_afterwards(
    model: type[base.ConnectionOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    call, beside = CALLS[model]
    worked = set()
    for option, value in itertools.product(model.model_fields, (WITH_PASSWORD, {"a": WITH_PASSWORD})):
        world = fork(three_endpoints())
        verbs = InMemoryVerbs(world, CLUSTER)
        results: list[Any] = []
        problem = problem_of(partial(call, verbs, {**beside, option: value}), results)
        assert SECRET not in left(world, verbs, results) + problem, option
        if results:
            worked.add(option)
            assert SECRET not in outputs(world, CLUSTER), option
    assert worked or model not in DO_THEIR_WORK


def test_the_walk_knows_every_kind_of_options() -> None:
    kinds = {
        model
        for module in (base, analysis, release, routes)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, base.ConnectionOptions) and model.__name__.endswith("Options")
    }
    assert {kind.__name__ for kind in kinds - set(CALLS)} <= {
        "ChangeOptions",
        "ConnectionOptions",
        "DryRunOptions",
        "SourceOptions",
    }
