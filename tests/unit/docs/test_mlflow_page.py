"""What docs/mlflow.md says that MLflow itself changes is so: a row whose check fails was mended in MLflow, and can go."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.types import ColSpec, Schema
from mlflow.utils.proto_json_utils import dump_input_data

from mlflow_istio.calls.request_body import CSV, RequestBody, body_of
from tests.support.pyfunc import ModelSignature, answered, at_home, served, signature_of

PAGE = (Path(__file__).parents[3] / "docs" / "mlflow.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1].strip() for line in re.findall(r"^\|.*\|$", PAGE, re.M)[2:]]


def guesses_of_read_json() -> None:
    import mlflow.deployments.cli as theirs

    assert "pd.read_json(input_path)" in Path(theirs.__file__).read_text(encoding="utf-8")
    text = '[{"zip": "000123", "updated_at": 1600000000}]'
    file = Path("in.json")
    file.write_text(text)
    frame = pd.read_json(file)
    assert frame["zip"].tolist() == [123]
    assert frame["updated_at"].dtype.kind == "M"


def no_target_for_run_local() -> None:
    from mlflow.deployments import interface

    assert "run_local(name, model_uri, flavor, config)" in inspect.getsource(interface.run_local)


def text_without_a_signature() -> None:
    frame = pd.DataFrame({"t": pd.to_datetime(["2020-01-01"]), "b": [b"hi"]})
    assert served(body_of(frame), None).to_dict("records") == [{"t": "2020-01-01T00:00:00.000000000", "b": "aGk="}]
    assert isinstance(served(body_of(["a"]), None), np.ndarray)


def false_for_nothing() -> None:
    frame = pd.DataFrame({"b": pd.Series([True, None], dtype=object)})
    signature = ModelSignature(Schema([ColSpec("boolean", "b", required=False)]))
    assert at_home(frame, signature)["b"].tolist() == [True, None]
    assert served(body_of(frame), signature)["b"].tolist() == [True, False]
    as_numbers = ModelSignature(Schema([ColSpec("double", "b")]))
    assert repr(served(body_of(frame), as_numbers)["b"].tolist()) == "[1.0, nan]"


def nothing_among_bytes() -> None:
    frame = pd.DataFrame({"b": [b"x", None]})
    with pytest.raises(MlflowException, match="Failed to convert column b"):
        served(body_of(frame), signature_of(frame))
    assert served(body_of(frame.fillna(b"")), signature_of(frame))["b"].tolist() == [b"x", b""]


def bytes_in_inputs() -> None:
    signature = ModelSignature(Schema([ColSpec("binary", "b")]))
    theirs = served(RequestBody(content=b'{"inputs": {"b": ["aGk="]}}'), signature)
    assert theirs["b"].tolist() == [b"aGk="]
    assert served(body_of({"b": [b"hi"]}), signature)["b"].tolist() == [b"hi"]


def an_index_of_times() -> None:
    frame = pd.DataFrame({"x": [0.1]}, index=pd.to_datetime(["2020-01-01"]))
    assert served(body_of(frame), signature_of(frame)).index.tolist() == ["2020-01-01T00:00:00.000000000"]


def times_with_a_zone() -> None:
    zoned = pd.to_datetime(["2020-01-01T00:00:00.123456789"]).tz_localize("Europe/Berlin")
    frame = pd.DataFrame({"t": zoned})
    signature = ModelSignature(Schema([ColSpec("datetime", "t")]))
    for ask in (lambda: at_home(frame, signature), lambda: served(body_of(frame), signature)):
        with pytest.raises(MlflowException, match="timezone-naive"):
            ask()
    frame["t"] = frame["t"].dt.tz_convert("UTC").dt.tz_localize(None)
    assert served(body_of(frame), signature)["t"].tolist() == [pd.Timestamp("2019-12-31T23:00:00.123456789")]


def mixed_fractions() -> None:
    frame = pd.DataFrame({"t": pd.to_datetime(["2020-01-01", "2020-01-01T00:00:00.5"], format="ISO8601")})
    with pytest.raises(MlflowException, match="Failed to convert column t"):
        served(RequestBody(content=dump_input_data(frame).encode()), signature_of(frame))
    assert served(body_of(frame), signature_of(frame))["t"].tolist() == frame["t"].tolist()


def guesses_of_read_csv() -> None:
    body = RequestBody(content=b"zip\n000123\n", content_type=CSV)
    assert served(body, None)["zip"].tolist() == [123]
    assert served(body, ModelSignature(Schema([ColSpec("string", "zip")])))["zip"].tolist() == ["000123"]


def not_a_number_in_json() -> None:
    frame = pd.DataFrame({"x": [math.nan, math.inf]})
    for sent in (dump_input_data(frame), body_of(frame).content.decode()):
        assert "NaN" in sent
        assert "Infinity" in sent
    assert math.isnan(json.loads(answered([math.nan]))["predictions"][0])
    assert "NaN" in answered([math.nan])
    assert json.loads(answered([None])) == {"predictions": [None]}


CHECKS: dict[str, Callable[[], None]] = {
    "pd.read_json": guesses_of_read_json,
    "run-local": no_target_for_run_local,
    "times and bytes stay text": text_without_a_signature,
    "becomes `False`": false_for_nothing,
    "refused with 400": nothing_among_bytes,
    "bytes in `inputs`": bytes_in_inputs,
    "index of times": an_index_of_times,
    "with a zone": times_with_a_zone,
    "mixes lengths": mixed_fractions,
    "pd.read_csv": guesses_of_read_csv,
    "no strict JSON": not_a_number_in_json,
}


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_each_row_is_so(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (check,) = [check for words, check in CHECKS.items() if words in row]
    check()


def test_every_check_has_its_row() -> None:
    assert [words for words in CHECKS if sum(words in row for row in ROWS) != 1] == []
