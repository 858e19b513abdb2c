"""Subsets and settings of a DestinationRule: ours come and go, everybody else's stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.basics.objects import Object, name_of, with_annotations
from mlflow_istio.core.policy.fields import DESTINATION_FIELDS
from mlflow_istio.core.policy.overlay import laid_over
from mlflow_istio.core.policy.routes import Written, policy_annotation, replaceable, written_policy
from mlflow_istio.core.policy.settings import DestinationPolicy, Policy
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


def with_policy(destination_rule: Object, endpoint: str, policy: Policy) -> Object:
    """The rule with our settings for the host and for subsets; the owner's own stay. The same object when nothing changes.

    Raises:
        StateConflict: The owner has one of the settings, and it may not be replaced; names it.
    """
    written = written_policy(destination_rule, endpoint)
    replaced = tuple(name for name in policy.replaced if name in DESTINATION_FIELDS)
    ours = Policy(destination=policy.destination, subsets=policy.subsets, replaced=replaced)
    spec = destination_rule["spec"]
    originals: dict[str, Mapping[str, Any]] = {}

    def laid(holder: Object, place: str, before: DestinationPolicy, after: DestinationPolicy) -> Object:
        where = f"DestinationRule '{name_of(destination_rule)}'" + (f", subset '{place}'," if place else "")
        settings, originals[place] = laid_over(
            holder.get("trafficPolicy") or {},
            {(key,): value for key, value in before.as_istio().items()},
            {(key,): value for key, value in after.as_istio().items()},
            originals=written.originals.get(place, {}),
            replace=replaceable(policy),
            where=where,
        )
        if settings == (holder.get("trafficPolicy") or {}):
            return holder
        bare = {key: value for key, value in holder.items() if key != "trafficPolicy"}
        return {**bare, "trafficPolicy": settings} if settings else bare

    none = DestinationPolicy()
    spec = laid(spec, "", written.policy.destination, ours.destination)
    if "subsets" in spec:
        subsets = []
        for subset in spec["subsets"] or []:
            name = str(subset["name"])
            before, after = written.policy.subsets.get(name, none), ours.subsets.get(name, none)
            subsets.append(laid(subset, name, before, after))
        spec = {**spec, "subsets": subsets}
    annotation = policy_annotation(endpoint, Written(policy=ours, originals=originals))
    changed = with_annotations({**destination_rule, "spec": spec}, annotation)
    return destination_rule if changed == destination_rule else changed
