"""Subsets of a DestinationRule: ours come and go, everybody else's stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.objects import Object, name_of
from mlflow_istio.errors import StateConflict


def subset_labels(deployment: str) -> dict[str, str]:
    """The pod labels that a deployment's subset selects."""
    return {"version": deployment}


def subsets_of(destination_rule: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of all subsets, in order."""
    return tuple(str(subset["name"]) for subset in destination_rule.get("spec", {}).get("subsets") or [])


def with_subset(destination_rule: Object, deployment: str) -> Object:
    """The rule with a deployment's subset; the same object when it is there already.

    Raises:
        StateConflict: A subset of that name selects something else: its meaning never changes.
    """
    subsets = list(destination_rule.get("spec", {}).get("subsets") or [])
    for subset in subsets:
        if subset["name"] == deployment:
            if subset.get("labels") != subset_labels(deployment):
                raise StateConflict(
                    f"DestinationRule '{name_of(destination_rule)}' has a subset '{deployment}' that selects "
                    f"{subset.get('labels')}: a subset's meaning never changes; use another deployment name"
                )
            return destination_rule
    ours: Object = {"name": deployment, "labels": subset_labels(deployment)}
    return {**destination_rule, "spec": {**destination_rule["spec"], "subsets": [*subsets, ours]}}


def without_subset(destination_rule: Object, deployment: str) -> Object:
    """The rule without a deployment's subset; the same object when it is not there."""
    subsets = destination_rule.get("spec", {}).get("subsets") or []
    left = [subset for subset in subsets if subset["name"] != deployment]
    if len(left) == len(subsets):
        return destination_rule
    return {**destination_rule, "spec": {**destination_rule["spec"], "subsets": left}}
