"""Raw objects are read without surprises and never changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import annotations_of, labels_of, name_of, ready_replicas, with_annotations


@pytest.mark.parametrize("metadata", [{"name": "a"}, {"name": "a", "labels": None, "annotations": None}])
def test_what_is_absent_is_empty(metadata: dict[str, Any]) -> None:
    obj = {"metadata": metadata}
    assert (name_of(obj), labels_of(obj), annotations_of(obj)) == ("a", {}, {})
    assert labels_of({}) == {}


def test_annotations_are_set_and_removed_on_a_copy() -> None:
    obj = {"kind": "X", "metadata": {"name": "a", "annotations": {"theirs": "1", "old": "2"}}}
    kept = copy.deepcopy(obj)
    after = with_annotations(obj, {"new": "3", "old": None, "never": None})
    assert annotations_of(after) == {"theirs": "1", "new": "3"}
    assert obj == kept
    assert with_annotations(after, {"theirs": None, "new": None}) == {"kind": "X", "metadata": {"name": "a"}}


@pytest.mark.parametrize(
    ("deployment", "ready"),
    [
        ({"spec": {"replicas": 2}, "status": {"readyReplicas": 1}}, 1),
        ({"spec": {}, "status": {"readyReplicas": 1}}, 1),
        ({"spec": {"replicas": 0}, "status": {"readyReplicas": 1}}, 0),
        ({"spec": {"replicas": 1}, "status": {"readyReplicas": None}}, 0),
        ({"spec": {"replicas": 1}}, 0),
        ({}, 0),
    ],
)
def test_only_wanted_replicas_that_are_ready_count(deployment: dict[str, Any], ready: int) -> None:
    assert ready_replicas(deployment) == ready
