"""What an open release's data say, on real requests: the arms of an A/B test, and a shadow's answers."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException

from tests.scenarios.place import BODY, VERSION, Place
from tests.testbed.client import wait_for


def artifact(place: Place, run: str, path: str) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(place.tracking_uri, place.tracking_uri)
    with open(client.download_artifacts(run, path), encoding="utf-8") as file:
        return file.read()


def metrics_of(place: Place, run: str) -> dict[str, float]:
    from mlflow import MlflowClient

    return dict(MlflowClient(place.tracking_uri, place.tracking_uri).get_run(run).data.metrics)


@pytest.fixture(autouse=True, scope="module")
def recorded(place: Place) -> None:
    """Every version records: a scenario before may have brought one back without it."""
    for version in (1, 2, 3):
        place.client.update_deployment(f"m-v{version}", config={"env": place.recording})


def compared(place: Place, pairs: int, **options: Any) -> dict[str, Any]:
    """Compare, with scoring requests going on, until so many pairs are recorded."""

    def look() -> dict[str, Any] | None:
        seen = place.send(40, score=True)
        assert not seen.failures
        found = place.client.compare("m", settle=0.5, answers="numbers", **options)
        return found if found["figures"]["shadow/compared"] >= pairs else None

    return wait_for(f"{pairs} compared requests", look)


def test_a_shadow_that_answers_alike_passes_and_one_that_does_not_is_sent_back(settled: Place) -> None:
    settled.do(strategy="shadow", candidate="m-v2")
    # Version 1 answers 1.0, version 2 answers 2.0: whether that is alike is the tolerance's to say.
    alike = compared(settled, 120, absolute=1.5, agreement=0.9)
    assert alike["verdict"]["word"] == "advance", alike["verdict"]
    assert alike["figures"]["shadow/unmatched_share"] <= 0.05
    assert alike["figures"]["shadow/difference"] == pytest.approx(1.0)
    assert alike["most_different"] == []

    other = compared(settled, 120, absolute=0.5)
    assert other["verdict"]["word"] == "rollback"
    worst = other["most_different"][0]
    assert (worst["stable_output"], worst["candidate_output"]) == ({"predictions": [1.0]}, {"predictions": [2.0]})
    assert worst["input"] is None, "inputs are recorded only where somebody asked for it"

    run = settled.client.history("m")[-1]["run"]
    assert metrics_of(settled, run)["shadow/agreement"] == 0.0
    table = list(csv.DictReader(io.StringIO(artifact(settled, run, "comparison/most-different.csv"))))
    assert json.loads(table[0]["candidate_output"]) == {"predictions": [2.0]}
    assert json.loads(artifact(settled, run, "comparison/verdict.json"))["word"] == "rollback"
    settled.do(action="abort", reason="other answers")


def test_where_a_half_is_mirrored_uncopied_requests_are_no_loss(settled: Place) -> None:
    settled.do(strategy="shadow", candidate="m-v3", mirror=50)
    found = compared(settled, 20, absolute=5)
    assert found["partial"]
    assert found["figures"]["shadow/unmatched_share"] <= 0.05


def test_without_a_shadow_there_is_nothing_to_compare(settled: Place) -> None:
    with pytest.raises(MlflowException, match="no open shadow release to compare"):
        settled.client.compare("m")


class Shop:
    """Users who come, are answered by a version, and buy or don't."""

    def __init__(self, place: Place, rates: dict[str, float]) -> None:
        self.place = place
        self.rates = rates
        self.visits: Counter[str] = Counter()
        self.bought: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()

    def visit(self, users: int, returns: int = 1) -> None:
        """New users, each with some further requests that the cookie brings to the same arm."""
        url, own = self.place.url()
        for _ in range(users):
            with requests.Session() as browser:
                versions = {
                    browser.post(f"{url}/invocations", json=BODY, headers=own, timeout=60).headers[VERSION]
                    for _ in range(1 + returns)
                }
            (version,) = versions
            arm = f"m-v{version.rpartition('/')[2]}"
            self.requests[arm] += 1 + returns
            self.visits[arm] += 1
            # Every arm's buyers are spread evenly, so that the rate is what it says.
            wanted = int(self.visits[arm] * self.rates[arm])
            self.bought[arm] = max(self.bought[arm], wanted)

    def kpi(self, deployment: str) -> tuple[float, ...] | None:
        return self.visits[deployment], self.bought[deployment]


