"""Options that mean nothing together are refused by name, whichever verb they are given to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from mlflow_istio.errors import InvalidInput
from mlflow_istio.options import combinations
from mlflow_istio.options.base import ACTIONS, ChangeOptions, CreateOptions, UpdateEndpointOptions, parse_options
from mlflow_istio.options.combinations import (
    check_create,
    check_fault,
    check_route,
    check_update_endpoint,
    kind_of_update,
)
from mlflow_istio.options.routes import FaultOptions, RouteOptions

SAMPLES: Mapping[str, Any] = {
    "strategy": "canary",
    "candidate": "m-v2",
    "weight": 0,
    "weights": {"m-v1": 100},
    "mirror": 5,
    "header": "x-arm",
    "cookie": "arm",
    "values": {"m-v1": "a"},
    "match": "none",
    "arms": {"m-v1": {"headers": {"x-user": "a"}}},
    "release_id": "r1",
    "keep_old": "1h",
    "to": 3,
    "redeploy": {"replicas": 1},
}
"""A value of every option of ``update-endpoint`` that an action may do nothing with."""

HEEDS: Mapping[str, frozenset[str]] = {
    "promote": frozenset({"candidate", "release_id", "keep_old"}),
    "rollback": frozenset({"release_id", "to"}),
    "abort": frozenset({"release_id"}),
    "pause": frozenset(),
    "resume": frozenset(),
}


def update(**given: Any) -> None:
    heeded(**given)


def heeded(**given: Any) -> UpdateEndpointOptions:
    return check_update_endpoint(parse_options(UpdateEndpointOptions, given, cluster="istio"), given)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("option", SAMPLES)
def test_an_action_heeds_an_option_or_refuses_it_by_name(action: str, option: str) -> None:
    if option in HEEDS[action]:
        update(action=action, **{option: SAMPLES[option]})
    else:
        with pytest.raises(InvalidInput, match=f"^option '{option}' (has no effect|goes with action=rollback only)"):
            update(action=action, **{option: SAMPLES[option]})


@pytest.mark.parametrize("option", [name for name in SAMPLES if name not in ("keep_old", "to", "redeploy")])
def test_without_an_action_options_move_traffic(option: str) -> None:
    update(**{option: SAMPLES[option]})
    with pytest.raises(InvalidInput, match=f"option '{option}' has no effect with action=rollback and 'to'"):
        update(action="rollback", to=3, **{option: SAMPLES[option]})


def test_an_earlier_change_takes_options_for_what_comes_back() -> None:
    update(action="rollback", to=3, redeploy={"replicas": 1}, force=True)


def test_only_one_can_be_promoted() -> None:
    with pytest.raises(InvalidInput, match="only one candidate can be promoted, not 2"):
        update(action="promote", candidate="a,b")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("option", SAMPLES)
def test_an_action_passes_over_what_only_the_environment_says(
    action: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who has to abort can leave out what a profile has set."""
    sample = SAMPLES[option]
    monkeypatch.setenv(f"MLFLOW_ISTIO_{option.upper()}", sample if isinstance(sample, str) else json.dumps(sample))
    options = heeded(action=action)
    usual = UpdateEndpointOptions.model_fields[option].get_default(call_default_factory=True)
    assert (getattr(options, option) == usual) is (option not in HEEDS[action])
    assert options.action == action


def test_a_weight_passes_over_how_long_a_promotion_keeps_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ISTIO_KEEP_OLD", "1h")
    monkeypatch.setenv("MLFLOW_ISTIO_TO", "3")
    options = heeded(weight=30)
    assert (options.weight, options.keep_old, options.to) == (30, None, None)


def test_what_the_call_says_is_refused_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ISTIO_TO", "3")
    with pytest.raises(InvalidInput, match="option 'redeploy' has no effect without 'to'"):
        update(action="promote", redeploy={"replicas": 1})


def test_a_fault_ends_and_a_route_goes_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ISTIO_ABORT", "503")
    monkeypatch.setenv("MLFLOW_ISTIO_NAME", "staff")
    assert check_fault(parse_options(FaultOptions, {"end": True}, cluster="istio"), {"end"}).abort is None
    assert check_route(parse_options(RouteOptions, {"remove": "a"}, cluster="istio"), {"remove"}).name is None


def test_a_port_beside_an_attached_address_that_has_one_is_refused() -> None:
    given = {"attach": "http://127.0.0.1:5001", "port": 5}
    with pytest.raises(InvalidInput, match="'port' has no effect with attach=http://127.0.0.1:5001, which has a port"):
        check_create(parse_options(CreateOptions, given, cluster="istio-local"), given)
    given["attach"] = "service/churn"
    assert check_create(parse_options(CreateOptions, given, cluster="istio"), given).port == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"virtual_service": "shop"}, "'route' is missing"),
        ({"route": "main"}, "'virtual_service' is missing"),
        ({"stable": "m-v1"}, "option 'stable' has no effect without 'virtual_service' and 'route': leave it out"),
        ({"virtual_service": "shop", "route": "main", "host": "a.b"}, "option 'host' has no effect with 'virtual_service'"),
        ({"under": "models", "path": "/a", "export_to": "."}, "who sees 'models' sees what stands under it"),
    ],
)  # fmt: skip
def test_where_a_new_endpoint_stands_is_said_once(given: Mapping[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_create(parse_options(CreateOptions, given, cluster="istio"))


@pytest.mark.parametrize("given", [{"to": "m-v2"}, {"match": "none"}, {"name": "staff"}])
def test_a_route_that_is_taken_away_has_a_name_only(given: Mapping[str, Any]) -> None:
    (option,) = given
    with pytest.raises(InvalidInput, match=f"option '{option}' has no effect with 'remove': leave it out"):
        check_route(parse_options(RouteOptions, {"remove": "staff", **given}, cluster="istio"), {"remove", *given})


@pytest.mark.parametrize("given", [{"delay": "2s"}, {"abort": 503}, {"match": {"uri": {"prefix": "/"}}}])
def test_a_fault_that_ends_is_not_described(given: Mapping[str, Any]) -> None:
    (option,) = given
    with pytest.raises(InvalidInput, match=f"option '{option}' has no effect with 'end': leave it out"):
        check_fault(parse_options(FaultOptions, {"end": True, **given}, cluster="istio"), {"end", *given})


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ((), "traffic"),
        (("weight", "reason"), "traffic"),
        (("timeout", "subset"), "policy"),
        (("replace",), "policy"),
        (("add_route", "confirm_timeout"), "route"),
        (("fault", "replace"), "fault"),
    ],
)
def test_a_call_makes_one_kind_of_change(given: tuple[str, ...], kind: str) -> None:
    assert kind_of_update(given) == kind


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("weight", "timeout"), "'timeout' and 'weight' are changes of two kinds: give each a call of its own"),
        (("fault", "add_route"), "'add_route' and 'fault' are changes of two kinds"),
        (("fault", "replace", "subset"), "'subset' and 'fault' are changes of two kinds"),
        (("to", "retries"), "'retries' and 'to' are changes of two kinds"),
    ],
)
def test_two_kinds_are_two_calls(given: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        kind_of_update(given)


def test_every_option_of_update_endpoint_is_of_one_kind() -> None:
    """Else a new one would pass beside a change of another kind without a word."""
    named = [name for kind in combinations._KINDS for name in combinations.options_of_kind(kind)]
    shared = {*ChangeOptions.model_fields, "confirm_timeout"}
    assert sorted(named) == sorted(set(UpdateEndpointOptions.model_fields) - shared)
