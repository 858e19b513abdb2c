"""A package that is installed beside ours brings kinds of guards; nothing of ours names them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.release.guards.base import GuardTerms, TestSettings
from mlflow_istio.core.release.guards.installed import GROUP, installed_kind
from mlflow_istio.core.release.guards.table import GUARD_KINDS
from mlflow_istio.core.release.judgement import look_figures
from mlflow_istio.core.release.plan import GuardPlan, describe_plan
from mlflow_istio.core.release.progress import check_room, first_progress, progress_from_text, progress_to_text
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.release import ReleaseOptions
from mlflow_istio.options.release_plan import plan_of
from tests.support.endpoint_values import TIME, an_endpoint
from tests.support.release_values import Journey, a_plan
from tests.unit.core.release import toy_guards
from tests.unit.core.release.toy_guards import Blocks

HERE = "tests.unit.core.release.toy_guards"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What pip leaves behind of such a package."""
    info = tmp_path / "toy_guards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-guards\nVersion: 1.0\n")
    points = {
        "collapse": f"{HERE}:Collapse",
        "blocks": f"{HERE}:Blocks",
        "careless": f"{HERE}:Careless",
        "failing": f"{HERE}:Failing",
        "gone": f"{HERE}:Nothing",
        "broken": "no_such_module:Kind",
        "unfinished-kind": f"{HERE}:Unfinished",
        "other": f"{HERE}:Blocks",
        "test": f"{HERE}:NOT_A_KIND",
        "errors": f"{HERE}:Collapse",
    }
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    installed_kind.cache_clear()
    yield
    installed_kind.cache_clear()


COLLAPSE = {"name": "collapse", "kind": "collapse", "limit": 0.3}


def test_a_rule_that_fires_rolls_back_in_two_looks_through_the_whole_engine() -> None:
    plan = a_plan(guards=(GuardPlan(**COLLAPSE),), alpha=1e-9)
    journey = Journey(plan)
    for looked in ((100, 0), (90, 0)), ((90, 1), (40, 30)), ((90, 0), (40, 32)):
        # Any process may go on with it: what it knows stands in the text.
        journey.progress = progress_from_text(progress_to_text(journey.progress))
        action = journey.look(*looked)
    assert type(action).__name__ == "RollBack"
    assert "collapse, 80% failed, 2 looks in a row" in action.verdict.reason
    calm = Journey(plan)
    for looked in (
        ((100, 0), (0, 0)),
        ((90, 1), (40, 30)),
        ((90, 0), (40, 1)),
        ((90, 80), (40, 39)),
        ((90, 0), (40, 39)),
    ):
        assert type(calm.look(*looked)).__name__ != "RollBack"
    test = calm.progress.evidence.tests["collapse"]
    assert (to_json(test)["looks"], test.log_e_value) == (1, 0.0)  # never two in a row while the stable was well


def test_a_kind_that_raises_has_no_data_and_the_other_guards_go_on() -> None:
    careless = GuardPlan(name="careless", kind="careless", limit=0.3)
    journey = Journey(a_plan(guards=(careless, GuardPlan(name="errors", kind="errors")), hold=60.0, deadline=1e6))
    journey.look((90, 0), (40, 0))
    action = journey.look((90, 0), (0, 0))
    reason = action.verdict.reason
    assert type(action).__name__ == "Wait"
    assert "careless: its kind 'careless' failed (ZeroDivisionError: " in reason
    for _ in range(50):
        action = journey.look((90, 0), (40, 40))
        if type(action).__name__ == "RollBack":
            break
    assert "errors" in action.verdict.reason


