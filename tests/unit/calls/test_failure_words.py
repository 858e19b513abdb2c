"""What is shown of a server's answer that is no 200."""

from __future__ import annotations

import json

import pytest

from mlflow_istio.calls.scoring import refuse_failure
from mlflow_istio.errors import ClusterError

TRACEBACK = (
    "Traceback (most recent call last):\n  File \"server.py\", line 1, in predict\nValueError: no column 'spend'\n"
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (json.dumps({"error_code": "X", "message": "no such column"}), "no such column"),  # MLflow's scoring server
        (json.dumps({"error": "failed to load"}), "failed to load"),  # the V2 protocol: MLServer, Triton
        (json.dumps({"error": {"message": "too long", "type": "invalid"}}), "too long"),  # OpenAI's protocol
        (json.dumps({"detail": "Not Found"}), "Not Found"),  # FastAPI
        (json.dumps({"detail": [{"msg": "missing"}]}), '{"detail": [{"msg": "missing"}]}'),
        (json.dumps({"error": {"code": 3}}), '{"error": {"code": 3}}'),
        (json.dumps(["odd"]), '["odd"]'),
        (json.dumps({"error": TRACEBACK}), "ValueError: no column 'spend'"),
        (TRACEBACK, "ValueError: no column 'spend'"),
        ("two\n lines ", "two lines"),
        ("x" * 400, "x" * 300),
        ("", ""),
    ],
)
def test_the_words_are_found_where_the_kinds_of_servers_write_them(body: str, words: str) -> None:
    with pytest.raises(ClusterError) as caught:
        refuse_failure("http://churn/score", 500, body)
    assert caught.value.message == f"http://churn/score answered 500: {words}; see 'mlflow-istio status'"
