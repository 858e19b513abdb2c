"""What a model URI names, and what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.core.basics.model_version import ModelReference, ModelVersion, parse_label, parse_model_uri
from mlflow_istio.errors import InvalidInput

READ = [
    ("models:/churn/1", ModelReference(model="churn", version=1)),
    ("models:/churn/007", ModelReference(model="churn", version=7)),
    ("models://churn/1", ModelReference(model="churn", version=1)),  # one slash more is what people paste
    ("models:/churn/2/", ModelReference(model="churn", version=2)),
    ("models:/my model/3", ModelReference(model="my model", version=3)),
    ("models:/team@home/3", ModelReference(model="team@home", version=3)),
    ("models:/churn@champion", ModelReference(model="churn", alias="champion")),
    ("models:/churn@a_b-1", ModelReference(model="churn", alias="a_b-1")),
    ("models:/churn/latest", ModelReference(model="churn", alias="latest")),
    ("models:/churn/Latest", ModelReference(model="churn", alias="latest")),
    ("models:/モデル/1", ModelReference(model="モデル", version=1)),
    ("models:/team@home@champion", ModelReference(model="team@home", alias="champion")),
    ("models:/catalog.schema.model/4", ModelReference(model="catalog.schema.model", version=4)),
]


@pytest.mark.parametrize(("uri", "reference"), READ, ids=[uri for uri, _ in READ])
def test_a_models_uri_names_a_version_or_an_alias(uri: str, reference: ModelReference) -> None:
    assert parse_model_uri(uri) == reference


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("runs:/abc/model", "register a logged model first"),
        ("churn/1", "not a registered model version"),
        ("", "not a registered model version"),
        ("models:/churn/0", "versions start at 1"),
        ("models:/churn/Production", "names a stage, which MLflow has deprecated"),
        ("models:/churn/staging", "names a stage"),
        ("models:/m-0123abc", "names a logged model"),
        ("models:/churn", "can't be read: use models:/NAME/VERSION"),
        ("models:/churn/one", "can't be read"),
        ("models:/churn/1.5", "can't be read"),
        ("models:/churn/-1", "can't be read"),
        ("models:/churn/²", "can't be read"),
        ("models:/a/b/1", "can't be read"),
        ("models:/", "can't be read"),
        ("models:/@champion", "can't be read"),
        ("models:/churn@", "can't be read"),
        ("models:/churn@a b", "can't be read"),
        ("models:/who?/1", "MLflow drops '\\?' and what follows.*rename it"),
        ("models:/two\nlines/1", "MLflow drops"),
        ("models:/caf\udce9/1", "is not UTF-8"),  # as Python reads what a terminal in Latin-1 gives it
    ],
)
def test_anything_else_is_refused_with_the_uri_and_the_form_to_use(uri: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        parse_model_uri(uri)
    assert repr(uri) in caught.value.message


def test_the_uri_of_a_version_is_pinned_even_when_it_was_asked_for_by_alias() -> None:
    version = ModelVersion(model="churn", version=3, alias="champion")
    assert (version.uri, version.label) == ("models:/churn/3", "churn/3")


@pytest.mark.parametrize("label", ["churn/3", "my model/12", "a/b/4"])
def test_a_label_is_read_back(label: str) -> None:
    assert parse_label(label).label == label


@pytest.mark.parametrize("label", ["", "churn", "churn/", "/3", "churn/x", "churn/²", "churn/-1"])
def test_a_label_of_another_form_is_refused(label: str) -> None:
    with pytest.raises(InvalidInput, match="not of the form MODEL/VERSION"):
        parse_label(label)


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/:"), min_size=1, max_size=250).filter(
    str.strip
)


@given(NAMES, st.integers(1, 10**6))
def test_every_name_that_mlflow_allows_is_read_as_mlflow_reads_it_or_refused(name: str, version: int) -> None:
    """Held against ``mlflow.store.artifact.utils.models``, by which the model server finds its model."""
    from mlflow.store.artifact.utils.models import _parse_model_uri

    uri = ModelVersion(model=name, version=version).uri
    try:
        ours = parse_model_uri(uri)
    except InvalidInput:
        assert any(letter in name for letter in "?\n\r\t")
        return
    theirs = _parse_model_uri(uri)
    assert (ours.model, ours.version) == (theirs.name, int(theirs.version or 0)) == (name, version)
