"""The four strategies, shown by real requests through real Envoy and real model servers."""

from __future__ import annotations

import pytest
import requests
from mlflow.exceptions import MlflowException

from tests.scenarios.place import VERSION, Place, inside_bounds


def test_a_canary_gets_its_weight_then_all_of_it_and_goes_back_in_one_edit(settled: Place) -> None:
    settled.do(strategy="canary", candidate="m-v2", weight=10, reason="better")
    seen = settled.send(1000)
    assert not seen.failures
    assert inside_bounds(seen.versions["m/2"], 1000, 0.10)
    assert settled.tags(1) | {"release": ""} == {"weight": "90", "role": "stable", "strategy": "canary", "release": ""}
    assert (settled.tags(2)["weight"], settled.tags(2)["role"]) == ("10", "candidate")
    assert settled.aliases() == {"champion": 1, "challenger": 2}

    settled.do(weight=50)
    assert inside_bounds(settled.send(1000).versions["m/2"], 1000, 0.50)

    promoted = settled.do(action="promote")
    assert promoted["traffic"] == {"m-v2": 100}
    assert settled.send(200).versions == {"m/2": 200}
    assert settled.aliases() == {"champion": 2}

    back = settled.do(action="rollback", reason="second thoughts")
    assert back["traffic"] == {"m-v1": 100}
    assert settled.send(200).versions == {"m/1": 200}
    assert settled.aliases() == {"champion": 1}
    assert settled.tags(2) == {"weight": "0", "role": "idle"}

    last = settled.client.history("m")[-4:]
    assert [change["action"] for change in last] == ["start", "shift", "promote", "rollback"]
    assert [change["after"] for change in last] == [
        {"m-v1": 90, "m-v2": 10},
        {"m-v1": 50, "m-v2": 50},
        {"m-v2": 100},
        {"m-v1": 100},
    ]
    assert len({change["release"] for change in last}) == 1
    assert last[-1]["reason"] == "second thoughts"


@pytest.mark.parametrize("weight", [1, 10, 50, 99])
def test_the_split_seen_is_the_split_asked_for(settled: Place, weight: int) -> None:
    settled.do(strategy="canary", candidate="m-v3", weight=weight)
    seen = settled.send(3000)
    assert not seen.failures
    assert inside_bounds(seen.versions["m/3"], 3000, weight / 100)


def test_users_assigned_by_header_stay_on_their_arm(settled: Place) -> None:
    settled.do(strategy="ab", candidate="m-v2", weight=30, header="x-arm")
    users = [f"user-{number}" for number in range(300)]
    arms = {user: settled.client.assign("m", user) for user in users}
    seen = {user: settled.ask(arms[user]).headers[VERSION] for user in users}
    assert inside_bounds(sum(version == "m/2" for version in seen.values()), len(users), 0.30)
    again = {user: settled.ask(settled.client.assign("m", user)).headers[VERSION] for user in users[:40]}
    assert again == {user: seen[user] for user in users[:40]}


def test_three_arms_by_cookie_stick_for_everyone_and_end_with_the_release(settled: Place) -> None:
    settled.do(
        strategy="ab",
        candidate="m-v2,m-v3",
        weights='{"m-v1": 40, "m-v2": 30, "m-v3": 30}',
        cookie="arm",
    )
    url, headers = settled.url()
    first_seen = []
    for _ in range(60):
        with requests.Session() as browser:
            first = browser.get(f"{url}/ping", headers=headers, timeout=60).headers[VERSION]
            rest = {browser.get(f"{url}/ping", headers=headers, timeout=60).headers[VERSION] for _ in range(5)}
            assert rest == {first}
            first_seen.append(first)
            cookie = browser.cookies.get("arm")
    assert set(first_seen) == {"m/1", "m/2", "m/3"}

    settled.do(action="promote", candidate="m-v3")
    assert settled.ask({"cookie": f"arm={cookie}"}).headers[VERSION] == "m/3"


def test_own_header_values_name_the_arms(settled: Place) -> None:
    settled.do(strategy="ab", candidate="m-v2", header="x-group", values='{"m-v2": "beta"}')
    assert settled.send(20, {"x-group": "beta"}).versions == {"m/2": 20}
    assert settled.send(20, {"x-group": "other"}).versions == {"m/1": 20}
    assert settled.send(20).versions == {"m/1": 20}


def test_blue_green_moves_everyone_at_once_and_loses_no_request(settled: Place) -> None:
    settled.do(strategy="blue-green", candidate="m-v2")
    assert settled.send(50).versions == {"m/1": 50}
    with settled.load() as seen:
        settled.do(action="promote")
        assert settled.send(50).versions == {"m/2": 50}
        settled.do(action="rollback")
        assert settled.send(50).versions == {"m/1": 50}
    assert not seen.failures
    assert set(seen.versions) == {"m/1", "m/2"}