def test_an_ab_test_finds_its_winner_by_a_kpi_and_declares_it(settled: Place) -> None:
    settled.do(strategy="ab", candidate="m-v2", weight=50, cookie="arm")
    shop = Shop(settled, {"m-v1": 0.1, "m-v2": 0.7})
    options = {
        "kpi": {"bought": {"call": shop.kpi, "better": "higher", "delta": 1.2}},
        "metrics": "envoy",
    }
    shop.visit(10)
    first = settled.client.analyse("m", **options)
    assert "base line" in first["reason"]
    before, visits = dict(shop.requests), dict(shop.visits)
    with pytest.raises(MlflowException, match="no winner to declare"):
        settled.client.declare("m", **options)

    def winner() -> dict[str, Any] | None:
        shop.visit(25)
        found = settled.client.analyse("m", **options)
        return found if found["outcome"] == "winner" else None

    found = wait_for("a winner", winner)
    assert found["winner"] == "m-v2"
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert arms["m-v1"]["lower"] <= 0.1 <= arms["m-v1"]["upper"]
    assert arms["m-v2"]["lower"] <= 0.7 <= arms["m-v2"]["upper"]
    # Envoy tells whom the split assigned from whom the cookie brought back, which is no evidence; a gateway's counts don't.
    local = settled.target == "istio-local"
    sent, before = (shop.visits, visits) if local else (shop.requests, before)
    assert {name: arm["requests"] for name, arm in arms.items()} == {
        name: sent[name] - before.get(name, 0) for name in arms
    }
    ratio = found["evidence"]["sample_ratio"]
    if settled.target == "istio-local":
        assert sum(ratio["counts"].values()) == sum(shop.visits.values()) - 10
        assert not ratio["mismatch"]
    else:
        assert ratio == {"checked": False}
        assert "could not be checked" in found["reason"]

    with pytest.raises(MlflowException, match="was 'bought' at the first look"):
        settled.client.analyse("m", metrics="envoy", randomised=True)  # at a gateway failed requests need this word
    with pytest.raises(MlflowException, match="is 'm-v2', not 'm-v1'"):
        settled.client.declare("m", "m-v1", **options)

    declared = settled.client.declare("m", reason="sold more", **options)
    assert declared["traffic"] == {"m-v2": 100}
    entry = settled.client.history("m")[-1]
    assert entry["action"] == "promote"
    assert entry["reason"].startswith("sold more (m-v2 is better than m-v1")
    assert (entry["evidence"]["outcome"], entry["evidence"]["winner"]) == ("winner", "m-v2")
    assert entry["evidence"]["arms"]["m-v2"]["estimate"] > 0.5
    assert metrics_of(settled, entry["run"])["arms/bought/m-v2"] > 0.5


def test_a_winner_by_force_needs_no_analysis_and_the_ledger_says_so(settled: Place) -> None:
    settled.do(strategy="ab", candidate="m-v3", weight=50, cookie="arm")
    broken = {"kpi": lambda _deployment: 1 / 0, "metrics": "envoy"}
    with pytest.raises(MlflowException, match="ZeroDivisionError"):
        settled.client.declare("m", "m-v3", **broken)
    with pytest.raises(MlflowException, match="'m-v2' is no arm"):
        settled.client.declare("m", "m-v2", force=True, **broken)
    settled.client.declare("m", "m-v3", force=True, **broken)
    entry = settled.client.history("m")[-1]
    assert entry["evidence"]["forced"] is True
    assert entry["reason"].startswith("declared by force")


def test_there_is_nothing_to_analyse_in_a_canary(settled: Place) -> None:
    settled.do(strategy="canary", candidate="m-v2", weight=10)
    with pytest.raises(MlflowException, match="is a canary"):
        settled.client.analyse("m", metrics="envoy")
