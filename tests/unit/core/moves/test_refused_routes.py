"""Ambiguity is refused by name: a route that can't carry the split, a destination that would be lost, a match in use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.mesh.virtual_service import read_endpoint, write_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, StateConflict
from tests.support.endpoint_values import (
    OTHER,
    a_release,
    adopted,
    an_endpoint,
    by_header,
    canary,
    carrying,
    moved,
    split,
    with_match,
)


def renamed(virtual_service: Object, name: str | None) -> Object:
    http = [{**r, "name": name} if r.get("name") == "main" else r for r in virtual_service["spec"]["http"]]
    return {**virtual_service, "spec": {**virtual_service["spec"], "http": http}}


@pytest.mark.parametrize(
    ("virtual_service", "error", "words"),
    [
        (renamed(adopted(), "mine"), NotFound, "VirtualService 'shop' has no http route named 'main', which carries"),
        (
            renamed(adopted(), None),
            NotFound,
            "has no http route named 'main'.*delete the endpoint with 'mlflow-istio delete-endpoint --force'",
        ),
        (
            {**adopted(), "spec": {"tls": [{"route": []}], "tcp": [{"route": []}]}},
            NotFound,
            "has no http route named 'main'",
        ),
        (
            {**adopted(), "spec": {"http": adopted()["spec"]["http"] * 2}},
            StateConflict,
            "VirtualService 'shop' has 2 http routes named 'main': give each its own name",
        ),
        (adopted(redirect={"uri": "/"}), StateConflict, "route 'main' is a redirect, which carries no split"),
        (adopted(directResponse={"status": 200}), StateConflict, "route 'main' is a directResponse"),
        (adopted(delegate={"name": "x"}), StateConflict, "route 'main' is a delegate"),
        (
            adopted(route=[{"destination": {"host": "a"}, "weight": 1}, {"destination": {"host": "b"}, "weight": 1}]),
            StateConflict,
            r"VirtualService 'shop': route 'main' of endpoint 'churn' was edited to something no split can be \(weights must "
            r"sum to 100, not 2: a=1, b=1\)",
        ),
        (
            adopted(route=[{"destination": {"host": "a"}, "weight": 50}, {"destination": {"host": "a"}, "weight": 50}]),
            StateConflict,
            "destination 'a' is named twice",
        ),
        (
            adopted(
                route=[{"destination": {"host": "a"}, "weight": -5}, {"destination": {"host": "b"}, "weight": 105}]
            ),
            StateConflict,
            "weight of 'a' must be from 0 to 100, not -5",
        ),
        (adopted(route=[]), StateConflict, "not 0: no destination"),
    ],
)
def test_a_route_that_can_not_carry_the_split_is_refused_by_name(
    virtual_service: Object, error: type[MlflowIstioError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_endpoint(virtual_service, "churn")


def test_a_foreign_destination_is_never_lost() -> None:
    endpoint = read_endpoint(adopted(), "churn")
    lost = replace(endpoint, traffic=replace(endpoint.traffic, split=split(legacy=100)))
    with pytest.raises(
        StateConflict, match="route 'main' has destination 'other', which endpoint 'churn' does not own"
    ):
        write_endpoint(adopted(), lost)


def test_a_foreign_mirror_is_never_lost() -> None:
    before = adopted(mirrors=[{"destination": to_json(OTHER)}])
    endpoint = read_endpoint(before, "churn")
    lost = replace(endpoint, traffic=replace(endpoint.traffic, mirrors=()))
    with pytest.raises(StateConflict, match="'other', which endpoint 'churn' does not own"):
        write_endpoint(before, lost)


def test_istios_old_single_mirror_beside_ours_is_refused() -> None:
    before = adopted(mirror={"host": "old"})
    with pytest.raises(
        InvalidInput, match="route 'main' has a 'mirror' of its own.*write yours as an entry of 'mirrors'"
    ):
        moved(before, lambda now: transitions.start(now, a_release("shadow"), TrafficRequest(mirror=5)), "c1")
    assert moved(before, canary, "c1")["spec"]["http"][5]["mirror"] == {"host": "old"}


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ({"headers": {"x-arm": {"exact": "a"}}}, "route 'mlflow-istio.churn.split' already matches on header 'x-arm'"),
        ({"headers": {"x-mlflow-deployment": {"exact": "a"}}}, "already matches on header 'x-mlflow-deployment'"),
    ],
)
def test_a_header_that_the_split_matches_already_can_not_be_ours(match: Object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        moved(with_match(carrying(an_endpoint()), [match]), by_header, "c1")


def test_a_field_that_the_split_matches_already_can_not_be_ours() -> None:
    endpoint = read_endpoint(with_match(carrying(an_endpoint()), [{"uri": {"prefix": "/a"}}]), "churn")
    arm = replace(by_header(endpoint).traffic.arms[0], match=({"uri": {"exact": "/b"}},))
    traffic = replace(endpoint.traffic, arms=(arm,))
    with pytest.raises(InvalidInput, match="already matches on field 'uri'"):
        write_endpoint(
            with_match(carrying(an_endpoint()), [{"uri": {"prefix": "/a"}}]), replace(endpoint, traffic=traffic)
        )
