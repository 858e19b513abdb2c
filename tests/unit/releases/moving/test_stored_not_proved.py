"""Where a route above takes every request of ours, a change is stored and recorded, and says that nobody could be asked."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.probe import change_probe
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import PolicyRequest
from mlflow_istio.errors import InvalidInput, NotRouted
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.releases.reading.views import deployment_view, endpoint_view
from mlflow_istio.showing.tables import print_status
from tests.support.foreign_edits import edit
from tests.support.in_memory import World, a_shop, with_shop

ABOVE: dict[str, Object] = {
    "down": {"name": "down", "directResponse": {"status": 503}},
    "moved": {"name": "moved", "match": [{"uri": {"prefix": "/api"}}], "redirect": {"uri": "/new"}},
    "all": {"name": "all", "match": [{"uri": {"prefix": "/"}}], "route": [{"destination": {"host": "rest"}}]},
}


def shop(*, promoted: bool) -> World:
    """churn-v1 is a canary at 10 behind a route of a shop, or has been promoted there."""
    world = with_shop(deployed=("churn-v1", "churn-v2"))
    shifting.start(
        world.context,
        "churn",
        strategy="canary",
        candidates=("churn-v1",),
        traffic_request=TrafficRequest(weight=10),
    )
    if promoted:
        shifting.promote(world.context, "churn")
    world.warnings.clear()
    return world


def put_above(world: World, route: Object) -> None:
    def insert(obj: Object) -> None:
        obj["spec"]["http"] = [route, *obj["spec"]["http"]]

    edit(world, "VirtualService", insert, "shop")


COMMANDS: dict[str, tuple[bool, Callable[[Context], Any], dict[str, int]]] = {
    "rollback": (True, lambda context: shifting.rollback(context, "churn"), {"web": 100}),
    "abort": (False, lambda context: shifting.abort(context, "churn"), {"web": 100}),
    "shift down": (
        False,
        lambda context: shifting.shift(context, "churn", TrafficRequest(weight=5)),
        {"web": 95, "churn-v1": 5},
    ),
    "policy": (
        False,
        lambda context: policy.set_policy(context, "churn", PolicyRequest(changes={"timeout": "2s"})),
        {"web": 90, "churn-v1": 10},
    ),
}


@pytest.mark.parametrize("above", ABOVE)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_change_is_recorded_and_says_that_it_is_not_proved(command: str, above: str) -> None:
    promoted, act, weights = COMMANDS[command]
    world = shop(promoted=promoted)
    put_above(world, ABOVE[above])
    recorded = len(world.history())
    outcome = act(world.context)
    assert (outcome.changed, outcome.proxies) == (True, ())
    assert world.endpoint().traffic.weights == weights
    assert (len(world.history()), world.endpoint().outbox) == (recorded + 1, ())
    (warning,) = outcome.warnings
    assert warning.startswith("the change of endpoint 'churn' is stored, not proved: ")
    assert "route 'main'" in warning
    assert world.warnings == [warning]


def test_the_endpoint_is_shown_all_the_same_and_says_why_nobody_reaches_it() -> None:
    world = shop(promoted=True)
    put_above(world, ABOVE["moved"])
    view = endpoint_view(world.cluster, "churn")
    assert (view["traffic"], view["url"], view["scoring_url"]) == ({"churn-v1": 100, "web": 0}, "", "")
    assert "no request could be made up that reaches route 'main'" in view["unreachable"]
    assert deployment_view(world.cluster, "churn-v1")["headers"] == {"x-mlflow-deployment": "churn-v1"}
    console = Console(file=io.StringIO(), width=400)
    print_status([view], "istio", console)
    assert "reaches route 'main'" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("above", ABOVE)
def test_who_has_no_users_gets_none_where_it_can_not_be_asked(above: str) -> None:
    world = shop(promoted=False)
    shifting.abort(world.context, "churn")
    put_above(world, ABOVE[above])
    recorded = world.history()
    with pytest.raises(InvalidInput, match="reaches route 'main'"):
        shifting.start(
            world.context,
            "churn",
            strategy="canary",
            candidates=("churn-v2",),
            traffic_request=TrafficRequest(weight=10),
        )
    assert (world.endpoint().release, world.history()) == (None, recorded)


@pytest.mark.parametrize("force", [False, True], ids=["plainly", "by force"])
@pytest.mark.parametrize("above", ABOVE)
def test_a_deletion_ends_and_gives_the_route_back(above: str, force: bool) -> None:
    world = shop(promoted=True)
    put_above(world, ABOVE[above])
    assert removal.delete_endpoint(world.context, "churn", force=force)
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    assert found["spec"]["http"] == [ABOVE[above], *a_shop()["spec"]["http"]]
    assert "annotations" not in found["metadata"]
    assert [world.cluster.get(kind, "churn") for kind in ("Service", "DestinationRule")] == [None, None]
    assert world.history()[-1][1] == "delete"
    assert any("stored, not proved" in warning for warning in world.warnings)


def test_a_deletion_that_was_cut_short_ends_though_a_route_was_put_above_since() -> None:
    world = shop(promoted=True)
    removal._mark_deleting(world.context, "churn", force=False, reason="", timeout=1)
    put_above(world, ABOVE["down"])
    assert removal.delete_endpoint(world.context, "churn")
    assert not removal.delete_endpoint(world.context, "churn")


@pytest.mark.parametrize("route", ["another", ""], ids=["renamed", "gone"])
def test_a_deletion_by_force_ends_where_the_adopted_route_and_all_of_ours_are_gone(route: str) -> None:
    world = shop(promoted=True)

    def lose(obj: Object) -> None:
        main, rest = a_shop()["spec"]["http"]
        obj["spec"]["http"] = [*([{**main, "name": route}] if route else []), rest]

    edit(world, "VirtualService", lose, "shop")
    assert removal.delete_endpoint(world.context, "churn", force=True)
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    assert "annotations" not in found["metadata"]
    assert world.cluster.list("Deployment", {}) == []


# Routes above whose conditions nobody can evaluate without a proxy

R: list[Object] = [{"destination": {"host": "rest"}}]
CALLERS: dict[str, Object] = {
    "labels": {"sourceLabels": {"app": "billing"}},
    "namespace": {"sourceNamespace": "billing"},
    "claim": {"headers": {"@request.auth.claims.sub": {"exact": "ada"}}},
    "port": {"port": 8443},
}
UNREADABLE: Object = {"name": "odd", "match": [{"uri": {"regex": "(?<=a)b"}}], "route": R}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_route_above_for_callers_that_no_prober_is_leaves_the_proof_as_it_is(command: str, caller: str) -> None:
    promoted, act, weights = COMMANDS[command]
    world = shop(promoted=promoted)
    put_above(world, {"name": "theirs", "match": [CALLERS[caller]], "route": R})
    outcome = act(world.context)
    assert (outcome.proxies, outcome.warnings, world.endpoint().outbox) == (("in-memory",), (), ())
    assert world.endpoint().traffic.weights == weights


@pytest.mark.parametrize("match", [{}, {"port": 80}, {"sourceLabels": {"a": "b"}, "gateways": ["mesh"]}], ids=str)
def test_a_route_above_that_takes_the_prober_proves_nothing(match: Object) -> None:
    """Istio switches the conditions on the caller's pod off where a match names its gateways."""
    world = shop(promoted=False)
    if match.get("gateways"):
        edit(world, "VirtualService", lambda obj: obj["spec"].pop("gateways", None), "shop")
    probe = change_probe("shop", world.endpoint().change)
    probe = replace(probe, path="/api", headers={**probe.headers, "host": "shop.example"})
    assert world.cluster.wait_routed(probe, 1.0)
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    put_above(world, {"name": "theirs", **({"match": [match]} if match else {}), "route": R})
    with pytest.raises(NotRouted):
        world.cluster.wait_routed(probe, 1.0)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_route_above_that_can_not_be_evaluated_leaves_a_change_recorded_and_unproved(command: str) -> None:
    promoted, act, weights = COMMANDS[command]
    world = shop(promoted=promoted)
    put_above(world, UNREADABLE)
    recorded = len(world.history())
    outcome = act(world.context)
    assert (outcome.changed, outcome.proxies, world.endpoint().traffic.weights) == (True, (), weights)
    assert (len(world.history()), world.endpoint().outbox) == (recorded + 1, ())
    assert any("is stored, not proved: route 'odd'" in warning for warning in outcome.warnings)


