"""A root with its delegates' routes in their place, as istiod merges them."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.delegation import delegates_of, is_delegate, left_out, merged

TO_A: list[Object] = [{"destination": {"host": "a"}}]


def vs(name: str, *http: Object, hosts: tuple[str, ...] = ()) -> Object:
    return {"kind": "VirtualService", "metadata": {"name": name}, "spec": {"hosts": list(hosts), "http": list(http)}}


def put_together(root: Object, *subs: Object) -> list[Object]:
    delegates = {"a": vs("a", *subs)}
    http = merged(vs("root", root, hosts=("x",)), delegates.get)["spec"]["http"]
    assert isinstance(http, list)
    return http


def test_a_root_without_delegates_is_itself() -> None:
    root = vs("root", {"route": TO_A}, hosts=("x",))
    assert merged(root, lambda _: None) == root
    assert not is_delegate(root)
    assert is_delegate(vs("a", {"route": TO_A}))


def test_what_the_delegate_does_not_say_the_root_does() -> None:
    root: Object = {
        "name": "r",
        "delegate": {"name": "a"},
        "timeout": "1s",
        "rewrite": {"uri": "/"},
        "headers": {"request": {}},
    }
    sub: Object = {"name": "s", "route": TO_A, "timeout": "9s"}
    assert put_together(root, sub) == [
        {"name": "r-s", "route": TO_A, "timeout": "9s", "rewrite": {"uri": "/"}, "headers": {"request": {}}}
    ]


def test_an_answer_of_its_own_takes_no_rewrite_or_timeout_from_the_root() -> None:
    root: Object = {"delegate": {"name": "a"}, "timeout": "1s", "rewrite": {"uri": "/"}}
    sub: Object = {"name": "probe", "directResponse": {"status": 200}}
    assert put_together(root, sub) == [sub]


def test_a_delegate_that_is_missing_or_has_hosts_leaves_nothing_and_other_routes_stay() -> None:
    other: Object = {"name": "other", "route": TO_A}
    root = vs("root", {"delegate": {"name": "gone"}}, other, {"delegate": {"name": "hosted"}}, hosts=("x",))
    found = {"hosted": vs("hosted", {"route": TO_A}, hosts=("y",))}
    assert merged(root, found.get)["spec"]["http"] == [other]
    assert delegates_of(root) == ("gone", "hosted")


def test_a_delegate_of_another_namespace_is_not_one_of_ours() -> None:
    root = vs("root", {"delegate": {"name": "a", "namespace": "else"}}, {"name": "own", "route": TO_A}, hosts=("x",))
    root["metadata"]["namespace"] = "models"
    assert delegates_of(root) == ()
    assert merged(root, {"a": vs("a", {"route": TO_A})}.get)["spec"]["http"] == [{"name": "own", "route": TO_A}]
    assert left_out(root, vs("a", {"match": [{"uri": {"prefix": "/"}}]})) == []
    same = vs("root", {"delegate": {"name": "a", "namespace": "models"}}, hosts=("x",))
    same["metadata"]["namespace"] = "models"
    assert delegates_of(same) == ("a",)


@pytest.mark.parametrize(
    ("seen_by", "carried"),
    [
        (["*"], True),
        (["."], True),
        (["models"], True),
        (["x", "models"], True),
        (["x"], False),
        (["~"], False),
        ([], True),
    ],
)
def test_a_delegate_that_its_roots_namespace_does_not_see_leaves_nothing(seen_by: list[str], carried: bool) -> None:
    root = vs("root", {"delegate": {"name": "a"}}, hosts=("x",))
    root["metadata"]["namespace"] = "models"
    delegate = vs("a", {"route": TO_A})
    delegate["spec"]["exportTo"] = seen_by
    assert bool(merged(root, {"a": delegate}.get)["spec"]["http"]) is carried


MATCHES: dict[str, tuple[list[Object], list[Object], list[Object] | None]] = {
    "only the root's": ([{"uri": {"prefix": "/a"}}], [], [{"uri": {"prefix": "/a"}}]),
    "only the delegate's": ([], [{"uri": {"prefix": "/a"}}], [{"uri": {"prefix": "/a"}}]),
    "joined": (
        [{"uri": {"prefix": "/a"}, "headers": {"x": {"exact": "1"}}}],
        [{"headers": {"y": {"exact": "2"}}}],
        [{"uri": {"prefix": "/a"}, "headers": {"x": {"exact": "1"}, "y": {"exact": "2"}}}],
    ),
    "every pair": (
        [{"uri": {"exact": "/a"}}, {"uri": {"prefix": "/a/"}}],
        [{"headers": {"y": {}}}, {"headers": {"z": {}}}],
        [
            {"uri": {"exact": "/a"}, "headers": {"y": {}}},
            {"uri": {"prefix": "/a/"}, "headers": {"y": {}}},
            {"uri": {"exact": "/a"}, "headers": {"z": {}}},
            {"uri": {"prefix": "/a/"}, "headers": {"z": {}}},
        ],
    ),
    "prefix in prefix": ([{"uri": {"prefix": "/a"}}], [{"uri": {"prefix": "/a/b"}}], [{"uri": {"prefix": "/a/b"}}]),
    "exact in prefix": ([{"uri": {"prefix": "/a"}}], [{"uri": {"exact": "/ab"}}], [{"uri": {"exact": "/ab"}}]),
    "prefix outside": ([{"uri": {"prefix": "/a/b"}}], [{"uri": {"prefix": "/a"}}], None),
    "prefix in exact": ([{"uri": {"exact": "/a"}}], [{"uri": {"prefix": "/a"}}], None),
    "two exact": ([{"uri": {"exact": "/a"}}], [{"uri": {"exact": "/b"}}], None),
    "same exact": ([{"uri": {"exact": "/a"}}], [{"uri": {"exact": "/a"}}], [{"uri": {"exact": "/a"}}]),
    "regex never": ([{"uri": {"regex": "/a"}}], [{"uri": {"exact": "/a"}}], None),
    "header regex never": ([{"headers": {"x": {"prefix": "a"}}}], [{"headers": {"x": {"regex": "a"}}}], None),
    "case": ([{"uri": {"prefix": "/a"}, "ignoreUriCase": True}], [{"headers": {"x": {}}}], None),
    "port": ([{"port": 80}], [{"port": 81}], None),
    "namespace": ([{"sourceNamespace": "a"}], [{"headers": {"x": {}}}], None),
    "labels": ([{"sourceLabels": {"app": "a"}}], [{"sourceLabels": {"app": "b"}}], None),
    "gateways": ([{"gateways": ["g"]}], [{"gateways": ["h"]}], None),
    "gateway in gateways": ([{"gateways": ["g", "h"]}], [{"gateways": ["h"]}], [{"gateways": ["h"]}]),
    "names": ([{"name": "r"}], [{"name": "s"}], [{"name": "r-s"}]),
    "one of two roots": (
        [{"uri": {"exact": "/x"}}, {"uri": {"prefix": "/a"}}],
        [{"uri": {"prefix": "/a/b"}}],
        [{"uri": {"prefix": "/a/b"}}],
    ),
}


@pytest.mark.parametrize(("root", "sub", "expected"), MATCHES.values(), ids=list(MATCHES))
def test_a_delegates_match_must_lie_inside_the_roots(
    root: list[Object], sub: list[Object], expected: list[Object] | None
) -> None:
    outer: Object = {"delegate": {"name": "a"}, **({"match": root} if root else {})}
    inner: Object = {"name": "s", "route": TO_A, **({"match": sub} if sub else {})}
    found: Any = put_together(outer, inner)
    assert found == ([] if expected is None else [{**inner, "match": expected}])
