"""A kind of model server: what a profile may say, and what its words become."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.runtime.profiles import CONTAINER, MLFLOW, MLSERVER, RUNTIMES
from mlflow_istio.core.runtime.runtime import Runtime, runtime_of
from mlflow_istio.errors import InvalidInput


def test_port_and_model_become_variables_and_dollars_stay() -> None:
    one = Runtime(name="mine", command=("serve", "$PORT", "--at=${PORT}"), args=("$MODEL", "$$HOME", "5$"))
    assert one.process == (
        ("serve", "$(MLFLOW_ISTIO_PORT)", "--at=$(MLFLOW_ISTIO_PORT)"),
        ("$(MLFLOW_ISTIO_MODEL_URI)", "$$HOME", "5$$"),
    )
    assert MLSERVER.environment["MLSERVER_HTTP_PORT"] == "$(MLFLOW_ISTIO_PORT)"
    assert MLSERVER.environment["MLSERVER_HOST"] == "$(MLFLOW_ISTIO_HOST)"
    assert (MLSERVER.takes_host, one.takes_host) == (True, False)


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_a_profile_is_read_back_as_it_was_written(runtime: Runtime) -> None:
    assert from_json(Runtime, to_json(runtime)) == runtime


@pytest.mark.parametrize(("runtime", "takes"), [(MLFLOW, False), (MLSERVER, True), (CONTAINER, False)])
def test_whether_it_is_told_where_the_model_lies(runtime: Runtime, takes: bool) -> None:
    assert runtime.takes_model is takes


@pytest.mark.parametrize(
    ("runtime", "takes"),
    [
        (Runtime(name="b", command=("serve", "--port", "$PORT")), True),
        (Runtime(name="b", command=("serve",), args=("${PORT}",)), True),
        (Runtime(name="b", command=("serve",), env={"LISTEN": "0.0.0.0:$PORT"}), True),
        (Runtime(name="b", command=("serve", "$$PORT", "8080")), False),
    ],
)
def test_whether_it_is_told_its_port(runtime: Runtime, takes: bool) -> None:
    assert runtime.takes_port is takes


def test_a_profile_of_ones_own() -> None:
    found = runtime_of(
        {"name": "bento", "command": ["bentoml", "serve", "--port", "$PORT"], "readiness": "/readyz"}, "b.yaml"
    )
    assert (found.command[0], found.readiness, found.scoring) == ("bentoml", "/readyz", "/invocations")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "must hold keys and values"),
        ({}, "must have a 'name'"),
        ({"name": "b", "comand": ["x"]}, "there is no 'comand': did you mean 'command'?"),
        ({"name": "b", "command": "serve it"}, "'command' must be a list of texts"),
        ({"name": "b", "command": ["serve", 80]}, "'command' must be a list of texts"),
        ({"name": "b", "connection_requests": -1}, "'connection_requests' is a number of requests"),
        ({"name": "b", "connection_requests": 2.5}, "'connection_requests' is a number of requests"),
        ({"name": "b", "keep_alive": -1}, "'keep_alive' is a number of seconds"),
        ({"name": "b", "keep_alive": True}, "'keep_alive' is a number of seconds"),
        ({"name": "b", "keep_alive": "5"}, "'keep_alive' is a number of seconds"),
        ({"name": "b", "args": ["$PROT"]}, "'args' has $PROT, which stands for nothing: did you mean 'PORT'?"),
        ({"name": "b", "env": {"A": 1}}, "'env' must hold texts"),
        ({"name": "b", "env": {"A=B": "c"}}, "'env' can't be: no variable can have the name 'A=B'"),
        ({"name": "b", "env": {"": "c"}}, "'env' can't be: no variable can have the name ''"),
        ({"name": "b", "env": {"A": "b\0c"}}, "'env' can't be: variable 'A' holds what no variable can"),
        ({"name": "b", "env": {"A": "\ud800"}}, "'env' can't be: variable 'A' holds what no variable can"),
        ({"name": "b", "port": "80"}, "'port' is a number from 1 to 65535"),
        ({"name": "b", "port": True}, "'port' is a number from 1 to 65535"),
        ({"name": "b", "readiness": "ready"}, "'readiness' can't be 'ready': it must be a path"),
        ({"name": "b", "scoring": "/a b"}, "'scoring' can't be '/a b': it must be a path"),
        ({"name": "b", "body": "jsn"}, "'body' can't be 'jsn': did you mean 'json'?"),
        ({"name": "b", "records": "yes"}, "'records' is true or false"),
        ({"name": "B b"}, "'name' is up to 40 lower-case letters"),
        ({"name": 5}, "'name' must be a text"),
    ],
)
def test_a_profile_that_can_not_be_is_named(document: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as found:
        runtime_of(document, "b.yaml")
    assert words in found.value.message
