"""Adopting a route changes nothing that is not ours, refuses what is ambiguous, and can be undone to the last field."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object, with_annotations
from mlflow_istio.core.endpoint.endpoint import has_endpoint
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.adoption import adopt, endpoints_in, given_back, torn_out
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, StateConflict
from tests.support.endpoint_values import a_release, a_stamp, names, route

WEB: Object = {"destination": {"host": "web", "port": {"number": 8080}}, "headers": {"request": {"set": {"x-a": "1"}}}}


def theirs(*routes: Object, **spec: Any) -> Object:
    """A user's VirtualService ``shop``; its route ``main`` goes to ``web`` unless other routes are given."""
    main: Object = {"name": "main", "match": [{"uri": {"prefix": "/api"}}], "route": [WEB], "timeout": "3s"}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "shop", "resourceVersion": "7", "annotations": {"team": "risk"}},
        "spec": {
            "hosts": ["shop.example"],
            "gateways": ["front"],
            "http": list(routes) or [main, {"route": [{"destination": {"host": "rest"}}]}],
            **spec,
        },
    }


def taken(virtual_service: Object, **options: Any) -> Object:
    return adopt(virtual_service, "churn", "main", a_stamp("c0", "adopt"), **options)


def moved(virtual_service: Object, transition: Any, change_id: str) -> Object:
    after = transition(read_endpoint(virtual_service, "churn"))
    return changed(virtual_service, after, a_stamp(change_id))


def canary(virtual_service: Object, weight: int = 10) -> Object:
    pinned = moved(virtual_service, lambda now: transitions.pin(now, "v2"), "c1")
    return moved(pinned, lambda now: transitions.start(now, a_release("canary"), TrafficRequest(weight=weight)), "c2")


def deleting(virtual_service: Object) -> Object:
    return moved(virtual_service, lambda now: transitions.mark_deleting(now, force=True), "c9")


def test_what_the_route_goes_to_becomes_stable_and_nothing_else_changes() -> None:
    before = theirs()
    kept = copy.deepcopy(before)
    after = taken(before)
    assert before == kept, "the input was changed"
    endpoint = read_endpoint(after, "churn")
    assert endpoint.stable == Destination(host="web", port=8080)
    assert endpoint.traffic.weights == {"web:8080": 100}
    assert [change.action for change in endpoint.outbox] == ["adopt"]
    assert endpoint.virtual_service == "shop"
    assert names(after) == ["mlflow-istio.churn.probe", "main", ""]
    assert route(after, "main") == route(before, "main") | {"route": [WEB]}
    assert {**after["spec"], "http": ()} == {**before["spec"], "http": ()}
    assert endpoints_in(after) == ("churn",)


def test_adopting_again_changes_nothing() -> None:
    after = taken(theirs())
    assert taken(after) is after


def test_our_routes_stand_inside_the_routes_own_match() -> None:
    after = canary(taken(theirs()))
    for name in ("mlflow-istio.churn.probe", "mlflow-istio.churn.pin.v2"):
        assert [match["uri"] for match in route(after, name)["match"]] == [{"prefix": "/api"}]


def test_a_canary_from_a_foreign_stable_is_promoted_and_rolled_back() -> None:
    after = canary(taken(theirs()))
    assert read_endpoint(after, "churn").traffic.weights == {"web:8080": 90, "v2": 10}
    promoted = moved(after, transitions.promote, "c3")
    assert read_endpoint(promoted, "churn").traffic.weights == {"v2": 100, "web:8080": 0}
    back = moved(promoted, transitions.rollback, "c4")
    assert read_endpoint(back, "churn").traffic.weights == {"web:8080": 100}


def test_a_copy_under_another_name_does_not_carry_the_endpoint() -> None:
    after = taken(theirs())
    assert has_endpoint(after, "churn")
    assert not has_endpoint({**after, "metadata": {**after["metadata"], "name": "shop-copy"}}, "churn")


@pytest.mark.parametrize("open_release", [False, True])
def test_given_back_the_object_is_what_it_was(open_release: bool) -> None:
    before = theirs()
    after = canary(taken(before)) if open_release else taken(before)
    assert given_back(deleting(after), "churn") == before


