"""Where the owner of an adopted route has put something else in the place of stable, traffic goes there, or to nobody."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.adoption import adopt, given_back
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import StateConflict
from tests.support.endpoint_values import a_release, a_stamp
from tests.support.in_memory import a_shop

Edit = Callable[[list[Any]], list[Any]]


def shop(*verbs: Callable[[Endpoint], Endpoint]) -> Object:
    """A shop whose route ``main`` is adopted, with v1 beside ``web``, after these verbs."""
    obj = adopt({**a_shop(), "metadata": {"name": "shop"}}, "churn", "main", a_stamp("c0", "adopt"))
    for number, verb in enumerate([lambda now: transitions.pin(now, "v1"), *verbs]):
        obj = changed(obj, verb(read_endpoint(obj, "churn")), a_stamp(f"c{number + 1}"))
    return obj


def canary(now: Endpoint) -> Endpoint:
    return transitions.start(now, a_release("canary", "v1"), TrafficRequest(weight=10))


def by_owner(obj: Object, edit: Edit) -> Object:
    """The object after its owner edited the destinations of ``main``."""
    result = copy.deepcopy(obj)
    (main,) = [route for route in result["spec"]["http"] if route["name"] == "main"]
    main["route"] = edit(main["route"])
    return result


def to(host: str, weight: int, **more: Any) -> Object:
    return {"destination": {"host": host, **more}, "weight": weight}


def ours(entries: list[Any]) -> list[Any]:
    return [entry for entry in entries if entry["destination"]["host"] == "churn"]


RENAMED: dict[str, tuple[Edit, str]] = {
    "another service": (lambda entries: [to("web2", 90), *ours(entries)], "web2"),
    "another port": (lambda entries: [to("web", 90, port={"number": 81}), *ours(entries)], "web:81"),
    "a subset of it": (lambda entries: [to("web", 90, subset="new"), *ours(entries)], "web/new"),
    "another service beside one that gets nothing": (
        lambda entries: [to("web2", 90), to("old", 0), *ours(entries)],
        "web2",
    ),
    "two of which one is the same service": (
        lambda entries: [to("web", 60, subset="a"), to("other", 30), *ours(entries)],
        "web/a",
    ),
}


@pytest.mark.parametrize("edit", RENAMED)
@pytest.mark.parametrize("verb", [transitions.abort, transitions.rollback], ids=["abort", "rollback"])
def test_a_way_back_leads_to_what_the_owner_has_there_now(verb: Callable[[Endpoint], Endpoint], edit: str) -> None:
    change, name = RENAMED[edit]
    now = read_endpoint(by_owner(shop(canary), change), "churn")
    after = verb(now)
    assert after.stable.name == name
    rest = {share.destination.name: share.weight for share in now.traffic.split if share.destination.host == "other"}
    assert after.traffic.weights[name] == 100 - sum(rest.values())
    assert "v1" not in after.traffic.weights


def test_a_shift_and_a_promotion_take_from_what_the_owner_has_there_now() -> None:
    now = read_endpoint(by_owner(shop(canary), RENAMED["another service"][0]), "churn")
    assert transitions.shift(now, TrafficRequest(weight=40)).traffic.weights == {"web2": 60, "v1": 40}
    promoted = transitions.promote(now)
    assert promoted.traffic.weights == {"v1": 100, "web2": 0}
    assert promoted.last is not None
    assert promoted.last.previous is not None
    assert promoted.last.previous.name == "web2"


def test_a_promotion_is_undone_to_what_the_owner_has_there_now() -> None:
    obj = by_owner(shop(canary, transitions.promote), lambda entries: [*ours(entries), to("web2", 0)])
    after = transitions.rollback(read_endpoint(obj, "churn"))
    assert (after.stable.name, after.traffic.weights) == ("web2", {"web2": 100})


SEVERAL: Edit = lambda entries: [to("a", 60), to("b", 30), *ours(entries)]  # noqa: E731


@pytest.mark.parametrize(
    ("verb", "edit", "has"),
    [
        (transitions.abort, SEVERAL, "it has 'a' and 'b'"),
        (transitions.promote, SEVERAL, "it has 'a' and 'b'"),
        (lambda now: transitions.shift(now, TrafficRequest(weight=40)), SEVERAL, "it has 'a' and 'b'"),
        (transitions.abort, ours, "it has nothing of its owner's"),
        (lambda now: transitions.shift(now, TrafficRequest(weight=40)), ours, "it has nothing of its owner's"),
    ],
)
def test_where_that_can_not_be_told_it_is_refused_by_name(
    verb: Callable[[Endpoint], Endpoint], edit: Edit, has: str
) -> None:
    now = read_endpoint(by_owner(shop(canary), edit), "churn")
    with pytest.raises(
        StateConflict, match=f"'web', which users of endpoint 'churn' had, is not in route 'main' any more: {has}"
    ):
        verb(now)


def test_a_promotion_needs_nothing_of_the_owners() -> None:
    now = read_endpoint(by_owner(shop(canary), ours), "churn")
    assert transitions.promote(now).traffic.weights == {"v1": 100}


@pytest.mark.parametrize(
    ("edit", "left"),
    [
        (RENAMED["another service"][0], [to("web2", 100)]),
        (SEVERAL, [to("a", 70), to("b", 30)]),
        (ours, [{"destination": {"host": "web"}}]),
    ],
)
def test_a_deletion_gives_the_route_back_with_what_the_owner_has_there(edit: Edit, left: list[Any]) -> None:
    obj = by_owner(shop(canary), edit)
    marked = changed(obj, transitions.mark_deleting(read_endpoint(obj, "churn"), force=True), a_stamp("end"))
    assert sum(share.weight for share in read_endpoint(marked, "churn").traffic.split if share.weight) == 100
    (main,) = [route for route in given_back(marked, "churn")["spec"]["http"] if route["name"] == "main"]
    assert main["route"] == left
