"""A scorer by name: built in, of a package, of the folder in which the command runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_istio.core.analysis.text_scores import SCORERS
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.analysis import CompareOptions
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.scorer import BUILT_IN, DEFAULT, scorer_of

MODULE = """
import difflib

COUNT = 3

class Scores:
    @staticmethod
    def ratio(stable, candidate):
        return difflib.SequenceMatcher(None, stable, candidate).ratio()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with modules in it; sys.path is that of an installed command."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "shop_scores.py").write_text(MODULE)
    (tmp_path / "broken_scores.py").write_text("raise RuntimeError('no\\nlicence')")
    (tmp_path / "leaving_scores.py").write_text("import sys; sys.exit(7)")
    (tmp_path / "lacking_scores.py").write_text("import no_such_dependency")
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def options(**given: Any) -> CompareOptions:
    return parse_options(CompareOptions, {"answers": "text", **given}, cluster="istio")


def test_the_names_are_those_that_are_built_in() -> None:
    assert set(BUILT_IN) == set(SCORERS)
    rule = options().rule()
    assert (rule.scorer, rule.similarity) == (SCORERS[DEFAULT], 0.8)
    assert options(scorer="json").rule().scorer is SCORERS["json"]


def test_a_function_by_name_and_a_callable_are_the_same(folder: Path) -> None:
    path = list(sys.path)
    by_name = scorer_of("shop_scores:Scores.ratio")
    assert sys.path == path
    from importlib import import_module

    monkey = sys.modules["shop_scores"]
    by_value = scorer_of(monkey.Scores.ratio)
    assert by_name.name == by_value.name == "shop_scores:Scores.ratio"
    assert by_name("abcd", "bcde") == by_value("abcd", "bcde") == 0.75  # 2 * 3 common / 8
    assert scorer_of("difflib:get_close_matches").score is import_module("difflib").get_close_matches


@pytest.mark.parametrize(
    ("scorer", "problem"),
    [
        ("edits", "'edits' is neither package.module:function nor built in: did you mean 'edit'?"),
        ("os.path.join", "is neither package.module:function nor built in"),
        ("a/b:c", "is neither package.module:function nor built in"),
        ("a:b:c", "is neither package.module:function nor built in"),
        (":f", "is neither package.module:function nor built in"),
        ("", "is neither package.module:function nor built in"),
        (5, "it must be a name or a callable, not int"),
    ],
)
def test_what_is_no_scorer_is_refused_before_anything_is_imported(scorer: Any, problem: str) -> None:
    with pytest.raises(InvalidInput, match="option 'scorer'") as raised:
        options(scorer=scorer)
    assert problem in raised.value.message


@pytest.mark.parametrize(
    ("scorer", "problem"),
    [
        ("no_such_scores:f", "there is no module 'no_such_scores' for 'no_such_scores:f'"),
        ("lacking_scores:f", "there is no module 'no_such_dependency' for 'lacking_scores:f'"),
        ("shop_scores:Score", "'shop_scores:Score' has no 'Score': did you mean 'Scores'?"),
        ("shop_scores:Scores.ration", "has no 'ration': did you mean 'ratio'?"),
        ("shop_scores:COUNT", "'shop_scores:COUNT' is no function but int"),
        ("broken_scores:f", "importing 'broken_scores' failed: RuntimeError: no licence"),
        ("leaving_scores:f", "importing 'leaving_scores' failed: SystemExit: 7"),
    ],
)
def test_what_can_not_be_imported_here_is_one_line(folder: Path, scorer: str, problem: str) -> None:
    given = options(scorer=scorer)
    with pytest.raises(InvalidInput) as raised:
        given.rule()
    assert problem in raised.value.message
    assert "\n" not in raised.value.message


def test_several_fields_are_named_with_commas() -> None:
    assert options(field="choices[0].message.content, usage.total").rule().fields == (
        "choices[0].message.content",
        "usage.total",
    )
    with pytest.raises(InvalidInput, match=r"option 'field'.*'a\.\.b' is no field of an answer"):
        options(field="a..b")