def test_weights_and_the_order_of_several_destinations_come_back() -> None:
    two = [
        {"destination": {"host": "other"}, "weight": 30},
        {"destination": {"host": "web"}, "weight": 70},
    ]
    before = theirs({"name": "main", "route": two, "mirrors": [{"destination": {"host": "audit"}}]})
    after = canary(taken(before, stable="web"), 20)
    assert read_endpoint(after, "churn").traffic.weights == {"web": 50, "v2": 20, "other": 30}
    assert given_back(deleting(moved(after, transitions.promote, "c3")), "churn") == before


def edited(virtual_service: Object, edit: Any) -> Object:
    found = copy.deepcopy(virtual_service)
    edit(found)
    assert found != virtual_service
    return found


def main_of(virtual_service: Object) -> Any:
    """The route ``main`` itself, to be edited in place."""
    return next(entry for entry in virtual_service["spec"]["http"] if entry.get("name") == "main")


EDITS = {
    "another route": lambda vs: vs["spec"]["http"].append({"name": "late", "redirect": {"uri": "/x"}}),
    "a host": lambda vs: vs["spec"]["hosts"].append("www.example"),
    "a field of the route": lambda vs: main_of(vs).update(timeout="9s", retries={"attempts": 1}),
    "a label": lambda vs: vs["metadata"].update(labels={"team": "new"}),
    "an annotation": lambda vs: vs["metadata"]["annotations"].update(owner="else"),
    "a field of the destination": lambda vs: next(
        entry for entry in main_of(vs)["route"] if entry["destination"]["host"] == "web"
    )["headers"]["request"]["set"].update({"x-b": "2"}),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_what_the_owner_edits_meanwhile_stays(edit: Any) -> None:
    before = theirs()
    after = given_back(deleting(edited(canary(taken(before)), edit)), "churn")
    assert after == edited(before, edit)


def test_a_destination_the_owner_adds_meanwhile_stays_and_the_rest_returns_to_the_former_stable() -> None:
    promoted = moved(canary(taken(theirs())), transitions.promote, "c3")
    with_new = edited(promoted, lambda vs: main_of(vs)["route"].append({"destination": {"host": "new"}, "weight": 0}))
    after = given_back(deleting(with_new), "churn")
    assert route(after, "main")["route"] == [{**WEB, "weight": 100}, {"destination": {"host": "new"}, "weight": 0}]


def test_a_destination_the_owner_replaces_meanwhile_is_not_brought_back() -> None:
    def replace(vs: Object) -> None:
        for entry in main_of(vs)["route"]:
            if entry["destination"]["host"] == "web":
                entry["destination"] = {"host": "web2"}

    promoted = moved(canary(taken(theirs())), transitions.promote, "c3")
    after = given_back(deleting(edited(promoted, replace)), "churn")
    assert [entry["destination"]["host"] for entry in route(after, "main")["route"]] == ["web2"]


REFUSED: dict[str, tuple[Object, type[MlflowIstioError], str]] = {
    "missing": (theirs({"name": "man", "route": [WEB]}), NotFound, "no http route named 'main': did you mean 'man'"),
    "unnamed": (theirs({"route": [WEB]}, {"route": [WEB]}), NotFound, r"2 without a name \(spec.http\[0\]\)"),
    "twice": (
        theirs({"name": "main", "route": [WEB]}, {"name": "main", "route": [WEB]}),
        StateConflict,
        "2 http routes",
    ),
    "tls only": (theirs(http=[], tls=[{}]), NotFound, "its tls routes carry no HTTP requests"),
    "tcp only": (theirs(http=[], tcp=[{}]), NotFound, "its tcp routes carry no HTTP requests"),
    "redirect": (theirs({"name": "main", "redirect": {"uri": "/"}}), StateConflict, "is a redirect"),
    "direct": (theirs({"name": "main", "directResponse": {"status": 200}}), StateConflict, "is a directResponse"),
    "delegate": (theirs({"name": "main", "delegate": {"name": "x"}}), StateConflict, "is a delegate"),
    "host-less": (theirs(hosts=[]), StateConflict, "has no hosts, so it is a delegate"),
    "no destination": (theirs({"name": "main"}), StateConflict, "has no destination"),
    "several": (
        theirs({"name": "main", "route": [{**WEB, "weight": 60}, {"destination": {"host": "b"}, "weight": 40}]}),
        InvalidInput,
        "splits between web:8080 and b.*-C stable=web:8080",
    ),
    "sum": (
        theirs({"name": "main", "route": [{**WEB, "weight": 3}, {"destination": {"host": "b"}, "weight": 4}]}),
        InvalidInput,
        "must sum to 100, not 7",
    ),
    "same twice": (
        theirs({"name": "main", "route": [{**WEB, "weight": 60}, {**WEB, "weight": 40}]}),
        InvalidInput,
        "twice",
    ),
    "own service": (
        theirs({"name": "main", "route": [{"destination": {"host": "churn"}}]}),
        StateConflict,
        "Service 'churn'",
    ),
    "callers": (
        theirs({"name": "main", "match": [{"sourceLabels": {"app": "a"}}], "route": [WEB]}),
        InvalidInput,
        "matches on sourceLabels",
    ),
    "shadowed": (
        theirs({"name": "all", "route": [WEB]}, {"name": "main", "match": [{"uri": {"prefix": "/a"}}], "route": [WEB]}),
        InvalidInput,
        "no request could be made up that reaches route .main.",
    ),
    "our header": (
        theirs({"name": "main", "match": [{"headers": {"x-mlflow-istio-probe": {}}}], "route": [WEB]}),
        InvalidInput,
        "already matches on header",
    ),
    "our header in capitals": (
        theirs({"name": "main", "match": [{"headers": {"X-MLflow-Istio-Probe": {}}}], "route": [WEB]}),
        InvalidInput,
        "already matches on header 'x-mlflow-istio-probe'",
    ),
}


@pytest.mark.parametrize(("obj", "error", "words"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_ambiguous_is_refused_and_nothing_is_changed(
    obj: Object, error: type[MlflowIstioError], words: str
) -> None:
    kept = copy.deepcopy(obj)
    with pytest.raises(error, match=words):
        taken(obj)
    assert obj == kept


def test_a_route_belongs_to_one_endpoint() -> None:
    after = taken(theirs())
    with pytest.raises(StateConflict, match="adopted by endpoint 'churn' already"):
        adopt(after, "other", "main", a_stamp("c1", "adopt"))
    with_odd_name = edited(theirs(), lambda vs: vs["spec"]["http"].append({"name": "mlflow-istio.x", "route": [WEB]}))
    with pytest.raises(StateConflict, match="one of mlflow-istio's own"):
        adopt(with_odd_name, "other", "mlflow-istio.x", a_stamp("c1", "adopt"))


def test_two_routes_of_one_object_can_carry_two_endpoints() -> None:
    first = {"name": "main", "match": [{"uri": {"prefix": "/a"}}], "route": [WEB]}
    second = {"name": "second", "match": [{"uri": {"prefix": "/b"}}], "route": [WEB]}
    before = theirs(first, second)
    both = adopt(taken(before), "other", "second", a_stamp("c1", "adopt"))
    assert endpoints_in(both) == ("churn", "other")
    one = given_back(deleting(both), "churn")
    assert endpoints_in(one) == ("other",)
    after = read_endpoint(one, "other")
    gone = changed(one, transitions.mark_deleting(after), a_stamp("c8"))
    assert given_back(gone, "other") == before


def test_an_endpoint_with_damaged_annotations_is_torn_out_with_what_was_there_before() -> None:
    before = theirs()
    damaged = with_annotations(canary(taken(before)), {"mlflow-istio.org/release.churn": "{"})
    with pytest.raises(InvalidInput):
        read_endpoint(damaged, "churn")
    assert torn_out(damaged, "churn") == before
    lost = with_annotations(canary(taken(before)), {"mlflow-istio.org/state.churn": "{"})
    assert route(torn_out(lost, "churn"), "main")["route"] == [{**WEB, "weight": 90}]
    promoted = moved(canary(taken(before)), transitions.promote, "c3")
    alone = edited(promoted, lambda vs: main_of(vs).update(route=[{"destination": {"host": "churn", "subset": "v2"}}]))
    with pytest.raises(StateConflict, match="write its destination into the route"):
        torn_out(with_annotations(alone, {"mlflow-istio.org/state.churn": "{"}), "churn")


def test_an_endpoint_of_our_own_has_nothing_to_give_back() -> None:
    from tests.support.endpoint_values import a_virtual_service

    with pytest.raises(StateConflict, match="adopted no route"):
        given_back(a_virtual_service(), "churn")