@pytest.mark.parametrize(("option", "share"), [({}, 1.0), ({"mirror": 30}, 0.3)])
def test_a_shadow_gets_copies_that_no_user_sees(settled: Place, option: dict[str, int], share: float) -> None:
    settled.do(strategy="shadow", candidate="m-v2", **option)
    before = settled.counted("m-v2")
    seen = settled.send(300, score=True)
    assert seen.versions == {"m/1": 300}
    # a mirror is sent without waiting for it: the last copies may still be on their way
    for _ in range(100):
        copies = settled.counted("m-v2") - before
        if copies >= 300 * share:
            break
    assert copies == 300 if share == 1.0 else inside_bounds(int(copies), 300, share)
    settled.do(action="abort")
    after = settled.counted("m-v2")
    settled.send(50, score=True)
    assert settled.counted("m-v2") == after


def test_a_header_reaches_a_version_that_has_no_traffic(settled: Place) -> None:
    found = settled.client.get_deployment("m-v3")
    assert found["weight"] == 0
    answer = requests.post(
        f"{found['url']}/invocations", json={"inputs": [[1.0, 2.0]]}, headers=found["headers"], timeout=60
    )
    assert answer.json() == {"predictions": [3.0]}
    assert answer.headers[VERSION] == "m/3"
    assert settled.client.predict("m-v3", [[1.0, 2.0]])["predictions"] == [3.0]
    assert settled.client.predict(inputs=[[1.0, 2.0]], endpoint="m")["predictions"] == [1.0]


def test_a_release_that_is_open_is_named_when_a_second_is_asked_for(settled: Place) -> None:
    first = settled.do(strategy="canary", candidate="m-v2", weight=10)["release"]["id"]
    with pytest.raises(MlflowException, match=first):
        settled.do(strategy="canary", candidate="m-v3", weight=10)
    assert settled.client.get_endpoint("m")["traffic"] == {"m-v1": 90, "m-v2": 10}


def test_superseding_returns_traffic_to_stable_first(settled: Place) -> None:
    settled.do(strategy="canary", candidate="m-v2", weight=40)
    found = settled.do(strategy="canary", candidate="m-v3", weight=10, supersede=True)
    assert found["traffic"] == {"m-v1": 90, "m-v3": 10}
    steps = settled.client.history("m")[-2:]
    assert [(step["action"], step["after"]) for step in steps] == [
        ("supersede", {"m-v1": 100}),
        ("start", {"m-v1": 90, "m-v3": 10}),
    ]
    assert settled.send(300).versions.keys() <= {"m/1", "m/3"}


def test_a_pause_leaves_the_traffic_alone(settled: Place) -> None:
    settled.do(strategy="canary", candidate="m-v2", weight=25)
    assert settled.do(action="pause")["release"]["state"] == "paused"
    found = settled.do(action="resume")
    assert (found["release"]["state"], found["traffic"]) == ("open", {"m-v1": 75, "m-v2": 25})


def test_every_verb_given_twice_does_its_work_once(settled: Place) -> None:
    for config in (
        {"strategy": "canary", "candidate": "m-v2", "weight": 10},
        {"weight": 30},
        {"action": "promote"},
        {"action": "rollback"},
    ):
        once = settled.do(**config)
        twice = settled.do(**config)
        assert (twice["change"], twice["traffic"]) == (once["change"], once["traffic"])


def test_a_dry_run_shows_the_difference_and_changes_nothing(settled: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = settled.client.get_endpoint("m")
    settled.do(strategy="canary", candidate="m-v2", weight=15, dry_run=True)
    shown = capsys.readouterr().out
    assert "+      weight: 15" in shown
    assert settled.client.get_endpoint("m") == before


def test_a_registry_that_is_down_does_not_block_a_rollback_and_loses_nothing(settled: Place) -> None:
    settled.do(strategy="canary", candidate="m-v2", weight=20)
    dead = {"tracking_uri": "http://127.0.0.1:9", "registry_uri": "http://127.0.0.1:9"}
    found = settled.do(action="rollback", reason="now", **dead)
    assert (found["traffic"], found["unrecorded"]) == ({"m-v1": 100}, 1)
    assert settled.send(100).versions == {"m/1": 100}
    last = settled.client.history("m")[-1]
    assert (last["action"], last["reason"]) == ("rollback", "now")
    assert settled.client.get_endpoint("m")["unrecorded"] == 0


def test_what_has_traffic_is_not_deleted(settled: Place) -> None:
    settled.do(strategy="canary", candidate="m-v2", weight=20)
    for name, why in (("m-v2", "has traffic"), ("m-v1", "is stable")):
        with pytest.raises(MlflowException, match=why):
            settled.client.delete_deployment(name)
    assert not settled.send(100).failures


def test_scaling_loses_no_request(settled: Place) -> None:
    with settled.load() as seen:
        settled.client.update_deployment("m-v1", config={"replicas": 2})
        assert settled.client.get_deployment("m-v1")["ready"] == 2
        settled.client.update_deployment("m-v1", config={"replicas": 1})
    assert not seen.failures
    assert settled.client.get_deployment("m-v1")["replicas"] == 1
