"""What an answer must say to prove that a proxy has a change, or that a deployment is the version it should be."""

from __future__ import annotations

import pytest

from mlflow_istio.core.matching.probe import PIN_HEADER, VERSION_HEADER, change_probe, header_text, pin_probe
from mlflow_istio.serving import app
from mlflow_istio.serving.app import identity_headers


@pytest.mark.parametrize(
    ("status", "body", "proved"),
    [(200, "c7", True), (200, " c7\n", True), (200, "c6", False), (200, "", False), (503, "c7", False)],
)
def test_a_change_is_proved_by_its_id(status: int, body: str, proved: bool) -> None:
    probe = change_probe("churn", "c7")
    assert (probe.path, probe.headers) == ("/", {"x-mlflow-istio-probe": "1"})
    assert probe.proved_by(status, {}, body) is proved
    assert "c7" in probe.purpose


@pytest.mark.parametrize(
    ("status", "headers", "proved"),
    [
        (200, {"X-MLflow-Model-Version": "churn/2"}, True),
        (200, {"x-mlflow-model-version": "churn/1"}, False),
        (200, {}, False),
        (404, {"x-mlflow-model-version": "churn/2"}, False),
    ],
)
def test_a_pin_is_proved_by_the_version_that_answers(status: int, headers: dict[str, str], proved: bool) -> None:
    probe = pin_probe("churn", "churn-v2", "churn/2")
    assert (probe.path, probe.headers) == ("/ping", {"x-mlflow-deployment": "churn-v2"})
    assert probe.proved_by(status, headers, "whatever") is proved
    assert "churn-v2" in probe.purpose


@pytest.mark.parametrize(
    "model", ["churn", "my model", "モデル", "100%", 'a"b', "é", "a=b;c", "tab\there", "~tilde_-.", "  two blanks"]
)
def test_the_version_is_expected_as_the_model_server_writes_it(model: str) -> None:
    """Else no model with such a name could ever be released."""
    sent = dict(identity_headers(model=model, version="3", deployment="d"))[b"x-mlflow-model-version"].decode()
    assert header_text(f"{model}/3") == sent
    assert pin_probe("churn", "d", f"{model}/3").proved_by(200, {"x-mlflow-model-version": sent}, "")


def test_the_model_server_which_imports_nothing_of_ours_names_its_headers_alike() -> None:
    assert (app.VERSION_HEADER.decode(), app.DEPLOYMENT_HEADER.decode()) == (VERSION_HEADER, PIN_HEADER)
