"""Every network call has a timeout: whoever answers nothing holds nobody for ever."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for package in ("mlflow_istio", "kfp_components") for path in sorted((ROOT / package).rglob("*.py"))]
VERBS = {"get", "post", "put", "patch", "delete", "head", "options", "request"}
CALLERS = {"requests", "session"}
"""What has these verbs here: the module, and a session of it."""
BY_NAME = {"urlopen", "create_connection", "HTTPConnection", "HTTPSConnection"}
FORBIDDEN = {"aiohttp", "httpx", "urllib3.PoolManager"}
"""Clients that nothing here uses; whoever brings one adds it to this test."""


def network_calls(tree: ast.AST) -> Iterator[ast.Call]:
    waited_for = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "wait_for" and has_timeout(node)
        for inner in ast.walk(node.args[0])
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or node in waited_for:
            continue
        named = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = (
            node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
        )
        is_mapping = any(isinstance(argument, ast.Name) or len(node.args) == 2 for argument in node.args[1:])
        if (owner in CALLERS and named in VERBS and not (named == "get" and is_mapping)) or named in BY_NAME:
            yield node


def has_timeout(call: ast.Call) -> bool:
    return any(word.arg == "timeout" and not _is_none(word.value) for word in call.keywords)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


@pytest.fixture(scope="module")
def calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.relative_to(ROOT)}:{call.lineno}", call)
        for path in SOURCES
        for call in network_calls(ast.parse(path.read_text(encoding="utf-8")))
    ]


def test_each_has_one(calls):
    assert len(calls) >= 10, "the walk finds the calls that are there"
    assert [where for where, call in calls if not has_timeout(call)] == []


def test_no_client_is_used_that_this_does_not_know():
    imported = {
        (alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}")
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert {name for name in imported if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN} == set()


@pytest.mark.parametrize("module", ["api_calls"])
def test_every_call_of_the_kubernetes_client_has_one(module):
    """Its methods take ``_request_timeout``, and wait for ever without."""
    tree = ast.parse((ROOT / f"mlflow_istio/adapters/kubernetes/{module}.py").read_text(encoding="utf-8"))
    raw = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and any(word.arg == "_preload_content" for word in node.keywords)
    ]
    assert raw
    assert all(any(word.arg == "_request_timeout" for word in node.keywords) for node in raw)


def test_only_that_module_calls_the_kubernetes_client():
    others = [
        path.name
        for path in (ROOT / "mlflow_istio/adapters/kubernetes").glob("*.py")
        if "_preload_content" in path.read_text(encoding="utf-8") and path.name != "api_calls.py"
    ]
    assert others == []


def test_a_call_without_one_would_be_found():
    tree = ast.parse("import requests\nrequests.get(url)\nsession.post(url, timeout=None)\nrequests.get(name, 0)\n")
    found = list(network_calls(tree))
    assert [has_timeout(call) for call in found] == [False, False]
