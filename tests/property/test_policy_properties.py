"""Settings on a DestinationRule: ours come and go in any order, the owner's stay byte for byte."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.mesh.destination_rule import with_policy, with_subset, without_subset
from mlflow_istio.core.policy.routes import written_policy
from mlflow_istio.core.policy.settings import NO_POLICY, Policy
from mlflow_istio.errors import StateConflict
from tests.support import policy_values

NAMES = ("v1", "v2")


def a_rule(own: Object | None = None) -> Object:
    rule: Object = {
        "kind": "DestinationRule",
        "metadata": {"name": "churn", "annotations": {"team": "risk"}},
        "spec": {
            "host": "churn",
            "subsets": [
                {"name": "v1", "labels": {"version": "v1"}},
                {"name": "v2", "labels": {"version": "v2"}, "trafficPolicy": {"portLevelSettings": [{"x": 1}]}},
                {"name": "theirs", "labels": {"a": "b"}, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}},
            ],
            "exportTo": ["."],
        },
    }
    return {**rule, "spec": {**rule["spec"], **({"trafficPolicy": own} if own else {})}}


RULES = st.sampled_from((a_rule(), a_rule({"warmup": {"duration": "1s"}}), a_rule({"tls": {"mode": "ISTIO_MUTUAL"}})))


@given(rule=RULES, steps=st.lists(policy_values.policies(NAMES), max_size=5))
def test_every_setting_can_be_taken_away_again_and_leaves_the_rule_as_it_was(rule: Object, steps: list[Policy]) -> None:
    state, kept = rule, copy.deepcopy(rule)
    for policy in steps:
        try:
            state = with_policy(state, "churn", policy)
        except StateConflict:
            continue
        assert written_policy(state, "churn").policy.subsets == policy.subsets
        assert with_policy(state, "churn", policy) == state, "twice is not once"
        assert state["spec"]["subsets"][2] == rule["spec"]["subsets"][2]
    assert with_policy(state, "churn", NO_POLICY) == rule
    assert rule == kept, "an input was changed"


def test_an_owners_setting_is_refused_by_name_and_comes_back_after_a_replacement() -> None:
    import pytest

    rule = a_rule({"tls": {"mode": "ISTIO_MUTUAL"}})
    ours = Policy(destination=policy_values.DestinationPolicy(tls={"mode": "DISABLE"}))
    with pytest.raises(StateConflict, match=r"DestinationRule 'churn' has tls of its own .*replace=true"):
        with_policy(rule, "churn", ours)
    import dataclasses

    said = with_policy(rule, "churn", dataclasses.replace(ours, replaced=("tls",)))
    assert said["spec"]["trafficPolicy"] == {"tls": {"mode": "DISABLE"}}
    assert with_policy(said, "churn", NO_POLICY) == rule


def test_a_subset_that_went_and_came_back_gets_its_settings_anew() -> None:
    policy = Policy(subsets={"v1": policy_values.DestinationPolicy(tls={"mode": "DISABLE"})})
    state = without_subset(with_policy(a_rule(), "churn", policy), "v1")
    state = with_policy(with_subset(state, "v1"), "churn", policy)
    assert state["spec"]["subsets"][-1]["trafficPolicy"] == {"tls": {"mode": "DISABLE"}}


@given(policy=policy_values.policies(NAMES))
def test_a_policy_is_read_as_it_was_written(policy: Policy) -> None:
    assert from_json(Policy, to_json(policy)) == policy
