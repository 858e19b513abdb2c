"""500 is what the model fails at, 400 what never reached it: on MLflow's real scoring app and its real wrapper of a model."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.types import ColSpec, DataType, Schema

from mlflow_istio.serving.body_gate import BodyGate
from mlflow_istio.serving.model_failures import ModelFailures, noticing_failures
from tests.support.pyfunc import ModelSignature, loaded, scoring_server
from tests.unit.serving.conftest import call_app

SIGNED = ModelSignature(inputs=Schema([ColSpec(DataType.string, "how"), ColSpec(DataType.double, "x")]))


class Failing:
    """Fails as its input says."""

    def predict(self, data, params=None):
        how = str(data["how"][0])
        if how == "raise":
            raise KeyError("churn")
        if how == "invalid":
            raise MlflowException.invalid_parameter_value("no such customer")
        if how == "registry":
            raise MlflowException("the registry has no such model", error_code=RESOURCE_DOES_NOT_EXIST)
        if how == "no JSON":
            return {1: object()}
        return [1]


class Healthy:
    """Takes anything."""

    def predict(self, data, params=None):
        return [1]


def scoring(model, signature=None):
    app = scoring_server.init(noticing_failures(loaded(model, signature)))
    return BodyGate(ModelFailures(app), max_bytes=10**6, timeout=60)


def post(app, body, content_type="application/json"):
    headers = {} if content_type is None else {"content-type": content_type}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas has its own of what it is given
        return call_app(app, "/invocations", method="POST", headers=headers, body=[body])


def row(**values):
    return json.dumps({"dataframe_records": [values]}).encode()


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("raise", 500, "INTERNAL_ERROR"),
        ("registry", 500, "INTERNAL_ERROR"),
        ("invalid", 400, "INVALID_PARAMETER_VALUE"),
        ("well", 200, None),
    ],
)
def test_what_the_model_fails_at_is_500_unless_mlflow_calls_the_request_invalid(how, status, code):
    answer = post(scoring(Failing(), SIGNED), row(how=how, x=1.0))
    assert (answer.status, answer.json().get("error_code")) == (status, code)


def test_an_answer_that_is_no_json_is_the_models_failure():
    assert post(scoring(Failing(), SIGNED), row(how="no JSON", x=1.0)).status == 500


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (row(how="well"), "application/json"),
        (row(how="well", x="text"), "application/json"),
        (b'{"dataframe_split": {"columns": ["how", "x"], "data": [[1]]}}', "application/json"),
        (b'{"dataframe_split": 5}', "application/json"),
        (b'{"dataframe_split": {"data": {"a": 1}}}', "application/json"),
        (b'{"dataframe_records": [1, [2]]}', "application/json"),
        (b'{"dataframe_records": null}', "application/json"),
        (b'{"inputs": null}', "application/json"),
        (b'{"instances": [{"a": 1}, 5]}', "application/json"),
        (b'{"inputs": [1], "params": 5}', "application/json"),
        (b"{}", "application/json"),
        (b"[]", "application/json"),
        (b"", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"inputs": ' + b"[" * 99 + b"]" * 99 + b"}", "application/json"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", "application/json"),
        (b"\xff", "text/csv"),
        (b'"', "text/csv"),
        (b"", "text/csv"),
        (b"PAR1", "application/x-parquet"),
        (b"{}", None),
        (b"{}", ""),
        (b"{}", "application/json; charset=latin-1"),
        (b"{}", "application/json; charset=utf-8; q"),
    ],
)
def test_what_does_not_reach_the_model_is_no_error_of_it(body, content_type):
    assert 400 <= post(scoring(Healthy(), SIGNED), body, content_type).status < 500


def test_nan_and_infinities_reach_the_model():
    seen = []

    class Seeing:
        def predict(self, data, params=None):
            seen.extend(data["x"])
            return [1]

    body = b'{"dataframe_records": [{"how": "a", "x": NaN}, {"how": "b", "x": -Infinity}]}'
    assert post(scoring(Seeing(), SIGNED), body).status == 200
    assert repr(seen) in ("[nan, -inf]", "[np.float64(nan), np.float64(-inf)]")


def test_an_environment_that_lacks_a_package_is_no_fault_of_the_caller():
    class Lacking:
        def predict(self, data, params=None):
            raise ModuleNotFoundError("lightgbm")

    model = loaded(Lacking(), None)
    app = ModelFailures(scoring_server.init(noticing_failures(model)))
    assert post(app, b'{"inputs": [1]}').status == 500


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_bodies = st.one_of(
    st.binary(max_size=50),
    _json.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances", "params", "messages", "input"]),
        _json | st.fixed_dictionaries({"columns": _json, "data": _json, "index": _json}),
        min_size=1,
        max_size=2,
    ).map(lambda value: json.dumps(value).encode()),
)
HEALTHY = [scoring(Healthy()), scoring(Healthy(), SIGNED)]


@settings(deadline=None, max_examples=200)
@given(_bodies, st.sampled_from(["application/json", "text/csv", "application/x-parquet"]), st.sampled_from(HEALTHY))
def test_no_body_makes_a_healthy_model_look_sick(body, content_type, app):
    assert post(app, body, content_type).status < 500
