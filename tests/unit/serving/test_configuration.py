"""The environment is read strictly: what can't be right is refused by the variable's name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlflow_istio.errors import InvalidInput
from mlflow_istio.serving.configuration import PayloadFields, RecordSettings, read_settings

MINIMAL = {"MLFLOW_ISTIO_MODEL_URI": "models:/churn/2", "MLFLOW_ISTIO_DEPLOYMENT": "churn-v2"}


def settings_with(**options: str):
    return read_settings({**MINIMAL, **{f"MLFLOW_ISTIO_{name}": value for name, value in options.items()}})


def test_two_variables_are_enough():
    settings = read_settings(MINIMAL)
    assert (settings.model_name, settings.model_version) == ("churn", "2")
    assert (settings.host, settings.port, settings.env_manager) == ("0.0.0.0", 8080, "local")
    assert settings.access_log is False
    assert settings.record is None


def test_variables_that_are_not_for_the_server_are_left_alone():
    """The plugin's options share the prefix, and a server may inherit them."""
    assert read_settings({**MINIMAL, "MLFLOW_ISTIO_GATEWAY": "istio-system/public", "HOME": "/"}) == read_settings(
        MINIMAL
    )


@pytest.mark.parametrize(
    ("uri", "version", "expected"),
    [
        ("models:/churn/2", "", ("churn", "2")),
        ("models:/churn/2", "renamed/2", ("renamed", "2")),
        ("models:/main.ml.churn/12", "", ("main.ml.churn", "12")),
        ("models:/team@home/3", "", ("team@home", "3")),
        ("/model", " a blank/3", (" a blank", "3")),
        ("models:/m-3f2b8c", "churn/2", ("churn", "2")),
        ("runs:/3f2b8c/model", "churn/2", ("churn", "2")),
        ("/opt/model", "churn/2", ("churn", "2")),
        ("/opt/model@home", "team/churn/2", ("team/churn", "2")),
    ],
)
def test_the_version_is_given_or_stands_in_the_uri(uri, version, expected):
    settings = settings_with(MODEL_URI=uri, MODEL_VERSION=version)
    assert settings.model_uri == uri
    assert (settings.model_name, settings.model_version) == expected


@pytest.mark.parametrize(
    ("options", "host", "port", "manager", "access_log"),
    [
        ({}, "0.0.0.0", 8080, "local", False),
        ({"HOST": "127.0.0.1", "PORT": "18080"}, "127.0.0.1", 18080, "local", False),
        ({"HOST": "::", "ENV_MANAGER": "uv", "ACCESS_LOG": "TRUE"}, "::", 8080, "uv", True),
        ({"ENV_MANAGER": "conda", "ACCESS_LOG": "0"}, "0.0.0.0", 8080, "conda", False),
        ({"PORT": " 9000 ", "ENV_MANAGER": "", "HOST": " "}, "0.0.0.0", 9000, "local", False),
    ],
)
def test_options_are_parsed_by_their_type(options, host, port, manager, access_log):
    settings = settings_with(**options)
    assert (settings.host, settings.port, settings.env_manager, settings.access_log) == (
        host,
        port,
        manager,
        access_log,
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", PayloadFields(output=True, input=False)),
        ("output", PayloadFields(output=True, input=False)),
        ("input", PayloadFields(output=False, input=True)),
        ("output,input,-age,- home town", PayloadFields(input=True, dropped=frozenset({"age", " home town"}))),
        ("-age", PayloadFields(output=True, input=False, dropped=frozenset({"age"}))),
        ("none", PayloadFields(output=False, input=False)),
        (" output , -age ,", PayloadFields(dropped=frozenset({"age"}))),
    ],
)
def test_what_is_recorded_is_a_list_of_parts_and_of_fields_to_drop(fields, expected):
    settings = settings_with(RECORD="0.25", RECORD_DIR="/records", RECORD_FIELDS=fields)
    assert settings.record == RecordSettings(rate=0.25, directory=Path("/records"), fields=expected)


def test_recording_is_off_at_rate_zero():
    assert settings_with(RECORD="0", RECORD_DIR="/records").record is None


