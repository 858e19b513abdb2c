"""A verb that names a release ends that one, never another that took its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_istio.errors import StateConflict
from mlflow_istio.releases.context import Outcome
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import with_canary

VERBS: list[Callable[..., Outcome]] = [shifting.promote, shifting.rollback, shifting.abort]


@pytest.mark.parametrize("verb", VERBS)
def test_another_release_than_the_named_one_is_left_alone(verb: Any) -> None:
    world = with_canary()
    before = world.text()
    with pytest.raises(StateConflict, match="release 'job-7' is not the newest"):
        verb(world.context, "churn", release_id="job-7")
    assert world.text() == before


@pytest.mark.parametrize("verb", VERBS)
def test_the_named_release_is_ended_once_however_often_a_step_is_tried(verb: Any) -> None:
    world = with_canary()
    release = world.endpoint().release
    assert release is not None
    assert verb(world.context, "churn", release_id=release.id).changed
    assert not verb(world.context, "churn", release_id=release.id).changed
