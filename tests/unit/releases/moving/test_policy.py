"""Settings, routes, faults and what must end, as use-cases on in-memory ports."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.deadlines import Deadline
from mlflow_istio.core.policy.routes import policy_key
from mlflow_istio.core.policy.settings import CustomRoute, Fault, PolicyRequest
from mlflow_istio.core.release.fault_trial import Answers, caller_answers
from mlflow_istio.errors import ClusterError, InvalidInput, NotFound, NotReady, StateConflict
from mlflow_istio.releases.context import Context, edit_endpoint
from mlflow_istio.releases.deploying.removal import delete
from mlflow_istio.releases.deploying.sweeping import Swept, enforce, sweep
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.releases.moving.chaos import chaos
from mlflow_istio.testing import InMemoryMetrics
from tests.support.in_memory import OfOtherCalls, World, a_world, with_canary


class LaterClock:
    """A clock some time after the still one; sleeping moves it."""

    def __init__(self, world: World, seconds: float) -> None:
        self.time = world.context.clock.now() + timedelta(seconds=seconds)
        self.slept = 0.0
        self.interrupt_after = float("inf")

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.time += timedelta(seconds=seconds)
        if self.slept >= self.interrupt_after:
            raise KeyboardInterrupt


def later(world: World, seconds: float) -> Context:
    return replace(world.context, clock=LaterClock(world, seconds), enforce=enforce)


def a_fault(world: World, seconds: float = 60, **changes: Any) -> Fault:
    return Fault(**{"abort": 503, "until": world.context.clock.now() + timedelta(seconds=seconds), **changes})


def rule_of(world: World) -> Object:
    found = world.cluster.get("DestinationRule", "churn")
    assert found is not None
    return found


POOL = PolicyRequest(changes={"connection_pool": {"tcp": {"maxConnections": 1}}, "timeout": "2s"})


def test_settings_stand_on_both_objects_and_once_in_the_ledger() -> None:
    world = a_world("churn-v1", "churn-v2")
    outcome = policy.set_policy(world.context, "churn", POOL, reason="load")
    assert outcome.changed
    assert rule_of(world)["spec"]["trafficPolicy"] == {"connectionPool": {"tcp": {"maxConnections": 1}}}
    assert world.history()[-1] == (3, "policy")
    (recorded,) = [c for c in world.registry.history("prod", "churn") if c.action == "policy"]
    assert (recorded.reason, recorded.after and recorded.after.policy.route.timeout) == ("load", "2s")
    before = world.text()
    assert not policy.set_policy(world.context, "churn", POOL).changed
    assert world.text() == before, "the same again changes nothing"
    policy.set_policy(world.context, "churn", PolicyRequest(changes={"connection_pool": None, "timeout": None}))
    assert "trafficPolicy" not in rule_of(world)["spec"]
    assert policy_key("churn") not in rule_of(world)["metadata"].get("annotations", {})


def test_settings_that_the_second_object_refuses_are_on_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world("churn-v1", "churn-v2")
    before = world.text()
    edit = world.cluster.edit

    def refusing(kind: str, name: str, change: Any) -> Any:
        if kind == "VirtualService":
            raise ClusterError("the webhook says no")
        return edit(kind, name, change)

    monkeypatch.setattr(world.cluster, "edit", refusing)
    with pytest.raises(ClusterError, match="webhook"):
        policy.set_policy(world.context, "churn", POOL)
    monkeypatch.undo()
    assert world.text() == before


def test_settings_of_a_deployment_go_with_it() -> None:
    world = a_world("churn-v1", "churn-v2")
    policy.set_policy(world.context, "churn", PolicyRequest(changes={"tls": "DISABLE"}, subset="churn-v2"))
    assert rule_of(world)["spec"]["subsets"][1]["trafficPolicy"] == {"tls": {"mode": "DISABLE"}}
    delete(world.context, "churn-v2")
    assert policy_key("churn") not in rule_of(world)["metadata"].get("annotations", {})
    world.deploy("churn-v2")
    assert "trafficPolicy" not in rule_of(world)["spec"]["subsets"][1]


def test_a_route_to_a_deployment_that_is_not_ready_is_refused() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.cluster.unready.add("churn-v2")
    rule = CustomRoute(name="staff", deployment="churn-v2", match=({"method": {"exact": "GET"}},))
    with pytest.raises(NotReady, match="'churn-v2' has no ready replica"):
        policy.set_rule(world.context, "churn", rule)
    world.cluster.unready.clear()
    policy.set_rule(world.context, "churn", rule)
    with pytest.raises(StateConflict, match="where route 'staff' leads"):
        delete(world.context, "churn-v2")
    with pytest.raises(NotFound, match="no route 'x'"):
        policy.remove_rule(world.context, "churn", "x")
    policy.remove_rule(world.context, "churn", "staff")
    assert [action for _, action in world.history()][-2:] == ["route", "route"]


def test_a_sweep_ends_what_is_over_and_nothing_before_its_time() -> None:
    world = with_canary()
    shifting.promote(world.context, "churn", keep_old=timedelta(seconds=30))
    policy.start_fault(world.context, "churn", a_fault(world, 60))
    assert sweep(later(world, 29)) == ()
    assert sweep(later(world, 31)) == (Swept(endpoint="churn", what="replaced version deleted (churn-v1)"),)
    assert world.cluster.get("Deployment", "churn-v1") is None
    assert [deadline.kind for deadline in world.endpoint().deadlines] == ["fault"]
    assert sweep(later(world, 61)) == (Swept(endpoint="churn", what="fault ended"),)
    assert world.endpoint().traffic.policy.fault is None
    assert [action for _, action in world.history()][-3:] == ["fault", "remove", "fault-end"]
    assert sweep(later(world, 1000)) == ()


def test_a_kept_version_that_is_needed_again_stays() -> None:
    world = with_canary()
    shifting.promote(world.context, "churn", keep_old=timedelta(seconds=30))
    rule = CustomRoute(name="old", deployment="churn-v1", match=({"method": {"exact": "GET"}},))
    policy.set_rule(world.context, "churn", rule)
    sweep(later(world, 31))
    assert world.cluster.get("Deployment", "churn-v1") is not None
    assert world.endpoint().deadlines == ()


def test_every_change_of_traffic_begins_with_what_is_over_but_a_rollback_waits_for_nothing() -> None:
    world = with_canary()
    policy.start_fault(world.context, "churn", a_fault(world))
    shifting.pause(later(world, 61), "churn")
    assert world.endpoint().traffic.policy.fault is None
    policy.start_fault(world.context, "churn", a_fault(world))
    shifting.rollback(later(world, 61), "churn")
    assert [action for _, action in world.history()][-3:] == ["fault-end", "fault", "rollback"]
    assert world.endpoint().deadlines == ()


def test_what_cant_be_ended_is_said_and_holds_nothing_back() -> None:
    world = a_world("churn-v1", "churn-v2")
    policy.start_fault(world.context, "churn", a_fault(world))
    world.cluster.unroutable = True
    (swept,) = sweep(later(world, 61))
    assert swept.what == "not yet: fault ended"
    assert "no proxy confirmed" in swept.problem
    enforce(later(world, 61), "churn")
    world.cluster.unroutable = False
    sweep(later(world, 61))
    assert world.endpoint().traffic.policy.fault is None


def test_a_deadline_of_a_newer_version_stays_for_its_sweep() -> None:
    world = a_world("churn-v1")
    deadline = Deadline(kind="unheard-of", at=world.context.clock.now(), what="r1")
    edit_endpoint(world.cluster, "churn", "churn", lambda now: replace(now, deadlines=(deadline,)))
    assert sweep(later(world, 1)) == ()
    enforce(later(world, 1), "churn")
    assert world.endpoint().deadlines == (deadline,)


def test_a_sweep_makes_the_destination_rule_follow_a_command_that_died_between_the_two() -> None:
    world = a_world("churn-v1")
    policy.set_policy(world.context, "churn", POOL)
    wanted = world.endpoint().traffic.policy
    policy.follow(
        world.context, "churn", replace(wanted, destination=replace(wanted.destination, tls={"mode": "DISABLE"}))
    )
    assert sweep(world.context) == (Swept(endpoint="churn", what="DestinationRule follows the endpoint again"),)
    assert "tls" not in rule_of(world)["spec"]["trafficPolicy"]


def test_chaos_reports_what_was_seen_and_leaves_nothing_behind() -> None:
    world = a_world("churn-v1", "churn-v2")
    metrics = InMemoryMetrics()
    metrics.serve("churn-v1", 10)
    context = later(world, 0)
    counts = iter(
        [
            {"2xx": 5.0, "le/+Inf": 5.0, "le/10": 5.0},
            {"2xx": 9.0, "5xx": 3.0, "aborted": 3.0, "le/+Inf": 12.0, "le/10": 9.0, "le/50": 12.0},
        ]
    )
    clock = context.clock
    sleep = clock.sleep

    def busy(seconds: float) -> None:
        assert world.endpoint().traffic.policy.fault is not None
        metrics.serve("churn-v1", 1)
        sleep(seconds)

    clock.sleep = busy  # type: ignore[method-assign]
    outcome, report = chaos(
        context, "churn", a_fault(world), seconds=2, metrics=metrics, callers=lambda virtual_service: next(counts)
    )
    assert outcome.endpoint is not None
    assert outcome.endpoint.traffic.policy.fault is None
    assert report.deployments["churn-v1"].requests == 4
    assert report.callers == Answers(requests=7, errors=3, median_ms=10.0, p99_ms=50.0)
    assert (report.aborted, report.delayed, report.problem) == (3, 0, "")
    assert to_json(report)["callers"]["p99_ms"] == 50.0
    assert [action for _, action in world.history()][-2:] == ["fault", "fault-end"]


def test_chaos_ends_on_an_interrupt_and_without_its_metrics() -> None:
    world = a_world("churn-v1")
    metrics = InMemoryMetrics()
    metrics.down = True
    context = later(world, 0)
    context.clock.interrupt_after = 1.0  # type: ignore[attr-defined]
    _, report = chaos(context, "churn", a_fault(world), seconds=60, metrics=metrics)
    assert report.interrupted
    assert "can't be reached" in report.problem
    assert world.endpoint().traffic.policy.fault is None
    policy.start_fault(world.context, "churn", a_fault(world))
    with pytest.raises(StateConflict, match="has a fault already"):
        chaos(world.context, "churn", a_fault(world), seconds=1)


def test_chaos_shows_no_figures_in_which_every_call_looks_well() -> None:
    world = a_world("churn-v1")
    metrics = OfOtherCalls()
    metrics.serve("churn-v1", 10)
    _, report = chaos(later(world, 0), "churn", a_fault(world), seconds=1, metrics=metrics)
    assert "doesn't tell how calls of endpoint 'churn' end" in report.problem
    assert not report.deployments


def test_counts_of_an_envoy_that_started_again_are_counted_from_zero() -> None:
    seen, aborted, delayed = caller_answers({"2xx": 100.0}, {"2xx": 3.0, "delayed": 2.0})
    assert (seen.requests, seen.median_ms, aborted, delayed) == (3, None, 0, 2)


def test_a_setting_that_cant_be_is_refused_before_the_first_edit() -> None:
    world = a_world("churn-v1")
    writes = list(world.cluster.writes)
    with pytest.raises(InvalidInput, match="rewrite can't go with redirect"):
        policy.set_policy(
            world.context, "churn", PolicyRequest(changes={"rewrite": "/a", "redirect": "/b", "tls": "DISABLE"})
        )
    assert world.cluster.writes == writes
