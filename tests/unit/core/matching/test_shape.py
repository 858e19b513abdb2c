"""A VirtualService is read by the fields of Istio's definition: nulls are no values, another type is named by its path."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.shape import SPEC, Fields, Map, readable, told_by_shape
from mlflow_istio.errors import InvalidInput, StateConflict

FIELDS = json.loads((Path(__file__).parents[3] / "corpus" / "fields.json").read_text(encoding="utf-8"))
WORDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def shop() -> Object:
    return {
        "kind": "VirtualService",
        "metadata": {"name": "shop", "annotations": {"note": "ours"}},
        "spec": {
            "hosts": ["shop.example"],
            "http": [
                {
                    "match": [{"uri": {"prefix": "/a"}, "headers": {"x-a": {"exact": "1"}}, "port": 80}],
                    "route": [{"destination": {"host": "web", "port": {"number": 80}}, "weight": 100}],
                    "mirror": {"host": "copies"},
                    "delegate": {"name": "chat"},
                    "headers": {"request": {"set": {"x-b": "1"}, "remove": ["x-c"]}},
                    "unknown": {"stays": None},
                }
            ],
        },
    }


def flattened(kind: Any, path: str) -> Iterator[str]:
    """The fields as the corpus lists those of the definition that the testbed installs."""
    if isinstance(kind, list):
        yield f"{path} array"
        yield from flattened(kind[0], f"{path}[]")
    elif isinstance(kind, Map):
        yield f"{path} object"
        yield from flattened(kind.of, f"{path}{{}}")
    elif isinstance(kind, (Fields, dict)):
        yield f"{path} object"
        for name, member in (kind.known if isinstance(kind, Fields) else kind).items():
            yield from flattened(member, f"{path}.{name}")
    else:
        yield f"{path} {WORDS[kind]}"


def test_the_fields_are_those_of_istios_definition() -> None:
    known = {" ".join(line.split()[:2]) for line in FIELDS["VirtualService"]}
    read = {line for line in known if not line.startswith(("spec.tcp[].", "spec.tls[]."))}
    assert set(flattened(SPEC, "spec")) == read


def at(obj: Any, *path: str | int) -> Any:
    for step in path:
        obj = obj[step]
    return obj


ROUTE = ("spec", "http", 0)
WRONG: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("spec",), [], "spec must be an object, not []"),
    (("spec", "hosts"), "shop.example", "spec.hosts must be a list, not 'shop.example'"),
    (("spec", "hosts", 0), 7, "spec.hosts[0] must be a text, not 7"),
    (("spec", "http"), {}, "spec.http must be a list, not {}"),
    (ROUTE, None, "spec.http[0] must be an object, not null"),
    ((*ROUTE, "match"), {"uri": {}}, "spec.http[0].match must be a list, not {'uri': {}}"),
    ((*ROUTE, "match", 0, "uri"), "/a", "spec.http[0].match[0].uri must be an object, not '/a'"),
    ((*ROUTE, "match", 0, "uri", "prefix"), 1, "spec.http[0].match[0].uri.prefix must be a text, not 1"),
    ((*ROUTE, "match", 0, "headers", "x-a"), "1", "spec.http[0].match[0].headers[x-a] must be an object, not '1'"),
    ((*ROUTE, "match", 0, "port"), True, "spec.http[0].match[0].port must be a whole number, not True"),
    ((*ROUTE, "route", 0, "weight"), "100", "spec.http[0].route[0].weight must be a whole number, not '100'"),
    ((*ROUTE, "route", 0, "destination"), None, "spec.http[0].route[0].destination is missing"),
    ((*ROUTE, "route", 0, "destination", "host"), None, "spec.http[0].route[0].destination.host is missing"),
    ((*ROUTE, "mirror", "host"), None, "spec.http[0].mirror.host is missing"),
    ((*ROUTE, "delegate", "name"), None, "spec.http[0].delegate.name is missing"),
    ((*ROUTE, "headers", "request", "remove", 0), {}, "spec.http[0].headers.request.remove[0] must be a text, not {}"),
    ((*ROUTE, "headers", "request", "set", "x-b"), 1, "spec.http[0].headers.request.set[x-b] must be a text, not 1"),
    (("metadata", "annotations"), ["a"], "metadata.annotations must be an object, not ['a']"),
]


@pytest.mark.parametrize(("path", "value", "words"), WRONG, ids=[words for _, _, words in WRONG])
def test_what_has_another_type_is_named_by_its_path(path: tuple[str | int, ...], value: Any, words: str) -> None:
    obj = shop()
    at(obj, *path[:-1])[path[-1]] = value
    with pytest.raises(InvalidInput) as refused:
        readable(obj)
    assert refused.value.message == f"VirtualService 'shop': {words}"


def test_an_object_without_a_name_is_told_by_what_it_lacks() -> None:
    for broken, words in (
        ({}, "a VirtualService: metadata is missing"),
        ({"metadata": {}}, "a VirtualService: metadata.name is missing"),
        ({"metadata": {"name": 1}}, "a VirtualService: metadata.name must be a text, not 1"),
        ([], "a VirtualService: must be an object, not []"),
    ):
        with pytest.raises(InvalidInput, match=re.escape(words)):
            readable(broken)  # type: ignore[arg-type]


def test_a_long_value_is_cut() -> None:
    with pytest.raises(InvalidInput) as refused:
        readable({"metadata": {"name": "shop"}, "spec": {"hosts": "x" * 500}})
    assert len(refused.value.message) < 110


def test_nulls_are_left_out_and_a_whole_object_is_itself() -> None:
    whole = shop()
    assert readable(whole) is whole
    bare = copy.deepcopy(whole)
    http = whole["spec"]["http"][0]
    http |= {"rewrite": None, "mirrors": None, "timeout": None}
    http["match"][0] |= {"method": None, "queryParams": None}
    http["match"][0]["headers"]["x-e"] = None
    http["headers"]["request"]["set"]["x-d"] = None
    whole["spec"]["gateways"] = None
    whole["metadata"]["labels"] = None
    kept = copy.deepcopy(whole)
    assert readable(whole) == bare
    assert whole == kept


@told_by_shape
def first_host(virtual_service: Object, *, upper: bool = False) -> str:
    if virtual_service["spec"].get("gateways", "none") != "none":
        raise StateConflict("it has gateways")
    host = str(virtual_service["spec"]["hosts"][0])
    return host.upper() if upper else host


def test_who_stumbles_is_told_by_shape() -> None:
    assert first_host(shop(), upper=True) == "SHOP.EXAMPLE"
    with_null = {**shop(), "spec": {**shop()["spec"], "gateways": None}}
    assert first_host(with_null) == "shop.example"
    with pytest.raises(InvalidInput, match=r"VirtualService 'shop': spec.hosts must be a list, not 7"):
        first_host({**shop(), "spec": {"hosts": 7}})
    with pytest.raises(StateConflict, match="it has gateways"):
        first_host({**shop(), "spec": {"gateways": ["front"]}})
    with pytest.raises(InvalidInput, match=r"VirtualService 'shop' holds what can't be read \(IndexError"):
        first_host({**shop(), "spec": {"hosts": []}})
