"""Callers at a gateway who choose their deployment are no evidence: where a source can't tell, somebody vouches for them."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.errors import InvalidInput
from tests.support.in_memory import World
from tests.support.in_memory_verbs import CLUSTER, LOCAL, InMemoryVerbs, everything

GATEWAY = {"gateway": "istio-system/gateway"}
AB = {"strategy": "ab", "cookie": "arm"}
STAFF = [{"headers": {"x-staff": {"exact": "1"}}}]
KPI = {"bought": {"queries": {"n": 'a{v="$deployment"}', "events": 'b{v="$deployment"}'}}}


def verbs_with(options: dict[str, Any], target: str = CLUSTER) -> InMemoryVerbs:
    verbs = InMemoryVerbs(World(), target)
    verbs.create("churn-v1", "models:/churn/1", None, "churn", options)
    return verbs


@pytest.mark.parametrize(
    ("options", "by"),
    [
        (AB, "an arm's header, cookie or match"),
        ({"strategy": "ab", "header": "x-arm"}, "an arm's header, cookie or match"),
        ({"strategy": "ab", "arms": {"churn-v2": STAFF}}, "an arm's header, cookie or match"),
        ({"match": STAFF}, "the canary's match"),
        ({**AB, "randomised": False}, "an arm's header, cookie or match"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_release_that_strangers_could_decide_is_refused_and_nothing_is_applied(
    options: dict[str, Any], by: str, dry_run: bool
) -> None:
    verbs = verbs_with(GATEWAY)
    before = everything(verbs.around.world)
    with pytest.raises(InvalidInput) as refused:
        verbs.release("churn", "models:/churn/2", {**options, "detach": True, "dry_run": dry_run})
    assert f"choose their deployment by {by}, and" in refused.value.message
    assert "count for errors, latency" in refused.value.message
    assert "randomised=true" in refused.value.message
    assert everything(verbs.around.world) == before


@pytest.mark.parametrize(
    ("target", "endpoint", "options"),
    [
        (CLUSTER, GATEWAY, {**AB, "randomised": True}),
        (CLUSTER, GATEWAY, {**AB, "analysis": "none"}),
        (CLUSTER, GATEWAY, {**AB, "metrics": "none", "analysis": "none"}),
        (CLUSTER, GATEWAY, {}),
        (CLUSTER, {}, AB),
        (LOCAL, {}, AB),
    ],
)
def test_a_release_opens_where_strangers_choose_nothing_or_somebody_vouches(
    target: str, endpoint: dict[str, Any], options: dict[str, Any]
) -> None:
    verbs = verbs_with(endpoint, target)
    view = verbs.release("churn", "models:/churn/2", {**options, "detach": True}).view
    assert view["outcome"] == "open"
    assert not [line for line in verbs.warned if "choose their deployment" in line]


def test_a_route_of_its_own_lets_callers_choose_too_unless_it_only_redirects() -> None:
    verbs = verbs_with(GATEWAY)
    verbs.route("churn", {"name": "staff", "to": "churn-v1", "match": STAFF})
    with pytest.raises(InvalidInput, match="choose their deployment by route 'staff', and"):
        verbs.release("churn", "models:/churn/2", {"detach": True})


@pytest.mark.parametrize("to", ["churn-v1", "churn-v2"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_no_way_in_is_added_while_a_release_counts_who_comes(to: str, dry_run: bool) -> None:
    verbs = verbs_with(GATEWAY)
    verbs.release("churn", "models:/churn/2", {"detach": True})
    before = everything(verbs.around.world)
    with pytest.raises(InvalidInput, match="choose their deployment by route 'staff', and") as refused:
        verbs.route("churn", {"name": "staff", "to": to, "match": STAFF, "dry_run": dry_run})
    assert "count for errors, latency" in refused.value.message
    assert everything(verbs.around.world) == before


@pytest.mark.parametrize(
    ("target", "endpoint", "options", "to"),
    [
        (CLUSTER, GATEWAY, {"randomised": True}, "churn-v2"),
        (CLUSTER, GATEWAY, {"analysis": "none"}, "churn-v2"),
        (CLUSTER, GATEWAY, {}, "churn-v3"),
        (CLUSTER, {}, {}, "churn-v2"),
        (LOCAL, {}, {}, "churn-v2"),
    ],
)
def test_a_route_comes_where_nothing_counts_or_somebody_vouches(
    target: str, endpoint: dict[str, Any], options: dict[str, Any], to: str
) -> None:
    verbs = verbs_with(endpoint, target)
    verbs.create("churn-v3", "models:/churn/3", None, "churn", {})
    verbs.release("churn", "models:/churn/2", {**options, "detach": True})
    assert verbs.route("churn", {"name": "staff", "to": to, "match": STAFF}).view["policy"]


def test_open_pins_are_a_word_of_their_own() -> None:
    verbs = verbs_with({**GATEWAY, "pins": "open"})
    assert verbs.release("churn", "models:/churn/2", {"detach": True}).view["outcome"] == "open"


def open_by_hand(randomised: bool | None = None) -> InMemoryVerbs:
    verbs = verbs_with(GATEWAY)
    verbs.create("churn-v2", "models:/churn/2", None, "churn", {**AB, "weight": 50})
    for arm in ("churn-v1", "churn-v2"):
        verbs.around.metrics.serve(arm, 100)
    if randomised is not None:
        verbs.analyse("churn", {"randomised": randomised})
    return verbs


def test_analyse_and_declare_are_refused_alike() -> None:
    verbs = open_by_hand()
    with pytest.raises(InvalidInput, match="choose their deployment by an arm's header, cookie or match, and"):
        verbs.analyse("churn", {})
    with pytest.raises(InvalidInput, match="choose their deployment by an arm's header, cookie or match, and"):
        verbs.declare("churn", {"winner": "churn-v2"})
    assert not verbs.warned
    assert verbs.around.metrics.reads == 0


@pytest.mark.parametrize("options", [{"randomised": True}, {"randomised": False}, {"kpi": KPI}])
def test_analyse_goes_on_where_somebody_vouches_nobody_can_win_or_a_kpi_decides(options: dict[str, Any]) -> None:
    verbs = open_by_hand()
    assert verbs.analyse("churn", options)["looks"] == 1


def test_declare_by_force_says_that_it_rests_on_nothing() -> None:
    verbs = open_by_hand()
    verbs.declare("churn", {"winner": "churn-v2", "force": True})
    assert [line for line in verbs.warned if line.startswith("declared without analysis: callers at the gateway")]


def test_a_release_that_an_earlier_version_opened_goes_on_and_says_who_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier version warned when such a release opened, where this one refuses it."""
    verbs = verbs_with(GATEWAY)
    with monkeypatch.context() as earlier:
        earlier.setattr("mlflow_istio.verbs.vouching.unvouched", lambda *_: "")
        verbs.release("churn", "models:/churn/2", {**AB, "detach": True, "deadline": 5, "interval": 1})
    view = verbs.resume_release("churn", {}).view
    assert view["outcome"] == "inconclusive"
    assert [line for line in verbs.warned if "choose their deployment by an arm's header, cookie or match" in line]
