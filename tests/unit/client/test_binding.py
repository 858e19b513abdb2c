"""Each method of the client that stands for a verb hands on all that it is given, under names that the verb knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from mlflow_istio.client.errors import IstioDeploymentError
from mlflow_istio.client.plugin import IstioDeploymentClient
from mlflow_istio.client.release_client import ReleaseClient
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.analysis import AnalyseOptions, CompareOptions, DeclareOptions
from mlflow_istio.options.base import AdoptOptions, ConnectionOptions, CreateOptions, UpdateEndpointOptions
from mlflow_istio.options.release import ReleaseOptions, ResumeOptions
from mlflow_istio.options.routes import (
    ChaosOptions,
    FaultOptions,
    PinsOptions,
    PolicyOptions,
    RouteOptions,
    SweepOptions,
)
from mlflow_istio.verbs import Result, Verbs

MODELS: Mapping[str, type[ConnectionOptions]] = {
    "adopt": AdoptOptions,
    "analyse": AnalyseOptions,
    "chaos": ChaosOptions,
    "compare": CompareOptions,
    "create": CreateOptions,
    "declare": DeclareOptions,
    "fault": FaultOptions,
    "pins": PinsOptions,
    "policy": PolicyOptions,
    "release": ReleaseOptions,
    "resume_release": ResumeOptions,
    "route": RouteOptions,
    "sweep": SweepOptions,
    "update_endpoint": UpdateEndpointOptions,
}
"""Verb to what its options must be."""

VIEW = {"name": "churn", "traffic": {}}


class Anything(dict[str, Any]):
    """What any verb may return: a view, a list, a result."""

    view: Mapping[str, Any] = VIEW
    difference = None
    pending = ""


class Recorder:
    """Takes what the verbs take, and does nothing."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(Verbs, name))

        def verb(**arguments: Any) -> Any:
            signature.bind(self, **arguments)
            self.asked.append((name, arguments))
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        verb.__signature__ = signature  # type: ignore[attr-defined]
        return verb


def client_on(recorder: Recorder) -> IstioDeploymentClient:
    client = IstioDeploymentClient("istio-local:/never-made")
    client._verbs = recorder  # type: ignore[assignment]
    return client


BOUND = {
    name: method
    for kind in (ReleaseClient, IstioDeploymentClient)
    for name, method in vars(kind).items()
    if getattr(method, "__module__", "") == kind.__module__
    and getattr(getattr(method, "__code__", None), "co_filename", "").endswith("binding.py")
}


def test_most_methods_are_bindings() -> None:
    by_hand = {
        name
        for kind in (ReleaseClient, IstioDeploymentClient)
        for name in vars(kind)
        if not name.startswith("_") and name not in BOUND
    }
    assert by_hand == {
        *("predict", "explain", "create_endpoint", "update_deployment", "delete_deployment", "delete_endpoint"),
        *("history", "report", "apply_plan", "predict_stream"),
    }


@pytest.mark.parametrize("name", BOUND)
def test_a_binding_hands_on_every_argument(name: str) -> None:
    recorder = Recorder(Anything())
    parameters = [
        parameter
        for parameter in inspect.signature(BOUND[name]).parameters.values()
        if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]
    given = {
        parameter.name: {"weight": 1} if parameter.name == "config" else f"a {parameter.name}"
        for parameter in parameters
    }
    getattr(client_on(recorder), name)(**given)
    ((verb, arguments),) = recorder.asked
    config = dict(arguments.pop("config", {}))
    config = {} if "config" in given else config
    config.pop("action", None)
    assert {*arguments.values(), *config.values()} == {value for key, value in given.items() if key != "config"}
    assert set(config) <= set(MODELS[verb].model_fields if verb in MODELS else ())


@pytest.mark.parametrize("name", BOUND)
def test_a_binding_can_be_called_with_what_it_requires(name: str) -> None:
    recorder = Recorder(Anything())
    parameters = [
        parameter
        for parameter in inspect.signature(BOUND[name]).parameters.values()
        if parameter.name != "self"
        and parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
    ]
    getattr(client_on(recorder), name)(*(f"a {parameter.name}" for parameter in parameters))
    assert len(recorder.asked) == 1


@pytest.mark.parametrize("name", BOUND)
def test_a_binding_can_be_read(name: str) -> None:
    method = BOUND[name]
    assert method.__name__ == name
    assert (inspect.getdoc(method) or "").endswith((".", "``", "...", ")"))
    assert inspect.signature(method).return_annotation is not inspect.Parameter.empty


def test_what_is_not_given_is_left_to_the_verb() -> None:
    recorder = Recorder(Result(view=VIEW))
    client = client_on(recorder)
    client.promote("churn", reason="good")
    client.rollback("churn", to=3)
    client.route("churn", to="m-v2", match={"uri": {"prefix": "/"}}, name="staff")
    client.explain_route("churn", path="/a", method="GET")
    client.policy("churn", timeout="none")
    assert recorder.asked == [
        ("update_endpoint", {"name": "churn", "config": {"action": "promote", "reason": "good"}}),
        ("update_endpoint", {"name": "churn", "config": {"action": "rollback", "to": 3}}),
        ("route", {"name": "churn", "config": {"to": "m-v2", "match": {"uri": {"prefix": "/"}}, "name": "staff"}}),
        ("explain_route", {"endpoint": "churn", "path": "/a", "method": "GET"}),
        ("policy", {"name": "churn", "config": {"timeout": "none"}}),
    ]


def test_an_error_of_a_verb_is_mlflows() -> None:
    client = client_on(Recorder(InvalidInput("no such thing")))
    with pytest.raises(IstioDeploymentError, match="no such thing"):
        client.fault("churn", delay="1s")


def test_a_dry_run_prints_and_returns_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    client = client_on(Recorder(Result(view=VIEW, changed=False, difference="+ a line")))
    assert client.declare("churn", dry_run=True)["difference"] == "+ a line"
    assert capsys.readouterr().out == "+ a line\ndry run: nothing was changed\n"


def test_an_option_of_a_verb_that_has_none_is_refused_with_the_nearest_name() -> None:
    recorder = Recorder(None)
    with pytest.raises(IstioDeploymentError, match="^unknown option 'quary': did you mean 'query'\\? known: .*path"):
        client_on(recorder).explain_route("churn", quary={"a": "1"})
    assert recorder.asked == []


def test_a_wrong_call_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="endpoint"):
        client_on(Recorder(None)).promote()  # type: ignore[call-arg]
