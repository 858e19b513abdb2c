"""How many replicas a step needs, purely."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.release.capacity import Standing, check_surge, largest_needs, needs, shares_of, steps_of
from mlflow_istio.core.release.surge import check_surge_words, replicas_alike, replicas_for, surge_of
from mlflow_istio.errors import InvalidInput
from tests.support.release_values import a_plan


@pytest.mark.parametrize(
    ("start", "share", "count"),
    [
        (1, 50, 1),
        (1, 100, 1),
        (2, 50, 1),
        (3, 50, 2),
        (5, 0, 1),
        (5, 20, 1),
        (5, 21, 2),
        (5, 50, 3),
        (3, 100 / 3, 1),
        (100, 7, 7),
    ],
)
def test_a_share_needs_its_part_of_the_stables_replicas_rounded_up_and_one_at_least(
    start: int, share: float, count: int
) -> None:
    assert replicas_for(start, share) == count


@pytest.mark.parametrize(
    ("start", "share", "count"),
    [
        (1, 50, 1),
        (2, 50, 2),
        (5, 5, 1),
        (5, 20, 1),
        (5, 25, 2),
        (5, 50, 5),
        (5, 80, 5),
        (5, 100, 5),
        (4, 25, 1),
        (100, 50, 100),
    ],
)
def test_a_load_like_the_stables_takes_as_many_as_come_nearest_to_it(start: int, share: float, count: int) -> None:
    assert replicas_alike(start, share, 100 - share) == count


@pytest.mark.parametrize(("surge", "count"), [(None, 10), ("10", 10), ("7", 7), ("5", 5)])
def test_a_surge_ends_the_likeness_before_it_makes_the_stable_smaller(surge: str | None, count: int) -> None:
    standing = Standing(start={"v1": 10, "v2": 1}, present={"v1": 10, "v2": 1})
    found = needs(following(surge=surge), standing, {"v2": 50.0}, "the step to 50%")
    assert found.replicas == {"v1": 10, "v2": count}


@pytest.mark.parametrize("surge", [None, "6"])
def test_beside_a_control_both_have_their_share_and_no_more(surge: str | None) -> None:
    """It is the control whose loads are compared, and it is as large as the candidate."""
    start = {"v1": 5, "v2": 1, "v1-control": 1}
    standing = Standing(start=start, present=start, control="v1-control")
    plan = following(surge=surge)
    found = needs(plan, standing, shares_of(plan, 50.0, control="v1-control"), "the step to 50%")
    assert found.replicas == {"v1": 5, "v2": 3, "v1-control": 3}


@pytest.mark.parametrize(
    ("surge", "start", "count"), [(None, 4, None), ("2", 4, 2), ("50%", 5, 3), ("50%", 4, 2), ("0", 4, 0)]
)
def test_a_surge_is_a_number_or_a_percent_rounded_up(surge: str | None, start: int, count: int | None) -> None:
    assert surge_of(surge, start) == count


@pytest.mark.parametrize("surge", ["", "-1", "1.5", "half", "%", "50 %", "99999", "\u0663"])
def test_what_is_neither_is_refused(surge: str) -> None:
    with pytest.raises(InvalidInput, match="^surge is a number of replicas, such as 2, or a percent"):
        check_surge_words(surge)


def following(**changes: Any) -> Any:
    return a_plan(**{"capacity": "follow", "steps": (5.0, 25.0, 50.0), **changes})


def test_a_plan_says_what_replicas_do() -> None:
    from mlflow_istio.core.release.plan import describe_plan

    assert "replicas: before each step as many as its share needs of the stable's, ready" in describe_plan(following())
    (line,) = [line for line in describe_plan(following(surge="50%")) if line.startswith("replicas")]
    assert line.endswith("all versions together at most 50% more than the stable has now")
    assert not [line for line in describe_plan(a_plan()) if line.startswith("replicas")]


def test_a_plan_refuses_what_means_nothing() -> None:
    with pytest.raises(InvalidInput, match="capacity is 'fixed' or 'follow', not 'more'"):
        following(capacity="more")
    with pytest.raises(InvalidInput, match="'surge' has no effect with capacity=fixed"):
        following(capacity="fixed", surge="1")


def test_the_steps_of_each_strategy_have_their_shares() -> None:
    assert [(what, before) for what, before, _ in steps_of(following())] == [
        ("the step to 5%", 100.0),
        ("the step to 25%", 95.0),
        ("the step to 50%", 75.0),
        ("promotion", 50.0),
    ]
    arms = following(strategy="ab", candidates=("v2", "v3"), steps=(30.0,), guards=())
    assert steps_of(arms)[0] == ("the step to 30%", 100.0, {"v2": 30.0, "v3": 30.0})
    assert [shares for what, _, shares in steps_of(arms) if what == "promotion"] == [{"v2": 100.0}, {"v3": 100.0}]
    shadow = following(strategy="shadow", steps=(100.0,), guards=(), promote=False)
    assert steps_of(shadow) == [("the step to 100%", 100.0, {"v2": 100.0})]
    green = following(strategy="blue-green", steps=(0.0, 100.0))
    assert largest_needs(green, Standing(start={"v1": 3, "v2": 1})) == {"v2": (3, "the step to 100%")}


@pytest.mark.parametrize(
    ("strategy", "steps", "start", "surge", "says"),
    [
        (
            "canary",
            (5.0, 25.0, 50.0),
            5,
            "2",
            "beyond the 5 that 'v1' has, and promotion needs 3: say surge=3 at least",
        ),
        ("canary", (5.0, 25.0, 50.0), 1, "0", "the step to 5% needs 1: say surge=1"),
        ("canary", (50.0,), 5, "2", "the step to 50% needs 3"),
        (
            "blue-green",
            (0.0, 100.0),
            4,
            "50%",
            "allows 2 replicas beyond the 4 that 'v1' has, and the step to 100% needs 4",
        ),
        ("canary", (5.0, 25.0, 50.0), 5, "3", ""),
        ("canary", (5.0, 25.0, 50.0), 5, "50%", ""),
        ("canary", (5.0, 25.0, 50.0), 4, "2", ""),
        ("blue-green", (0.0, 100.0), 4, "100%", ""),
        ("blue-green", (0.0, 100.0), 4, None, ""),
    ],
)
def test_a_surge_that_stops_a_step_is_refused_with_the_numbers(
    strategy: str, steps: tuple[float, ...], start: int, surge: str | None, says: str
) -> None:
    plan = following(strategy=strategy, steps=steps, surge=surge)
    standing = Standing(start={"v1": start, "v2": 1}, present={"v1": start, "v2": 1})
    if says:
        with pytest.raises(InvalidInput, match=says):
            check_surge(plan, standing)
    else:
        check_surge(plan, standing)


def test_of_several_arms_the_one_that_wins_grows_and_the_others_stay() -> None:
    plan = following(strategy="ab", candidates=("v2", "v3"), steps=(30.0,), guards=())
    standing = Standing(start={"v1": 10, "v2": 1, "v3": 1}, present={"v1": 10, "v2": 3, "v3": 3}, stable_share=40.0)
    found = needs(plan, standing, shares_of(plan, 30.0, winner="v3"), "promotion")
    assert found.replicas == {"v1": 10, "v2": 3, "v3": 10}
    assert not found.shortage


def test_who_has_more_than_its_share_needs_keeps_it() -> None:
    plan = following()
    standing = Standing(start={"v1": 4, "v2": 3}, present={"v1": 4, "v2": 3})
    assert needs(plan, standing, shares_of(plan, 5.0), "the step to 5%").replicas == {"v1": 4, "v2": 3}


def test_a_number_that_somebody_else_sets_counts_as_it_is() -> None:
    plan = following(surge="2")
    standing = Standing(start={"v1": 4, "v2": 1}, present={"v1": 6, "v2": 1}, held=frozenset({"v1"}), stable_share=75.0)
    found = needs(plan, standing, shares_of(plan, 50.0), "the step to 50%")
    assert found.replicas["v1"] == 6
    assert found.shortage.startswith(
        "the step to 50% needs 8 replicas ('v2' 2, 'v1' 6), and surge=2 allows 6, 2 more than the 4"
    )
    held = Standing(start={"v1": 4, "v2": 1}, present={"v1": 4, "v2": 1}, held=frozenset({"v2"}))
    assert needs(following(), held, {"v2": 50.0}, "the step to 50%").replicas == {"v1": 4, "v2": 1}
