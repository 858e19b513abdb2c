"""A rehearsal reads what a source remembers, else what the looks of past releases have kept."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.errors import MetricsError, NotFound, RegistryError
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.releases.reading.history import looks_history
from mlflow_istio.releases.reading.rehearsal import PAST_RELEASES, rehearsed
from mlflow_istio.releases.reading.views import View
from tests.support.simulated_users import ERRORS, Behaviour, Stage, a_plan, a_stage
from tests.unit.verbs.test_every_verb import answered

LONG: dict[str, Any] = {"guards": ERRORS, "hold": 1200.0, "interval": 60.0}


def rehearse(stage: Stage, metrics: Metrics | None, **plan: Any) -> View:
    def planned(endpoint: Endpoint) -> ReleasePlan:
        return a_plan(**{"stable": endpoint.stable.name, "phase": 0.0, "guards": ERRORS, "interval": 60.0, **plan})

    return rehearsed(
        stage.context,
        metrics,
        "churn",
        planned,
        seconds=7200.0,
        horizon=300.0,
        runs=1,
        seed=0,
        told=lambda _done, _all: None,
    )


def ended(**how: Any) -> Stage:
    """A release has gone on for forty minutes, and was promoted."""
    stage = a_stage()
    assert stage.release(**{**LONG, **how}).outcome == "promoted"
    return stage


def test_what_the_source_remembers_comes_first() -> None:
    stage = ended()
    stage.users.metrics.past["churn-v2"] = answered(720)  # it is the stable now
    view = rehearse(stage, stage.users.metrics, interval=10.0)
    assert (view["source"], view["history"]["requests"]) == ("the in-memory metrics", 720 * 600)
    assert view["history"]["slower_than"].keys() == {"50", "100"}


@pytest.mark.parametrize("source", [True, False], ids=["a source without a memory", "no source"])
def test_else_the_looks_of_past_releases_do(source: bool) -> None:
    stage = ended()
    view = rehearse(stage, stage.users.metrics if source else None)
    assert view["source"] == PAST_RELEASES
    assert view["history"]["seconds"] > 2000
    assert 0.005 < view["history"]["errors"] / view["history"]["requests"] < 0.02
    assert view["cases"][0]["runs"] == 1


def test_only_releases_that_looked_as_often_count() -> None:
    stage = ended()
    assert looks_history(stage.context, "churn", 10.0) is None
    with pytest.raises(NotFound) as missing:
        rehearse(stage, stage.users.metrics, interval=10.0)
    assert missing.value.message == (
        "the in-memory metrics remembers nothing that 'churn-v2' of endpoint 'churn' has answered, nor does a past release with "
        "looks every 10 s: give prometheus_url, or wait until it has had traffic"
    )


def test_what_an_earlier_release_kept_stays_though_it_was_rolled_back_and_one_that_lost_its_run_is_passed_over() -> (
    None
):
    stage = a_stage(churn_v2=Behaviour(errors=0.2))
    assert stage.release(guards=ERRORS, interval=60.0).outcome == "rolled-back"
    history = looks_history(stage.context, "churn", 60.0)
    assert history is not None
    assert history.requests.sum() > 0
    stage.world.runs.kept.clear()
    assert looks_history(stage.context, "churn", 60.0) is None


def test_a_source_or_a_registry_that_is_gone_is_named() -> None:
    stage = a_stage()
    stage.users.metrics.down = True
    with pytest.raises(MetricsError, match="in-memory metrics"):
        rehearse(stage, stage.users.metrics)
    stage.world.registry.down = True
    with pytest.raises(RegistryError):
        rehearse(stage, None)
