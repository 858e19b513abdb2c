"""``mlflow_istio.testing.replay``: a release by its options on counts of yours."""

from __future__ import annotations

import doctest
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mlflow_istio.errors import InvalidInput
from mlflow_istio.testing import Counts, replay, replays


def equal_versions(_look: int, weights: Mapping[str, float], *, rate: int = 3000, errors: float = 0.01) -> Any:
    """Both answer alike."""
    rng = np.random.default_rng(_look)
    given = {}
    for name, weight in weights.items():
        requests = int(rng.binomial(rate, weight / 100))
        slow = int(rng.binomial(requests, 0.3))
        given[name] = Counts(
            requests=requests,
            errors=int(rng.binomial(requests, errors)),
            slower_than={100: slow, 250: slow // 5, 1000: slow // 50},
        )
    return given


def test_its_example_is_true() -> None:
    assert doctest.testmod(replays).failed == 0
    assert doctest.testmod(replays).attempted > 0


@pytest.mark.parametrize(
    "config",
    [
        {"steps": "10,50", "interval": "20", "hold": "0", "warmup": "40", "allowed": "2.5"},
        {"steps": [10, 50], "interval": 20, "hold": 0, "warmup": 40.0, "allowed": 2.5},
    ],
)
def test_options_are_texts_or_values(config: Mapping[str, Any]) -> None:
    ended = replay(config, equal_versions, looks=1000)
    assert ended.outcome == "promoted"
    assert set(ended.proven) == {"errors", "latency"}


def test_the_names_are_the_callers_and_the_defaults_are_those_of_release() -> None:
    seen = []

    def traffic(look: int, weights: Mapping[str, float]) -> Any:
        seen.append(dict(weights))
        return equal_versions(look, weights)

    replay(None, traffic, looks=2, stable="churn-v1", candidate="churn-v2")
    assert seen == [{"churn-v1": 100, "churn-v2": 0}, {"churn-v1": 95, "churn-v2": 5}]


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ISTIO_STEPS", "40,50")
    seen = []
    replay({}, lambda _look, weights: seen.append(dict(weights)) or {}, looks=2)
    assert seen[1] == {"stable": 95, "candidate": 5}


def test_options_of_the_place_are_read_and_change_nothing() -> None:
    plain = replay({"interval": 20}, equal_versions, looks=40)
    placed = {"replicas": 3, "image": "mine", "reason": "why", "metrics": "none", "gateway": "istio-system/gateway"}
    assert replay({"interval": 20, **placed}, equal_versions, looks=40) == plain


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"step": "5"}, "unknown option 'step': did you mean 'steps'"),
        ({"interval": "often"}, "option 'interval' can't be 'often'"),
        ({"image": ["x"], "steps": "5"}, "option 'image' can't be ['x']"),
        ({"candidate": "v2"}, "option 'candidate' has no effect on a replay: give the argument 'candidate'"),
        ({"name": "v2"}, "option 'name' has no effect on a replay: give the argument 'candidate'"),
        ({"weight": 5}, "option 'weight' has no effect on 'release'"),
        ({"strategy": "shadow"}, "strategy=shadow can't be replayed"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(config: Mapping[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        replay(config, equal_versions, looks=9)
    assert refused.value.message.startswith(words)
    assert "\n" not in refused.value.message


def test_two_versions_have_two_names() -> None:
    with pytest.raises(InvalidInput, match="both called 'stable'"):
        replay({}, equal_versions, looks=9, candidate="stable")


def test_a_healthy_blue_green_is_promoted_by_default_and_a_broken_one_is_back_in_two_looks() -> None:
    """After the switch all users are on the candidate: there is nothing to compare with, and nobody waits for blocks."""
    rng = np.random.default_rng(3)

    def traffic(failing: float) -> Any:
        def counted(_look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
            who = "candidate" if weights["candidate"] else "stable"
            slow = int(rng.binomial(300, 0.05))
            failed = int(rng.binomial(300, failing if who == "candidate" else 0.0))
            none = Counts(requests=0, errors=0, slower_than={100: 0})
            return {
                "stable": none,
                "candidate": none,
                who: Counts(requests=300, errors=failed, slower_than={100: slow}),
            }

        return counted

    good = replay({"strategy": "blue-green"}, traffic(0.0), looks=400)
    assert (good.outcome, good.look < 60) == ("promoted", True)
    bad = replay({"strategy": "blue-green"}, traffic(0.6), looks=400)
    assert bad.outcome == "rolled-back"
    assert bad.look <= 14


def test_a_traffic_that_changes_its_weights_changes_nothing() -> None:
    def traffic(_look: int, weights: Any) -> dict[str, Counts]:
        counts = {name: Counts(requests=3 * int(weight)) for name, weight in weights.items()}
        weights.clear()
        return counts

    found = replay({"analysis": "none", "steps": "50", "hold": 10, "warmup": 0}, traffic, looks=9)
    assert found.outcome == "promoted"


def test_kpis_that_are_none_are_refused_by_look_and_name() -> None:
    with pytest.raises(InvalidInput, match=r"look 1.*kpi must be KPIs' names with their counts, not None"):
        replay({}, lambda _look, _weights: {"stable": Counts(requests=1, kpi=None)}, looks=2)  # type: ignore[arg-type]


def booked_late(seed: int) -> Any:
    """Equal versions whose buyers are booked at the look after their visit."""
    rng = np.random.default_rng(seed)
    booked = {"stable": 0, "candidate": 0}

    def traffic(_look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        given = {}
        for name, weight in weights.items():
            visits = int(rng.binomial(600, weight / 100))
            given[name] = Counts(requests=visits, slower_than={100: 0}, kpi={"bought": (visits, booked[name])})
            booked[name] = int(rng.binomial(visits, 0.3))
        return given

    return traffic


@pytest.mark.parametrize("phase", [0, 60])
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_late_events_of_an_equal_version_decide_nothing_while_the_weights_change(phase: float, better: str) -> None:
    """What comes a look after its observation is of the shares before; with more at each step that looked like fewer buyers."""
    queries = {part: f"{part}{{d='$deployment'}}" for part in ("n", "events")}
    config = {"phase": phase, "label_delay": 10, "kpi": {"bought": {"queries": queries, "better": better}}}
    for seed in range(5):
        found = replay(config, booked_late(seed), looks=150)
        assert found.outcome != "rolled-back", (seed, found)
        lower, upper = found.proven["bought"]
        assert lower <= 1 <= upper


def test_a_control_is_among_the_percents_and_must_be_among_the_counts() -> None:
    seen: list[dict[str, float]] = []

    def traffic(look: int, weights: Mapping[str, float]) -> Any:
        seen.append(dict(weights))
        return equal_versions(look, weights)

    config = {"steps": "20,75", "interval": 20, "hold": 0, "warmup": 40, "allowed": 2.5, "control": "fresh"}
    replay(config, traffic, looks=200)
    assert {"stable": 60, "candidate": 20, "control": 20} in seen
    assert {"stable": 0, "candidate": 75, "control": 25} in seen
    assert seen[0] == {"stable": 100, "candidate": 0, "control": 0}
    assert replay({**config, "steps": "20,50"}, equal_versions, looks=1000).outcome == "promoted"


@pytest.mark.parametrize(
    ("config", "given", "words"),
    [
        (
            {"control": "fresh"},
            ("stable", "candidate"),
            "no counts of 'control', the control, which has 5% of the traffic",
        ),
        ({}, ("stable", "candidate", "control"), "look 2: traffic gave counts of 'control'"),
        ({"control": "none"}, ("stable", "candidate", "control"), "look 2: traffic gave counts of 'control'"),
    ],
)
def test_a_control_that_is_missing_or_one_too_many_is_named(
    config: Mapping[str, Any], given: tuple[str, ...], words: str
) -> None:
    def traffic(look: int, weights: Mapping[str, float]) -> Any:
        names = given if look > 1 else ("stable",)
        return {name: Counts(requests=10, slower_than={100: 0}) for name in names}

    with pytest.raises(InvalidInput, match=words):
        replay(config, traffic, looks=5)


@pytest.mark.parametrize("config", ["steps=5", 5, [("steps", "5")]])
def test_options_are_names_with_values(config: Any) -> None:
    with pytest.raises(InvalidInput, match="config must be names of options with their values, not "):
        replay(config, equal_versions, looks=1)


@pytest.mark.parametrize("name", ["", None, 5])
@pytest.mark.parametrize("what", ["stable", "candidate", "control"])
def test_a_name_is_a_text(what: str, name: Any) -> None:
    with pytest.raises(InvalidInput, match=f"the name of the {what} must be a text, not {name!r}"):
        replay({}, equal_versions, looks=1, **{what: name})


def test_an_option_whose_name_is_no_text_is_named() -> None:
    with pytest.raises(InvalidInput, match="unknown option '5': known: "):
        replay({5: 6}, equal_versions, looks=1)  # type: ignore[dict-item]


@pytest.mark.parametrize("config", [{}, {"phase": 0}])
@pytest.mark.parametrize("requests", [10**6, 10**13, 9 * 10**15])
def test_equal_versions_are_not_told_apart_however_many_requests_there_are(
    config: Mapping[str, Any], requests: int
) -> None:
    """What the likelihood is off by grows with the counts: an interval must be wider by it, and is there."""

    def traffic(_look: int, weights: Mapping[str, float]) -> Any:
        given = {}
        for name, percent in weights.items():
            answers = int(requests * percent) // 100
            given[name] = Counts(requests=answers, errors=answers // 100, slower_than={100: answers // 10})
        return given

    ended = replay(config, traffic, looks=60)
    assert ended.outcome in ("open", "promoted")
    assert all(low <= 1 <= high for low, high in ended.proven.values())


def test_three_names_are_three() -> None:
    with pytest.raises(InvalidInput, match="the control is called 'candidate' like another"):
        replay({}, equal_versions, looks=1, control="candidate")


def test_only_a_control_compares_an_overloaded_stable_with_like() -> None:
    """One replica each: at 20% the stable's has four times the load, and five times as many slow answers for it."""

    def traffic(look: int, weights: Mapping[str, float]) -> Any:
        rng = np.random.default_rng(look)
        given = {}
        for name, weight in weights.items():
            requests = int(rng.binomial(3000, weight / 100))
            slow = (0.05 + 0.3 * weight / 100) * (1.6 if name == "candidate" else 1.0)
            given[name] = Counts(requests=requests, slower_than={100: int(rng.binomial(requests, slow))})
        return given

    config = {"steps": "20", "interval": 10, "phase": 0, "analysis": [{"guard": "latency", "edges": [100]}]}
    assert replay({**config, "control": "fresh"}, traffic, looks=200).outcome == "rolled-back"
    assert replay({**config, "control": "none"}, traffic, looks=200).outcome != "rolled-back"
