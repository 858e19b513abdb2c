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
    ("mysql://h:1/a,mysql://u:p/w@db/x", "mysql://h:1/a,mysql://***@db/x"),
    ("oracle+cx_oracle://u:p@db/x", "oracle+cx_oracle://***@db/x"),
    ("http://ada:se'cret@host:5000", "http://***@host:5000"),
    ('http://ada:se"cret@host:5000', "http://***@host:5000"),
    ("'http://ada:se'cret@host:5000' failed", "'http://***@host:5000' failed"),
    ("postgresql://ada:se'cret@h/db", "postgresql://***@h/db"),
    ("redis://:secret@host", "redis://***@host"),
    ("postgresql://:secret@host/db", "postgresql://***@host/db"),
    ("http://h1,http://a:b@h2", "http://h1,http://***@h2"),
    ("http://h1/?next=http://a:b@h2", "http://h1/?next=http://***@h2"),
    ("_http://a:b@h", "_http://***@h"),
    ("postgresql://host/db?user=ada&password=secret", "postgresql://host/db?user=ada&password=***"),
    ("jdbc:postgresql://host/db?password=se'cret&user=ada", "jdbc:postgresql://host/db?password=***&user=ada"),
    ("jdbc:sqlserver://host;user=ada;PWD=secret;x=1", "jdbc:sqlserver://host;user=ada;PWD=***;x=1"),
    ("'postgresql://host/db?passwd=secret', then", "'postgresql://host/db?passwd=***', then"),
    ("postgresql://host/db?sslpassword=secret", "postgresql://host/db?sslpassword=***"),
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
    "mlflow-artifacts://host:5000/1/ada@x/artifacts",
    "hdfs://nn:8020/user/ada@EXAMPLE.COM/m",
    "oci://reg:5000/img@sha256:abc",
    "istio://arn:aws:eks:eu:1:cluster/prod/ns@x",
    "postgresql://host:5432/db?application_name=a@b",
    '{"address":"http://host:8080","who":"ada@example.com"}',
    r'"{\"address\":\"http://host:8080\",\"who\":\"ada@example.com\"}"',
    "http://host/reset?password_hint=x",
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


@pytest.mark.parametrize(
    "piece", ["a.", "a:", "x://a:", "http://a:", "mysql://a:", "mysql://a:b/", "'", "\\", "?password=;", "http://a'"]
)
def test_a_long_text_without_a_password_is_read_in_one_go(piece: str) -> None:
    """With work that grows as the square of the length, these would run into the timeout of the tests."""
    text = " @ " + piece * (2_000_000 // len(piece))
    assert masked(text) == text
