"""What comes next in a release: one table for each thing that may happen."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.release.advance import Action, Ask, Call, GiveUp, Promote, RollBack, Shift, Stop, Wait
from mlflow_istio.core.release.plan import Approval, GuardPlan, ReleasePlan, Webhook
from tests.support.release_values import ERRORS, Journey, a_plan, at, counters, seen

PROVEN = GuardPlan(name="errors", kind="errors", allowed=NonInferiorityMargin(rate_difference=0.02))
GOOD = {"v1": (900, 9), "v2": (100, 1)}
HALF = {"v1": (500, 5), "v2": (500, 5)}


def started(plan: ReleasePlan | None = None, **first: Any) -> Journey:
    """A journey whose candidate has the traffic of the first step."""
    journey = Journey(plan)
    action = journey.look(**first)
    assert isinstance(action, Shift), action
    return journey


def test_a_good_candidate_goes_up_step_by_step_and_is_promoted() -> None:
    journey = started(a_plan(guards=(PROVEN,)))
    actions: list[Action] = [journey.look(**GOOD), journey.look(**GOOD), journey.look(**HALF), journey.look(**HALF)]
    assert [type(action) for action in actions] == [Wait, Shift, Wait, Wait]
    while isinstance(actions[-1], Wait):
        actions.append(journey.look(**HALF))
    assert isinstance(actions[-1], Promote)
    assert actions[-1].candidate == "v2"
    assert "Proven good enough" in actions[-1].verdict.reason


def test_a_bad_candidate_is_rolled_back_within_its_first_step() -> None:
    journey = started()
    action = journey.look(v1=(900, 9), v2=(100, 20))
    assert isinstance(action, RollBack)
    assert action.verdict.reason.startswith("The candidate is worse: errors, 20% of 100 requests")
    assert journey.progress.verdict == {"word": "rollback", "reason": action.verdict.reason}


@pytest.mark.parametrize(
    ("looks", "waits_for"),
    [
        (
            [{"v1": (900, 0), "v2": (99, 0)}] * 1 + [{}],
            "the step isn't complete (1 more requests of the candidate, about 10 s at such traffic)",
        ),
        ([{"v1": (90, 0), "v2": (100, 0)}], "the step isn't complete (about 10 s more)"),
        ([{"readings": {"v1": counters(900)}}], "no data from v2"),
        ([{"readings": {}}], "no data from v1, v2"),
        ([{"unavailable": "Prometheus"}], "no data from Prometheus"),
        ([GOOD, {"v1": (100, 0), "v2": (900, 0)}], "the shares of traffic don't fit the weights"),
    ],
)
def test_a_step_waits_for_time_requests_data_and_the_right_shares(looks: list[dict[str, Any]], waits_for: str) -> None:
    journey = started()
    actions = [journey.look(**look) for look in looks]
    assert isinstance(actions[-1], Wait)
    assert waits_for in actions[-1].verdict.reason


def test_warm_up_counts_for_nothing() -> None:
    journey = started(a_plan(warmup=25.0))
    assert isinstance(journey.look(v1=(900, 0), v2=(100, 90)), Wait)
    assert isinstance(journey.look(v1=(900, 0), v2=(100, 90)), Wait)
    assert isinstance(journey.look(v1=(900, 0), v2=(100, 90)), Wait)  # this interval began within the warm-up
    assert journey.progress.evidence.requests == {}
    assert isinstance(journey.look(v1=(900, 9), v2=(100, 90)), RollBack)


def test_the_interval_in_which_the_weights_changed_is_no_evidence_about_shares() -> None:
    journey = started(a_plan(hold=100.0))
    journey.look(v1=(1000, 0), v2=(0, 0))
    assert journey.progress.evidence.ratio is not None
    assert journey.progress.evidence.ratio.counts == {}
    journey.look(**GOOD)
    assert journey.progress.evidence.ratio.counts == {"v1": 900, "v2": 100}


def test_a_slow_source_of_figures_gets_time_before_shares_are_checked() -> None:
    journey = started(a_plan(settle=15.0))
    for _ in range(2):
        journey.look(v1=(1000, 0), v2=(0, 0))
    assert journey.progress.evidence.ratio is not None
    assert journey.progress.evidence.ratio.counts == {}


def test_without_guards_steps_go_by_time_and_requests_are_not_counted() -> None:
    journey = started(a_plan(guards=(), min_requests=100))
    actions = [journey.look(readings={}) for _ in range(4)]
    assert [type(action) for action in actions] == [Wait, Shift, Wait, Promote]


def test_without_guards_an_incomplete_step_is_inconclusive_at_the_deadline() -> None:
    journey = started(a_plan(guards=(), hold=100.0, deadline=30.0))
    assert isinstance(journey.look(readings={}), Wait)
    assert isinstance(journey.look(readings={}, after=20.0), GiveUp)


@pytest.mark.parametrize(("undecided", "kind"), [("rollback", GiveUp), ("hold", Stop)])
def test_at_the_deadline_without_proof_it_is_inconclusive_never_a_success(undecided: Any, kind: type[Action]) -> None:
    journey = started(a_plan(guards=(PROVEN,), undecided=undecided))
    action = journey.look(v1=(90, 1), v2=(10, 0), after=600.0)
    assert isinstance(action, kind)
    assert action.verdict.word == "inconclusive"
    assert journey.progress.stopped == (undecided == "hold")


def test_missing_data_roll_back_only_if_told_to_and_only_after_a_while() -> None:
    journey = started(a_plan(no_data="rollback"))
    assert isinstance(journey.look(readings={}), Wait)
    assert isinstance(journey.look(readings={}), Wait)
    action = journey.look(readings={})
    assert isinstance(action, RollBack)
    assert action.verdict.reason == "No data from v1, v2."


def test_data_that_come_back_end_the_wait() -> None:
    journey = started(a_plan(no_data="rollback"))
    journey.look(readings={})
    assert journey.progress.missing_since == at(20)
    journey.look(**GOOD)
    assert journey.progress.missing_since is None


@pytest.mark.parametrize(("after", "kind"), [(10.0, Wait), (600.0, GiveUp)])
def test_a_dead_source_of_figures_holds_a_release_before_its_first_step(after: float, kind: type[Action]) -> None:
    journey = Journey()
    assert isinstance(journey.look(unavailable="Prometheus", readings={}, after=after), kind)
    assert journey.progress.step == -1


def test_a_stable_that_nobody_asks_does_not_hold_the_start() -> None:
    assert isinstance(Journey().look(readings={}), Shift)


def test_a_pause_takes_nothing_from_the_time_and_its_requests_do_not_count() -> None:
    journey = started()
    for _ in range(3):
        action = journey.look(v1=(900, 0), v2=(100, 50), paused=True, after=300.0)
        assert isinstance(action, Wait)
        assert "Paused" in action.verdict.reason
    # Its end is the first look after it, and what happened between the looks counts for nothing either.
    assert isinstance(journey.look(v1=(900, 9), v2=(100, 50)), Wait)
    assert journey.progress.paused_since is None
    assert journey.progress.started == at(610)
    assert journey.progress.evidence.requests == {}
    journey.look(**GOOD)
    assert journey.progress.evidence.requests == {"v1": 900, "v2": 100}


def test_a_weight_that_somebody_changed_is_put_back() -> None:
    journey = started()
    action = journey.look(v1=(500, 0), v2=(500, 400), weight=50)
    assert isinstance(action, Shift)
    assert (action.weight, journey.progress.step) == (10, 0)
    assert journey.progress.evidence.requests == {}


def test_a_candidate_that_is_done_but_not_to_be_promoted_stops() -> None:
    journey = started(a_plan(steps=(50.0,), guards=(PROVEN,), promote=False))
    action: Action = journey.look(v1=(5000, 5), v2=(5000, 5))
    action = journey.look(v1=(5000, 5), v2=(5000, 5))
    assert isinstance(action, Stop)
    assert action.verdict.word == "advance"
    assert journey.progress.stopped


# Gates


def hooked(**changes: Any) -> Journey:
    return Journey(a_plan(webhooks=(Webhook(url="http://gate"),), **changes))


def test_webhooks_are_asked_before_the_start_each_increase_and_promotion() -> None:
    journey = hooked(guards=(), min_requests=0, hold=0.0)
    asked = []
    for _ in range(3):
        action = journey.look(readings={})
        assert isinstance(action, Call)
        asked.append((action.event, action.gate, [hook.url for hook in action.hooks]))
        action = journey.look(readings={}, after=0.0, webhooks={"http://gate": ""})
        assert isinstance(action, (Shift, Promote))
    assert asked == [
        ("start", "10", ["http://gate"]),
        ("increase", "50", ["http://gate"]),
        ("promotion", "promotion", ["http://gate"]),
    ]
    assert journey.progress.looks == 3  # an answer is no look of its own


def test_a_webhook_that_refuses_is_asked_again_and_at_the_deadline_it_is_inconclusive() -> None:
    journey = hooked(guards=())
    for after, kind in ((10.0, Wait), (10.0, Wait), (600.0, GiveUp)):
        assert isinstance(journey.look(readings={}, after=after), Call)
        action = journey.look(readings={}, after=0.0, webhooks={"http://gate": "409 not now"})
        assert isinstance(action, kind)
        assert "http://gate says 409 not now" in action.verdict.reason


def approving(**changes: Any) -> Journey:
    values: dict[str, Any] = {"before": ("10", "promotion"), "tag": "ok", "timeout": 100.0}
    return Journey(a_plan(guards=(), min_requests=0, hold=0.0, approval=Approval(**{**values, **changes})))


def answer(journey: Journey, word: str) -> None:
    from mlflow_istio.core.release.progress import answered

    journey.progress = answered(journey.progress, "churn", word, "ann")


def test_an_approval_lets_past_its_gate_and_no_other() -> None:
    journey = approving()
    assert isinstance(journey.look(), Ask)
    assert isinstance(journey.look(), Ask)
    answer(journey, "approve")
    assert isinstance(journey.look(), Shift)
    assert isinstance(journey.look(), Shift)  # the second step has no gate
    assert isinstance(journey.look(), Ask)
    assert journey.progress.question is not None
    assert journey.progress.question.gate == "promotion"


@pytest.mark.parametrize("by", ["command", "tag", "nobody"])
def test_a_rejection_rolls_back_and_says_whose_it_is(by: str) -> None:
    journey = approving()
    journey.look()
    if by == "command":
        answer(journey, "reject")
        action = journey.look()
    elif by == "tag":
        action = journey.look(tag="Rejected")
    else:
        action = journey.look(after=100.0)
    assert isinstance(action, RollBack)
    whose = {"command": "ann", "tag": "the model version's tag", "nobody": "nobody answered in 100 s, which"}
    assert action.verdict.reason == f"{whose[by]} rejected '10'."


@pytest.mark.parametrize(
    ("how", "kind"), [({"tag": "approved"}, Shift), ({"tag": "perhaps"}, Ask), ({"after": 100.0}, Shift)]
)
def test_a_tag_or_the_default_approves(how: dict[str, Any], kind: type[Action]) -> None:
    journey = approving(default="approve")
    journey.look()
    assert isinstance(journey.look(**how), kind)


def test_a_candidate_that_turns_bad_while_a_person_thinks_is_rolled_back() -> None:
    journey = Journey(a_plan(steps=(50.0,), guards=(PROVEN,), approval=Approval(before=("promotion",))))
    journey.look()
    for _ in range(3):
        action = journey.look(v1=(5000, 5), v2=(5000, 5))
    assert isinstance(action, Ask)
    assert isinstance(journey.look(v1=(500, 5), v2=(500, 200)), RollBack)


# A broken stable


def test_a_stable_that_fails_every_request_does_not_hold_up_its_successor() -> None:
    journey = started()
    action: Action = journey.look(v1=(720, 720), v2=(80, 0))
    assert isinstance(action, Wait)
    action = journey.look(v1=(720, 720), v2=(80, 0))
    assert isinstance(action, Promote)  # from the first step: more steps would only keep users waiting
    assert action.verdict.reason.startswith("The stable serves nothing, so the candidate is judged by itself. Proven")


def test_a_stable_without_ready_replica_needs_no_figures() -> None:
    journey = started()
    actions = [journey.look(stable_ready=False, readings={"v2": counters(100.0 * n, 0)}) for n in range(1, 5)]
    assert isinstance(actions[-1], Promote)


def test_a_bad_candidate_of_a_stable_that_is_gone_is_held_till_the_deadline() -> None:
    journey = started()
    bad: dict[str, Any] = {"stable_ready": False}
    for n in (1, 2, 3):
        action = journey.look(readings={"v2": counters(1000.0 * n, 500.0 * n)}, **bad)
    assert isinstance(action, Wait)
    assert action.verdict.reason.endswith("But the stable has no ready replica to go back to.")
    assert isinstance(journey.look(readings={"v2": counters(4000, 2000)}, after=600.0, **bad), RollBack)


# Other strategies


def test_a_blue_green_learns_from_the_stable_first_and_then_switches_everything() -> None:
    plan = a_plan(strategy="blue-green", steps=(0.0, 100.0), guards=(PROVEN,), min_requests=100)
    journey = started(plan)
    actions = [journey.look(v1=(1000, 5)), journey.look(v1=(1000, 5))]
    assert [type(action) for action in actions] == [Wait, Shift]
    assert journey.weight == 100
    while isinstance(actions[-1], (Wait, Shift)):
        actions.append(journey.look(v2=(1000, 5)))
    assert isinstance(actions[-1], Promote)


def test_a_blue_green_that_fails_too_much_goes_back() -> None:
    journey = started(a_plan(strategy="blue-green", steps=(0.0, 100.0), guards=(PROVEN,)))
    journey.look(v1=(1000, 5))
    journey.look(v1=(1000, 5))
    action = journey.look(v2=(1000, 300))
    assert isinstance(action, RollBack)
    assert "candidate alone" in action.verdict.reason


def test_an_outage_of_all_that_both_need_is_no_word_against_the_candidate() -> None:
    journey = started(a_plan(steps=(50.0,), guards=(ERRORS,), min_requests=100, hold=1e5, deadline=1e6))
    for _ in range(5):
        assert isinstance(journey.look((100, 1), (100, 1)), Wait)
    for _ in range(10):
        action = journey.look((100, 100), (100, 100))
        assert isinstance(action, Wait), action.verdict
    for _ in range(5):
        assert isinstance(journey.look((100, 1), (100, 1)), Wait)
    while isinstance(action, Wait):
        action = journey.look((100, 1), (100, 100))
    assert isinstance(action, RollBack)


HOLD = Verdict(word="hold", reason="Not enough pairs.")
FINE = Verdict(word="advance", reason="They agree.")
WORSE = Verdict(word="rollback", reason="They differ.")


@pytest.mark.parametrize(
    ("verdict", "after", "kind", "reason"),
    [
        (None, 10.0, Wait, "Waiting: there is no comparison yet."),
        (None, 600.0, GiveUp, "The deadline has passed: there is no comparison."),
        (HOLD, 10.0, Wait, "Not enough pairs."),
        (HOLD, 600.0, GiveUp, "The deadline has passed. Not enough pairs."),
        (FINE, 10.0, Wait, "Waiting: the step isn't complete. They agree."),
        (FINE, 30.0, Promote, "They agree."),
        (WORSE, 10.0, RollBack, "They differ."),
    ],
)
@pytest.mark.parametrize("strategy", ["shadow", "ab"])
def test_a_shadow_and_an_ab_follow_their_own_comparison(
    strategy: str, verdict: Verdict | None, after: float, kind: type[Action], reason: str
) -> None:
    journey = started(a_plan(strategy=strategy, steps=(50.0,)))
    action = journey.look(verdict=verdict, after=after)
    assert isinstance(action, kind)
    assert action.verdict.reason == reason


def test_the_arm_that_won_is_promoted() -> None:
    plan = a_plan(strategy="ab", steps=(30.0,), candidates=("v2", "v3"), hold=0.0)
    journey = Journey(plan)
    journey.look()
    weights = {"v1": 40, "v2": 30, "v3": 30}
    action = journey.look(verdict=FINE, winner="v3", weights=weights)
    assert isinstance(action, Promote)
    assert action.candidate == "v3"


def test_an_arm_that_fails_is_rolled_back_whatever_its_comparison_says() -> None:
    journey = started(a_plan(strategy="ab", steps=(50.0,)))
    assert isinstance(journey.look(v1=(500, 5), v2=(500, 200), verdict=HOLD), RollBack)


def test_several_arms_are_not_sent_away_for_what_one_of_them_does() -> None:
    journey = Journey(a_plan(strategy="ab", steps=(30.0,), candidates=("v2", "v3"), hold=0.0))
    weights = {"v1": 40, "v2": 30, "v3": 30}
    for _ in range(3):
        action = journey.look(v1=(500, 5), v2=(500, 200), verdict=HOLD, weights=weights)
    assert isinstance(action, Wait)


def test_an_observation_holds_what_was_seen() -> None:
    assert seen(counters(1), None, 10).readings == {"v1": counters(1)}
    assert ERRORS.kind == "errors"
