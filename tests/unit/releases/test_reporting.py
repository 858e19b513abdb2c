"""A release leaves its report with its run; what can't be read or written never stands in the way of traffic."""

from __future__ import annotations

import json

import pytest

from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.moves.transitions import rollback as rolled_back
from mlflow_istio.errors import NotFound
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reporting import ARTIFACT, PLAN_ARTIFACT, gather, keep_report
from tests.support.in_memory import World, a_world, with_canary


def reports(world: World) -> dict[str, str]:
    """Run to the report kept with it."""
    return {run: text for (run, path), text in world.runs.texts.items() if path == ARTIFACT}


def kept(world: World) -> World:
    """The world, whose runs hold as many figures as those of a release without looks: none."""
    for run in world.registry.runs:
        world.runs.keep(run)
    return world


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (shifting.promote, "churn-v2 was promoted and answers users instead of churn-v1."),
        (shifting.rollback, "churn-v2 was rolled back: users are back on churn-v1. It had reached 10% of the traffic."),
        (shifting.abort, "The release of churn-v2 was aborted by a person."),
    ],
)
def test_every_way_a_release_ends_leaves_its_report(end: object, sentence: str) -> None:
    world = kept(with_canary())
    end(world.context, "churn", reason="because")  # type: ignore[operator]
    (page,) = reports(world).values()
    assert sentence in page
    assert "because" in page
    assert not world.warnings


def test_a_rollback_after_promotion_replaces_the_report() -> None:
    world = kept(with_canary())
    shifting.promote(world.context, "churn")
    shifting.rollback(world.context, "churn", reason="complaints")
    (page,) = reports(world).values()
    assert "churn-v2 was rolled back after its promotion: users are back on churn-v1." in page


def test_the_changes_before_the_release_are_not_told_as_its_own() -> None:
    world = kept(with_canary())
    data = gather(world.context, "churn")
    assert [change.action for change in data.changes] == ["start"]
    assert (data.candidates, data.strategy, data.outcome) == (("churn-v2",), "canary", "")


def test_runs_that_cant_be_written_cost_the_report_and_nothing_else() -> None:
    world = with_canary()
    world.runs.down = True
    shifting.rollback(world.context, "churn")
    assert world.endpoint().traffic.weights["churn-v1"] == 100
    assert not world.endpoint().outbox
    (warning,) = world.warnings
    assert "mlflow-istio report churn --release" in warning
    world.runs.down = False
    page, warnings = keep_report(world.context, gather(world.context, "churn"))
    assert not warnings
    assert list(reports(world).values()) == [page]


def test_a_registry_that_was_down_gets_the_report_with_the_changes() -> None:
    world = kept(with_canary())
    world.registry.down = world.runs.down = True
    shifting.rollback(world.context, "churn")
    assert not reports(world)
    world.registry.down = world.runs.down = False
    flush_outbox(world.context, "churn")
    assert len(reports(world)) == 1


def test_a_report_of_changes_that_the_registry_does_not_have_yet() -> None:
    world = kept(with_canary())
    world.registry.down = world.runs.down = True
    shifting.rollback(world.context, "churn")
    data = gather(world.context, "churn")
    assert [change.action for change in data.changes] == ["rollback"]
    assert any("the changes: " in line for line in data.missing)
    assert any("the figures: " in line for line in data.missing)


def test_the_verdict_that_closed_it_is_quoted_and_an_older_one_is_not() -> None:
    world = kept(with_canary())
    verdict = Verdict(word="rollback", reason="5% against 1%.", evidence={"p": 0.01})
    shifting.move(
        world.context,
        "churn",
        lambda now: rolled_back(now),
        action="rollback",
        reason=verdict.reason,
        evidence=to_json(verdict),
    )
    data = gather(world.context, "churn")
    assert data.verdict == to_json(verdict)
    run = str(data.run)
    world.runs.keep(run, texts={PLAN_ARTIFACT: json.dumps({"plan": {"alpha": 0.01}, "verdict": {"word": "advance"}})})
    assert gather(world.context, "churn").plan == {"alpha": 0.01}
    assert gather(world.context, "churn").verdict == to_json(verdict)


def test_a_damaged_artifact_is_named_and_left_out() -> None:
    world = kept(with_canary())
    run = str(gather(world.context, "churn").run)
    world.runs.keep(run, texts={PLAN_ARTIFACT: "{"})
    data = gather(world.context, "churn")
    assert data.plan == {}
    assert any("release.json" in line and "not JSON" in line for line in data.missing)


def test_the_comparison_comes_from_the_runs_figures_and_its_table() -> None:
    world = kept(with_canary())
    run = str(gather(world.context, "churn").run)
    rows = [
        {"request_id": "id-1", "difference": 0.5, "note": "0.1 against 0.6"},
        {"request_id": "id-2", "difference": None, "note": "a text"},
        "odd",
    ]
    verdict = {"word": "hold", "evidence": {"terms": "Compared as text."}}
    texts = {"comparison/most-different.json": json.dumps(rows), "comparison/verdict.json": json.dumps(verdict)}
    world.runs.keep(run, figures={"shadow/agreement": 0.9}, texts=texts)
    comparison = gather(world.context, "churn").comparison
    assert comparison is not None
    assert comparison.figures == {"shadow/agreement": 0.9}
    assert comparison.terms == "Compared as text."
    assert list(comparison.most_different) == [("id-1", 0.5, "0.1 against 0.6"), ("id-2", None, "a text")]


def test_an_older_release_is_told_when_asked_for() -> None:
    world = kept(with_canary())
    first = gather(world.context, "churn").release
    shifting.rollback(world.context, "churn")
    shifting.start(
        world.context,
        "churn",
        strategy="canary",
        candidates=("churn-v3",),
        traffic_request=shifting.TrafficRequest(weight=20),
    )
    data = gather(world.context, "churn", first)
    assert (data.outcome, data.candidates) == ("rolled-back", ("churn-v2",))
    assert gather(world.context, "churn").candidates == ("churn-v3",)
    shifting.promote(world.context, "churn")
    older = gather(world.context, "churn", first)  # the object remembers only the newest
    assert (older.outcome, older.candidates) == ("rolled-back", ("churn-v2",))


def test_a_deleted_endpoint_is_told_from_the_registry() -> None:
    from mlflow_istio.releases.deploying.removal import delete_endpoint

    world = kept(with_canary())
    delete_endpoint(world.context, "churn", force=True)
    data = gather(world.context, "churn")
    assert (data.outcome, data.changes[-1].action) == ("aborted", "delete")
    assert data.changes[-1].after is None


@pytest.mark.parametrize(("release", "says"), [("r9", "no release 'r9'"), (None, "has had no release yet")])
def test_a_release_that_never_was_is_not_found(release: str | None, says: str) -> None:
    world = a_world("churn-v1")
    with pytest.raises(NotFound, match=says):
        gather(world.context, "churn", release)


def test_an_endpoint_that_never_was_is_not_found() -> None:
    with pytest.raises(NotFound, match="there is no endpoint 'churm'"):
        gather(a_world("churn-v1").context, "churm")


def test_the_objects_before_and_after_are_in_it() -> None:
    world = kept(with_canary())
    run = str(gather(world.context, "churn").run)
    first = gather(world.context, "churn").changes[0]
    before = {"kind": "VirtualService", "metadata": {"name": "churn"}, "spec": {}}
    world.runs.keep(run, texts={f"changes/{first.sequence:06d}-{first.id}/before.json": json.dumps(before)})
    data = gather(world.context, "churn")
    assert data.before == before
    assert data.after == world.cluster.get("VirtualService", "churn")
