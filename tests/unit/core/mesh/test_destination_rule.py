"""Subsets of ours come and go; a subset's meaning never changes, and everybody else's stay."""

from __future__ import annotations

import copy

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.destination_rule import subsets_of, with_subset, without_subset
from mlflow_istio.errors import StateConflict

RULE: Object = {
    "kind": "DestinationRule",
    "metadata": {"name": "churn", "labels": {"team": "risk"}},
    "spec": {
        "host": "churn",
        "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}},
        "subsets": [{"name": "theirs", "labels": {"track": "old"}, "trafficPolicy": {"x": 1}}],
    },
}


def test_a_subset_comes_after_those_of_others_and_selects_the_deployments_pods() -> None:
    kept = copy.deepcopy(RULE)
    after = with_subset(RULE, "v2")
    assert after["spec"]["subsets"] == [*RULE["spec"]["subsets"], {"name": "v2", "labels": {"version": "v2"}}]
    assert {**after["spec"], "subsets": 0} == {**RULE["spec"], "subsets": 0}
    assert subsets_of(after) == ("theirs", "v2")
    assert kept == RULE


def test_a_subset_that_is_there_or_gone_already_is_the_same_object() -> None:
    once = with_subset(RULE, "v2")
    assert with_subset(once, "v2") is once
    assert without_subset(RULE, "v2") is RULE
    assert without_subset(once, "v2") == RULE


def test_a_policy_that_somebody_gave_our_subset_stays() -> None:
    once = with_subset(RULE, "v2")
    once["spec"]["subsets"][1]["trafficPolicy"] = {"y": 2}
    assert with_subset(once, "v2") is once


@pytest.mark.parametrize(
    "spec", [{"host": "churn"}, {"host": "churn", "subsets": None}, {"host": "churn", "subsets": []}]
)
def test_a_rule_without_subsets_gets_its_first(spec: Object) -> None:
    rule = {**RULE, "spec": spec}
    assert subsets_of(rule) == ()
    assert subsets_of(with_subset(rule, "v1")) == ("v1",)
    assert without_subset(rule, "v1") is rule


def test_a_subset_that_means_something_else_is_refused() -> None:
    with pytest.raises(
        StateConflict, match="DestinationRule 'churn' has a subset 'theirs' that selects.*another deployment"
    ):
        with_subset(RULE, "theirs")
