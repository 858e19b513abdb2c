"""No message shows a password."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.errors import MlflowIstioError, masked

MASKED = [
    ("http://ada:secret@host/api", "http://***@host/api"),
    ("https://token@host:5000 failed", "https://***@host:5000 failed"),
    ("http://ada:p@ss@host/x", "http://***@host/x"),
    ("HTTP://A:B@h", "HTTP://***@h"),
    ("see 'http://a:b@h' and \"mysql://u:p@h/d\"", "see 'http://***@h' and \"mysql://***@h/d\""),
    ("postgresql+psycopg2://u:p/w@db/x", "postgresql+psycopg2://***@db/x"),
]
KEPT = [
    "http://host:8080/models/a@b",
    "http://host/?x=a@b",
    "sqlite:////tmp/a@b.db",
    "models:/a@b/1",
    "models://team@home/3",
    "s3://bucket/key@x",
    "abfss://container@account.dfs.core.windows.net/path",
    "file:///x@y",
    "ada@example.com moved it: see http://host",
    "databricks://profile",
]


@pytest.mark.parametrize(("text", "wanted"), MASKED, ids=[text for text, _ in MASKED])
def test_user_and_password_of_an_address_are_masked(text: str, wanted: str) -> None:
    assert masked(text) == wanted
    assert masked(wanted) == wanted


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_password_stays(text: str) -> None:
    assert masked(text) == text


@given(
    st.from_regex(r"[A-Za-z0-9%._~!$&*+,;=-]{8,20}", fullmatch=True),
    st.sampled_from(["http", "https", "mysql+pymysql"]),
)
def test_no_error_holds_a_password_in_any_of_its_parts(password: str, scheme: str) -> None:
    address = f"{scheme}://ada:{password}@host.example/db"
    error = MlflowIstioError(f"could not reach {address}", detail=f"log\n{address} refused")
    for text in (error.message, error.detail, str(error), *map(str, error.args)):
        assert f":{password}@" not in text
        assert "host.example" in text or text == "()"