@pytest.mark.parametrize("force", [False, True], ids=["plainly", "by force"])
def test_a_deletion_below_a_route_that_can_not_be_evaluated_ends(force: bool) -> None:
    world = shop(promoted=True)
    put_above(world, UNREADABLE)
    assert removal.delete_endpoint(world.context, "churn", force=force)
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    assert found["spec"]["http"] == [UNREADABLE, *a_shop()["spec"]["http"]]


AWAY: dict[str, tuple[Object, str]] = {
    "https": ({"scheme": {"exact": "https"}}, "by https alone"),
    "https as a header": ({"headers": {":scheme": {"exact": "https"}}}, "by https alone"),
    "a port": ({"port": 8443}, "by http at port 8443 alone"),
}


@pytest.mark.parametrize(("match", "words"), AWAY.values(), ids=AWAY)
def test_a_route_that_no_prober_reaches_is_adopted_and_its_changes_say_that_they_are_not_proved(
    match: Object, words: str
) -> None:
    """``scheme: https`` behind a prober of plain HTTP, and a port that it does not come by: nothing is waited for in vain."""
    shop = a_shop()
    shop["spec"]["gateways"] = ["front"]
    shop["spec"]["http"][0]["match"] = [match]
    world = with_shop(shop, deployed=("churn-v1",))
    shifting.start(
        world.context,
        "churn",
        strategy="canary",
        candidates=("churn-v1",),
        traffic_request=TrafficRequest(weight=10),
    )
    promoted = shifting.promote(world.context, "churn")
    back = shifting.rollback(world.context, "churn")
    for outcome in (promoted, back):
        (warning,) = [one for one in outcome.warnings if "not proved" in one]
        assert warning.startswith("no proxy of endpoint 'churn' can be reached from here (requests reach it ")
        assert words in warning
    assert [change[1] for change in world.history()] == ["adopt", "deploy", "start", "promote", "rollback"]
    assert world.endpoint().outbox == ()
    if "port" not in match:
        assert "takes requests by https alone" in endpoint_view(world.cluster, "churn")["unreachable"]
    assert removal.delete_endpoint(world.context, "churn", force=True)
    found = world.cluster.get("VirtualService", "shop")
    assert found is not None
    assert found["spec"]["http"] == shop["spec"]["http"]
