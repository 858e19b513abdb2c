"""Files of a user's own objects are read document by document, and every complaint says where."""

from __future__ import annotations

import re

import pytest
import yaml

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.yaml_text import as_yaml
from mlflow_istio.core.mesh.user_documents import kind_of, read_objects
from mlflow_istio.errors import InvalidInput


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("vs", "VirtualService"),
        ("virtualservice", "VirtualService"),
        ("VirtualServices", "VirtualService"),
        ("virtualservices.networking.istio.io", "VirtualService"),
        ("virtualservice.v1.networking.istio.io", "VirtualService"),
        ("dr", "DestinationRule"),
        ("DestinationRule", "DestinationRule"),
        ("svc", "Service"),
        ("services", "Service"),
        ("deploy", "Deployment"),
        ("deployments.apps", "Deployment"),
    ],
)
def test_a_kind_has_all_of_kubectls_spellings(word: str, kind: str) -> None:
    assert kind_of(word) == kind


@pytest.mark.parametrize("word", ["pods", "vsx", "", "services.apps", "virtualservices.apps"])
def test_another_kind_is_refused_with_what_there_is(word: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(f"there is no kind '{word}': ")):
        kind_of(word)


SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}


def test_documents_and_lists_are_read_in_order() -> None:
    names = ("a", "b", "c")
    first, *rest = [{**SERVICE, "metadata": {"name": name}} for name in names]
    text = yaml.safe_dump_all([first, None, {"apiVersion": "v1", "kind": "List", "items": rest}])
    assert [obj["metadata"]["name"] for obj in read_objects(text, "f")] == list(names)


def test_what_is_null_is_absent() -> None:
    """An API server prunes nulls; the condition of a match without a value is kept, so that it is refused and never widened."""
    text = """
kind: VirtualService
metadata: {name: shop, labels: }
spec:
  gateways:
  hosts: [shop]
  http:
    - mirror:
      match: [{uri: , headers: {x-user: }}]
      headers: {request: }
      route: [{destination: {host: web, subset: }}]
"""
    (obj,) = read_objects(text, "f")
    assert obj == {
        "kind": "VirtualService",
        "metadata": {"name": "shop"},
        "spec": {
            "hosts": ["shop"],
            "http": [
                {
                    "match": [{"headers": {"x-user": None}}],
                    "headers": {},
                    "route": [{"destination": {"host": "web"}}],
                }
            ],
        },
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: [", "f is no YAML: "),
        ("kind: Service\nkind: Service\nmetadata: {name: web}", "f is no YAML: line 2 gives 'kind' a second time"),
        ("a: 2024-13-45", "f is no YAML: month must be in 1..12"),
        ("", "f holds no object"),
        ("---\n---\n", "f holds no object"),
        ("just words", "f: must be an object with apiVersion, kind, metadata and spec, not 'just words'"),
        ("kind: Pod\nmetadata: {name: a}", "f: there is no kind 'Pod' here: use one of Deployment, Service, "),
        ("kind: Service\n---\nkind: Service", "f, document 1: the Service must have metadata.name"),
        ("kind: List\nitems: [1]", "f, items[0]: must be an object"),
        ("[" * 5000, "f is no YAML: "),
    ],
)
def test_what_is_no_object_is_one_line_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_objects(text, "f")
    assert str(caught.value).startswith(problem)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_written_is_read_back() -> None:
    rule: Object = {"a": "\x1b[31m", "b": [1, 2.5, None, True], "c": "données"}
    assert yaml.safe_load(as_yaml(rule)) == rule
    assert "\x1b" not in as_yaml(rule)
