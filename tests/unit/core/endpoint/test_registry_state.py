"""What the registry should say, computed from the endpoint as it is and never from an old entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.names import MAX_NAME
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.registry_state import Served, alias_names, nothing_stands, registry_state_of
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from tests.support.endpoint_values import VERSIONS, an_endpoint, started

CANARY = started("canary", traffic_request=TrafficRequest(weight=10))
CHAMPION, CHALLENGER = ("churn", "champion"), ("churn", "challenger")


@pytest.mark.parametrize(
    ("endpoint", "roles", "aliases"),
    [
        (
            an_endpoint(),
            {"churn/1": (100, "stable", ""), "churn/2": (0, "idle", ""), "churn/3": (0, "idle", "")},
            (1, None),
        ),
        (
            CANARY,
            {"churn/1": (90, "stable", "canary"), "churn/2": (10, "candidate", "canary"), "churn/3": (0, "idle", "")},
            (1, 2),
        ),
        (
            transitions.promote(CANARY),
            {"churn/1": (0, "idle", ""), "churn/2": (100, "stable", ""), "churn/3": (0, "idle", "")},
            (2, None),
        ),
        (
            transitions.rollback(transitions.promote(CANARY)),
            {"churn/1": (100, "stable", ""), "churn/2": (0, "idle", ""), "churn/3": (0, "idle", "")},
            (1, None),
        ),
        (
            transitions.abort(CANARY),
            {"churn/1": (100, "stable", ""), "churn/2": (0, "idle", ""), "churn/3": (0, "idle", "")},
            (1, None),
        ),
    ],
    ids=["quiet", "canary", "promoted", "rolled back", "aborted"],
)
def test_roles_weights_and_aliases_follow_the_endpoint(
    endpoint: Endpoint, roles: dict[str, tuple[int, str, str]], aliases: tuple[int | None, int | None]
) -> None:
    standing = registry_state_of(endpoint, "prod", VERSIONS)
    assert {one.version: (one.weight, one.role, one.strategy) for one in standing.served} == roles
    assert {one.release for one in standing.served if one.strategy} <= {"r1"}
    assert standing.aliases == {CHAMPION: aliases[0], CHALLENGER: aliases[1]}
    assert standing.owner == "prod/churn"


def test_tags_name_scope_and_endpoint_and_leave_out_what_is_not_so() -> None:
    candidate = Served(version="churn/2", weight=10, role="candidate", strategy="canary", release="r1")
    start = "istio.prod.churn."
    assert candidate.tags("prod", "churn") == {
        f"{start}weight": "10",
        f"{start}role": "candidate",
        f"{start}strategy": "canary",
        f"{start}release": "r1",
    }
    assert Served(version="churn/1", weight=0, role="idle").tags("prod", "churn") == {
        f"{start}weight": "0",
        f"{start}role": "idle",
    }
    assert max(len(key) for key in candidate.tags("s" * 63, "e" * MAX_NAME)) < 250


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"stable": "champion", "candidate": "challenger"}),
        ({"stable_alias": "prod"}, {"stable": "prod", "candidate": "challenger"}),
        ({"stable_alias": "", "candidate_alias": ""}, {}),
    ],
)
def test_alias_names_are_settable_and_may_be_none(settings: dict[str, str], names: dict[str, str]) -> None:
    assert alias_names(settings) == names
    aliases = registry_state_of(an_endpoint(settings=settings), "prod", VERSIONS).aliases
    assert {alias for _, alias in aliases} == set(names.values())


def test_a_challenger_of_another_model_has_aliases_of_its_own_model() -> None:
    versions = {"v1": "churn/1", "v2": "forest/7"}
    standing = registry_state_of(CANARY, "prod", versions)
    assert standing.aliases == {
        CHAMPION: 1,
        CHALLENGER: None,
        ("forest", "champion"): None,
        ("forest", "challenger"): 7,
    }
    assert standing.models == {"churn", "forest"}


def test_one_version_behind_two_deployments_adds_up_and_its_higher_role_counts() -> None:
    standing = registry_state_of(CANARY, "prod", {"v1": "churn/1", "v2": "churn/1", "v3": "churn/1"})
    assert standing.served == (Served(version="churn/1", weight=100, role="stable", strategy="canary", release="r1"),)
    assert standing.aliases[CHAMPION] == 1


def test_of_several_candidates_the_first_is_the_challenger() -> None:
    two = started("ab", "v2", "v3", traffic_request=TrafficRequest(header="x", weights={"v1": 40, "v2": 30, "v3": 30}))
    assert registry_state_of(two, "prod", VERSIONS).aliases[CHALLENGER] == 2


@pytest.mark.parametrize("versions", [{"v1": "churn/1"}, {"v1": "churn/1", "v2": ""}])
def test_a_deployment_of_unknown_version_is_left_out(versions: dict[str, str]) -> None:
    assert [one.version for one in registry_state_of(an_endpoint(), "prod", versions).served] == ["churn/1"]


def test_what_was_removed_loses_its_tags_unless_another_deployment_still_serves_it() -> None:
    standing = registry_state_of(an_endpoint(), "prod", {"v1": "churn/1"}, removed=["churn/1", "forest/7", "forest/7"])
    assert standing.removed == ("forest/7",)
    assert standing.aliases[("forest", "champion")] is None
    assert standing.models == {"churn"}


def test_behind_an_endpoint_that_is_being_deleted_stands_nothing() -> None:
    going = replace(CANARY, deleting=True)
    standing = registry_state_of(going, "prod", VERSIONS, removed=VERSIONS.values())
    gone = nothing_stands("prod", "churn", {}, VERSIONS.values())
    assert standing == gone
    assert (gone.served, gone.removed) == ((), ("churn/1", "churn/2", "churn/3"))
    assert gone.aliases == {CHAMPION: None, CHALLENGER: None}


def test_settings_that_are_unknown_leave_no_alias_of_a_model_out() -> None:
    gone: Any = nothing_stands("prod", "churn", {"stable_alias": "top"}, ["forest/7", "churn/1"])
    assert set(gone.aliases) == {(model, alias) for model in ("churn", "forest") for alias in ("top", "challenger")}
