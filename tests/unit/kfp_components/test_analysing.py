"""Steps that look at an open release: how long, at which one, and what they say."""

from typing import Any

import pytest

from kfp_components import analysing
from mlflow_istio.errors import InvalidInput, MetricsError, StateConflict

OPEN = {"release": {"id": "job-1"}, "last_release": None, "stable": "churn-v1"}
ENDED = {"release": None, "last_release": {"id": "job-1", "outcome": "promoted"}, "stable": "churn-v2"}


def look(outcome: str, looks: int = 1) -> dict[str, Any]:
    arm = {"name": "churn-v2", "role": "challenger", "weight": 50, "requests": 7}
    interval = {"estimate": 1.25, "lower": 1.1, "upper": None}
    return {
        "looks": looks,
        "outcome": outcome,
        "winner": "churn-v2" if outcome == "winner" else None,
        "reason": "a | b",
        "kpi": "bought",
        "arms": [{**arm, **interval}],
    }


def verdict(word: str) -> dict[str, Any]:
    row = {
        "request_id": "r1",
        "difference": 2.0,
        "note": "",
        "stable_output": [1],
        "candidate_output": [3],
        "input": "x|y",
    }
    return {"verdict": {"word": word, "reason": "so"}, "terms": "Compared.", "figures": {}, "most_different": [row]}


class Asked:
    """Verbs that answer in turn; the last answer stays."""

    def __init__(self, view: dict[str, Any], *answers: Any) -> None:
        self.view, self.answers, self.sent = view, list(answers), list[dict[str, Any]]()

    def endpoint(self, name: str) -> dict[str, Any]:
        return {"name": name, **self.view}

    def analyse(self, name: str, config: dict[str, Any]) -> Any:
        self.sent.append(config)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    compare = analyse

    def declare(self, name: str, config: dict[str, Any]) -> Any:
        self.sent.append(config)
        return type("Result", (), {"view": {"name": name, "stable": "churn-v2"}})


def analyse(monkeypatch: pytest.MonkeyPatch, asked: Asked, **changes: Any) -> Any:
    monkeypatch.setattr(analysing, "verbs_of", lambda target: asked)
    options: dict[str, Any] = {"release_id": "job-1", "options": {}, "minutes": 0.005, "seconds": 0.01}
    return analysing.analyse("istio-local", "churn", **{**options, **changes})


@pytest.mark.parametrize(
    ("answers", "minutes", "outcome", "looks"),
    [
        ([look("winner")], 1.0, "winner", 1),
        ([look("inconclusive"), MetricsError("down"), look("no difference")], 1.0, "no difference", 3),
        ([look("inconclusive"), look("winner")], 0.0, "inconclusive", 1),
        ([look("inconclusive")], 0.002, "inconclusive", None),
    ],
)
def test_it_looks_until_an_outcome_or_the_end_of_its_time(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], minutes: float, outcome: str, looks: int | None
) -> None:
    asked = Asked(OPEN, *answers)
    assert analyse(monkeypatch, asked, minutes=minutes)["outcome"] == outcome
    assert len(asked.sent) == looks or (looks is None and len(asked.sent) > 1)


def test_a_source_that_stays_away_is_the_steps_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MetricsError, match="down"):
        analyse(monkeypatch, Asked(OPEN, MetricsError("down")))


def test_a_mistake_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(OPEN, StateConflict("no A/B/n release"))
    with pytest.raises(StateConflict):
        analyse(monkeypatch, asked, minutes=1.0)
    assert len(asked.sent) == 1


@pytest.mark.parametrize(("view", "words"), [(ENDED, "none is"), ({"release": {"id": "job-2"}}, "'job-2' is")])
def test_another_release_is_never_looked_at_in_its_place(
    monkeypatch: pytest.MonkeyPatch, view: dict[str, Any], words: str
) -> None:
    asked = Asked(view, look("winner"))
    with pytest.raises(StateConflict, match=f"release 'job-1' of endpoint 'churn' is not open: {words}"):
        analyse(monkeypatch, asked)
    assert not asked.sent


def test_a_comparison_that_is_still_waiting_at_the_end_is_made_final(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(OPEN, verdict("hold"), verdict("hold"), verdict("inconclusive"))
    monkeypatch.setattr(analysing, "verbs_of", lambda target: asked)
    given: dict[str, Any] = {"release_id": "job-1", "options": {"relative": 0.1}, "minutes": 0.0, "seconds": 0.01}
    asked.answers = [verdict("hold"), verdict("inconclusive")]
    assert analysing.compare("istio-local", "churn", **given)["verdict"]["word"] == "inconclusive"
    assert asked.sent == [{"relative": 0.1}, {"relative": 0.1, "final": True}]


def test_a_declaration_that_was_made_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"release_id": "job-1", "winner": "churn-v2", "options": {}, "reason": "sold more"}
    for view, sent in ((OPEN, [{"winner": "churn-v2", "reason": "sold more"}]), (ENDED, [])):
        asked = Asked(view)
        monkeypatch.setattr(analysing, "verbs_of", lambda target, asked=asked: asked)
        assert analysing.declare("istio-local", "churn", **given)["stable"] == "churn-v2"
        assert asked.sent == sent
    with pytest.raises(StateConflict, match="'job-9' of endpoint 'churn' is not open"):
        analysing.declare("istio-local", "churn", **{**given, "release_id": "job-9"})


def test_tables_and_figures_survive_what_is_missing_and_bars_in_texts() -> None:
    assert analysing.arms_figures(look("winner")) == {
        "churn-v2/requests": 7.0,
        "churn-v2/estimate": 1.25,
        "churn-v2/lower": 1.1,
    }
    view = look("winner")
    view["arms"][0]["upper"] = 1.5
    table = analysing.arms_table(view)
    assert "**winner**: a \\| b" in table
    assert "| churn-v2 (challenger) | 50 | 7 | 1.25 | 1.1 to 1.5 |" in table
    assert "x\\|y" in analysing.differences_table(verdict("rollback"))
    dropped = {"churn-v1": {}, "churn-v2": {"backlog": 1200}}
    told = analysing.differences_table({**verdict("hold"), "dropped": dropped})
    assert "Not recorded by churn-v2 since its recorders started: 1,200 backlog\n\n|" in told
    assert "churn-v1" not in told
    assert (
        analysing.differences_table({**verdict("advance"), "most_different": []}) == "**advance**: so\n\nCompared.\n\n"
    )


@pytest.mark.parametrize("given", [{"wait_minutes": -1.0}, {"poll_seconds": 0.0}])
def test_a_wait_that_cant_be_is_refused(given: dict[str, float]) -> None:
    from kfp_components.inputs import check_waiting

    with pytest.raises(InvalidInput, match=next(iter(given))):
        check_waiting(given)
