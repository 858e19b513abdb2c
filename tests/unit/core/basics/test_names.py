"""Names that everything can carry, and words that help with the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlflow_istio.core.basics import names
from mlflow_istio.core.endpoint.endpoint import annotation
from mlflow_istio.errors import InvalidInput

TOO_LONG = "a" * 53


@pytest.mark.parametrize("name", ["a", "0", "churn-v2", "a" * 52, "2024-model", "a--b"])
def test_a_dns_label_is_a_name(name: str) -> None:
    assert names.check_name(name, "deployment") == name


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("", "model"),
        ("M_2", "m-2"),
        ("-a", "a"),
        ("a-", "a"),
        ("a.b", "a-b"),
        ("my model", "my-model"),
        ("café", "caf"),
        ("a\n", "a"),
        (TOO_LONG, "a" * 52),
        ("モデル", "model"),
    ],
)
def test_another_name_is_refused_with_one_that_would_do(name: str, instead: str) -> None:
    with pytest.raises(InvalidInput, match="is not a DNS label") as caught:
        names.check_name(name, "deployment")
    assert caught.value.message.startswith(f"deployment name {name!r}")
    assert caught.value.message.endswith(f"such as {instead!r}")
    assert names.check_name(instead, "deployment") == instead


def test_the_longest_name_still_fits_into_an_annotation_key() -> None:
    _, key = annotation("a" * names.MAX_NAME, "unrecorded").split("/")
    assert len(key) <= 63


def test_an_endpoint_is_named_as_a_service_can_be() -> None:
    assert names.check_endpoint_name("churn") == "churn"
    with pytest.raises(InvalidInput, match="'2024-model' starts with a digit.*'m-2024-model'"):
        names.check_endpoint_name("2024-model")
    with pytest.raises(InvalidInput, match="endpoint name 'A' is not a DNS label"):
        names.check_endpoint_name("A")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Churn Model", "churn-model"),
        ("wine_quality", "wine-quality"),
        ("2024", "m-2024"),
        ("9" * 60, "m-" + "9" * 50),
        ("!!", "model"),
    ],
)
def test_a_models_name_becomes_an_endpoints(text: str, name: str) -> None:
    assert names.service_name(text) == name
    assert names.check_endpoint_name(name) == name


@pytest.mark.parametrize(
    ("check", "good", "bad", "words"),
    [
        (names.check_release_id, ["r", "job-1", "A" * 63], ["", "-a", "a.b", "a b", "a" * 64, "a;b"], "release id"),
        (
            names.check_scope,
            ["prod", "local-default", "team_a"],
            ["", "a/b", "a.b", "a'b", "a b", "%", "a" * 64],
            "scope",
        ),
        (names.check_alias, ["", "champion", "a_b-1", "vv1", "latest2"], ["a b", "a.b", "ü", "a" * 256], "alias"),
        (names.check_alias, [], ["latest", "LATEST", "v1", "V22"], "reserved by MLflow"),
        (
            names.check_header_name,
            ["x-arm", "X-Arm", "a.b", "~"],
            ["", "a b", "a:b", ".a", "a\n", "ü", "a;b"],
            "header name",
        ),
        (
            names.check_host,
            ["churn.example.com", "*.example.com"],
            ["", "a b", "a.b:80", "http://a.b", "*.*.b"],
            "host",
        ),
        (names.check_gateway, ["istio-system/gw", "gw"], ["", "mesh", "a/b/c", "A/b", "/gw", "ns/"], "gateway"),
        (
            names.check_url,
            ["http://10.0.0.1", "https://gw.example:8443/"],
            ["", "gw", "ftp://a", "http://", "http://a/b", "http://a?x=1"],
            "address",
        ),
        (names.check_namespace, ["prod", "1", "a" * 63], ["", "A", "a" * 64, "a.b"], "namespace"),
    ],
)
def test_each_name_is_checked_where_it_comes_in(
    check: Callable[[str], str], good: list[str], bad: list[str], words: str
) -> None:
    for name in good:
        assert check(name) == name
    for name in bad:
        with pytest.raises(InvalidInput, match=words) as caught:
            check(name)
        assert repr(name) in caught.value.message


def test_a_cookies_name_is_called_that() -> None:
    with pytest.raises(InvalidInput, match="cookie name"):
        names.check_header_name("a b", "cookie")


def test_the_nearest_name_is_offered_before_all_of_them() -> None:
    assert names.nearest("cannary", ("shadow", "canary")) == "did you mean 'canary'? known: canary, shadow"
    assert names.nearest("zzz", ("shadow", "canary")) == "known: canary, shadow"
    assert names.nearest("zzz", ()) == "known: none"


@pytest.mark.parametrize("release_id", ["None", "null", "undefined", "NaN"])
def test_a_release_id_that_every_run_would_share_is_refused(release_id: str) -> None:
    """The second night's release would take the first one's end for its own, and say 'promoted'."""
    with pytest.raises(InvalidInput, match="what a template writes where nothing was given"):
        names.check_release_id(release_id)