@pytest.mark.parametrize("method", ["describe", "start", "room"])
def test_a_kind_that_raises_before_anything_has_begun_is_refused_or_said_in_one_line(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = a_plan(guards=(GuardPlan(name="mine", kind="failing", limit=0.3),))
    monkeypatch.setattr(toy_guards, "WRONG", method)
    why = f"its kind 'failing' failed (KeyError: '{method}')"
    if method == "describe":
        assert f"guard mine: {why}" in describe_plan(plan)
        return
    with pytest.raises(InvalidInput, match=re.escape(f"guard 'mine': {why}")):
        check_room(first_progress(plan, TIME))


@pytest.mark.parametrize(
    ("method", "holds"),
    [
        *[(method, True) for method in ("update", "lacks_data", "log_e_value", "nan", "class", "bounds")],
        *[(method, False) for method in ("learn", "series", "guard", "figures")],
    ],
)
def test_whatever_of_a_kind_raises_while_it_is_watched_the_others_watch_on(
    method: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its evidence, or its proof, is not known, nothing gets more traffic for it; where only its words are, all goes on."""
    guards = (GuardPlan(name="mine", kind="failing", limit=0.3), GuardPlan(name="errors", kind="errors"))
    for errors, good in ((0, True), (40, False)):
        journey = Journey(a_plan(guards=guards, hold=0.0, min_requests=1, deadline=1e6))
        monkeypatch.setattr(toy_guards, "WRONG", method)
        actions = []
        for _ in range(60):
            actions.append(journey.look((900, 0), (400, errors)))
            look_figures(journey.progress.plan, journey.progress.evidence, journey.weight)
            if type(actions[-1]).__name__ in ("RollBack", "Promote"):
                break
        last = type(actions[-1]).__name__
        if not good:
            assert last == "RollBack"
        else:
            assert last == ("Wait" if holds else "Promote")
            assert not holds or "its kind 'failing' failed (" in actions[-1].verdict.reason


def blocks_of(errors: int) -> tuple[list[str], str]:
    """Names of the actions, and the last sentence, when the candidate fails so often and the stable in 2 of 100."""
    journey = Journey(a_plan(guards=(GuardPlan(name="blocks", kind="blocks"),), steps=(50.0,), hold=1e5, deadline=1e6))
    actions = []
    while len(actions) < 60 and actions[-1:] != ["RollBack"]:
        action = journey.look((100, 2), (100, errors))
        actions.append(type(action).__name__)
    return actions, action.verdict.reason


def test_a_sequential_t_test_on_blocks_of_time_fits_the_same_way() -> None:
    actions, reason = blocks_of(6)
    assert actions[-1] == "RollBack"
    assert len(actions) > 12  # four blocks of three looks at least
    assert reason.startswith("The candidate is worse: blocks, more failures than its share in ")
    assert "RollBack" not in blocks_of(2)[0]


def test_a_kind_that_can_begin_at_once_needs_no_history() -> None:
    assert (
        Blocks().start_from(GuardTerms(name="blocks", kind="blocks"), TestSettings(), {"pod": {"requests": 9}}) is None
    )


def test_options_take_such_a_kind_as_any_other() -> None:
    options = ReleaseOptions(analysis='[{"guard": "collapse", "limit": 0.3}, {"guard": "errors"}]')
    plan = plan_of(options, an_endpoint(), ("v2",))
    assert "guard collapse: never two looks in a row with 30% failed requests" in describe_plan(plan)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("collapsee", "guard 'x': unknown kind: did you mean 'collapse'?"),
        ("gone", "entry point 'gone = .*:Nothing' of group 'mlflow_istio.guards' can't be loaded: .*no attribute"),
        ("broken", "can't be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("unfinished-kind", "makes no kind: TypeError: .*abstract"),
        ("other", "is not a GuardKind whose name is 'other'"),
        ("test", "is not a GuardKind whose name is 'test'"),
    ],
)
def test_what_can_not_be_used_is_named(kind: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        GuardPlan(name="x", kind=kind)


def test_nobody_takes_the_place_of_a_kind_of_ours() -> None:
    (line,) = [line for line in describe_plan(a_plan()) if line.startswith("guard errors")]
    assert line.endswith("odds of a failed request at most 1 times the stable's")
    assert set(GUARD_KINDS) == {
        *("errors", "latency", "gross", "objective", "rate", "mean"),
        *("ttft", "tpot", "tokens", "unfinished"),
    }
