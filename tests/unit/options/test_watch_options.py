"""What is said of the watch after a promotion, and of the warm-up before the first user."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.traffic import Destination, WeightedDestination
from mlflow_istio.core.release.plan import ReleasePlan, describe_plan
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.release import ReleaseOptions, check_release_options
from mlflow_istio.options.release_plan import plan_of
from tests.support.endpoint_values import LEGACY, an_endpoint


def plan(endpoint: Endpoint | None = None, **given: Any) -> ReleasePlan:
    options = check_release_options(parse_options(ReleaseOptions, given, cluster="istio"), given)
    return plan_of(options, endpoint or an_endpoint(), ("v2",))


def test_by_default_nothing_is_watched_nothing_deleted_and_the_candidate_warmed() -> None:
    found = plan()
    assert (found.watch, found.keep_old, found.warm) == (0, None, "auto")
    assert plan(warm="none").warm == "none"


def test_a_watch_has_a_time_and_a_share_and_the_plan_says_so() -> None:
    found = plan(watch="2h", holdback=10, keep_old="1d")
    assert (found.watch, found.holdback, found.keep_old) == (7200, 10, 86400)
    words = "\n".join(describe_plan(found))
    assert "then a watch of 7200 s: 10% of the traffic stays on v1" in words
    assert "v1 is deleted 86400 s after the promotion" in words
    assert plan(watch="2h").holdback == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"watch": "2"}, "option 'watch'"),
        ({"watch": "2h", "keep_old": "1h"}, "watch=7200s is longer than keep_old=3600s"),
        ({"watch": "800h"}, "watch is from 0 to"),
        ({"watch": "2h", "holdback": 0}, "option 'holdback'"),
        ({"watch": "2h", "holdback": 51}, "option 'holdback'"),
        ({"watch": "2h", "holdback": "many"}, "option 'holdback'"),
        ({"holdback": 7}, "'holdback' has no effect without 'watch'"),
        ({"watch": "2h", "strategy": "shadow"}, "strategy=shadow has no watch"),
        ({"watch": "2h", "strategy": "ab", "cookie": "arm"}, "strategy=ab has no watch"),
        ({"watch": "2h", "analysis": "none"}, "a watch needs something to watch"),
        ({"watch": "2h", "promote": False}, "'watch' has no effect with promote=false"),
        ({"keep_old": "2h", "promote": False}, "'keep_old' has no effect with promote=false"),
        ({"warm": "hot"}, "unknown warm 'hot'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as found:
        plan(**given)
    assert words in found.value.message
    assert "\n" not in found.value.message


def test_a_stable_of_its_owners_cannot_be_watched_against() -> None:
    theirs: Destination = LEGACY
    endpoint = an_endpoint()
    split = (WeightedDestination(destination=theirs, weight=100),)
    foreign = replace(endpoint, stable=theirs, traffic=replace(endpoint.traffic, split=split))
    with pytest.raises(InvalidInput, match="option 'watch' needs a stable that was deployed here") as found:
        plan(foreign, watch="2h")
    assert "leave 'watch' out" in found.value.message
    assert plan(foreign).watch == 0


@pytest.mark.parametrize("given", [{"strategy": "shadow"}, {"analysis": "none"}, {"promote": False}])
def test_one_of_the_environment_is_for_releases_that_can(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ISTIO_WATCH", "2h")
    monkeypatch.setenv("MLFLOW_ISTIO_HOLDBACK", "7")
    assert (plan().watch, plan().holdback) == (7200, 7)
    assert plan(**given).watch == 0