def test_a_token_does_not_show_in_the_settings():
    settings = settings_with(RECORD="1", RECORD_DIR="/records", RECORD_TOKEN="s3cret", RECORD_MAX_BYTES="100000")
    assert settings.record is not None
    assert (settings.record.token, settings.record.max_bytes) == ("s3cret", 100000)
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"MODEL_URI": ""}, "MLFLOW_ISTIO_MODEL_URI is not set: give the model to serve, such as models:/churn/2"),
        ({"DEPLOYMENT": ""}, "MLFLOW_ISTIO_DEPLOYMENT is not set"),
        ({"DEPLOYMENT": "Churn_V2"}, "MLFLOW_ISTIO_DEPLOYMENT='Churn_V2' is no DNS label"),
        ({"DEPLOYMENT": "-v2"}, "is no DNS label"),
        ({"DEPLOYMENT": "v" * 64}, "is no DNS label"),
        ({"MODEL_URI": "/opt/model"}, "MLFLOW_ISTIO_MODEL_VERSION is not set, and '/opt/model' does not tell"),
        ({"MODEL_VERSION": "churn"}, "MLFLOW_ISTIO_MODEL_VERSION='churn' is not MODEL/VERSION"),
        ({"MODEL_VERSION": "churn/"}, "is not MODEL/VERSION"),
        ({"MODEL_VERSION": "/2"}, "is not MODEL/VERSION"),
        ({"MODEL_URI": "models:/churn@champion"}, "can move to another version: give models:/churn/NUMBER"),
        ({"MODEL_URI": "models:/churn/latest", "MODEL_VERSION": "churn/2"}, "give models:/churn/NUMBER"),
        ({"MODEL_URI": "models:/team@home@champion"}, "give models:/team@home/NUMBER"),
        ({"MODEL_URI": "models:/churn/Production"}, "give models:/churn/NUMBER"),
        ({"PORT": "http"}, "MLFLOW_ISTIO_PORT='http' is no whole number from 1 to 65535"),
        ({"PORT": "0"}, "MLFLOW_ISTIO_PORT='0' is no"),
        ({"PORT": "65536"}, "MLFLOW_ISTIO_PORT='65536' is no"),
        ({"PORT": "-1"}, "MLFLOW_ISTIO_PORT='-1' is no"),
        ({"PORT": "\u0663"}, "is no whole number"),
        ({"HOST": "localhost"}, "MLFLOW_ISTIO_HOST='localhost' is no IP address"),
        ({"ENV_MANAGER": "virtulenv"}, "MLFLOW_ISTIO_ENV_MANAGER='virtulenv' is unknown (did you mean virtualenv?)"),
        ({"ENV_MANAGER": "poetry"}, "give local or virtualenv or conda or uv"),
        ({"ACCESS_LOG": "maybe"}, "MLFLOW_ISTIO_ACCESS_LOG='maybe' is neither true nor false"),
        ({"RECORD": "1.5"}, "MLFLOW_ISTIO_RECORD='1.5' is no number from 0 to 1"),
        ({"RECORD": "-0.1"}, "MLFLOW_ISTIO_RECORD='-0.1' is no"),
        ({"RECORD": "nan"}, "MLFLOW_ISTIO_RECORD='nan' is no"),
        ({"RECORD": "all"}, "MLFLOW_ISTIO_RECORD='all' is no"),
        ({"RECORD": "0.1"}, "MLFLOW_ISTIO_RECORD_DIR is not set"),
        ({"RECORD_MAX_BYTES": "1000"}, "MLFLOW_ISTIO_RECORD_MAX_BYTES='1000' is no whole number from 65536"),
        ({"RECORD_MAX_BYTES": "64Mi"}, "MLFLOW_ISTIO_RECORD_MAX_BYTES='64Mi' is no"),
        ({"RECORD_FIELDS": "outputs"}, "MLFLOW_ISTIO_RECORD_FIELDS has 'outputs': give output, input, none, or -NAME"),
        ({"RECORD_FIELDS": "output,-"}, "MLFLOW_ISTIO_RECORD_FIELDS has '-'"),
        ({"RECORD_FIELDS": "none,input"}, "has none beside other parts"),
        ({"RECORD_FEILDS": "none"}, "MLFLOW_ISTIO_RECORD_FEILDS is unknown (did you mean MLFLOW_ISTIO_RECORD_FIELDS?)"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_in_one_line_that_names_it(options, message):
    with pytest.raises(InvalidInput, match=re.escape(message)) as refusal:
        settings_with(**options)
    assert "\n" not in str(refusal.value)
