"""What ``explain-route`` says is what the real proxy does."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.scenarios.place import VERSION, Place, inside_bounds

SETUPS: dict[str, dict[str, Any]] = {
    "nothing open": {},
    "a canary": {"strategy": "canary", "candidate": "m-v2", "weight": 30},
    "an A/B release by header": {"strategy": "ab", "candidate": "m-v2", "weight": 30, "header": "x-arm"},
    "an A/B/C release by cookie": {
        "strategy": "ab",
        "candidate": "m-v2,m-v3",
        "weights": {"m-v1": 40, "m-v2": 30, "m-v3": 30},
        "cookie": "arm",
    },
    "a shadow": {"strategy": "shadow", "candidate": "m-v3"},
}
COUNT = 200


def questions(place: Place) -> list[dict[str, Any]]:
    """Requests of all kinds; with an A/B release open, those of assigned users and of stale and foreign cookies, too."""
    asked: list[dict[str, Any]] = [
        {"path": "/ping"},
        {"path": "/ping?a=b", "headers": {"x-user": "ann"}},
        {"path": "/v1/../ping"},
        {"path": "/ping", "headers": {"x-mlflow-deployment": "m-v3"}},
        {"path": "/ping", "headers": {"X-MLFLOW-Deployment": "m-v1", "x-arm": "other"}},
        {"path": "/ping", "headers": {"x-mlflow-deployment": "m-v9"}},
        {"path": "/ping", "headers": {"x-mlflow-deployment": "M-V1"}},
    ]
    release = place.client.get_endpoint("m")["release"] or {}
    if "assignment" in release:
        name, values = release["assignment"]["name"], release["assignment"]["values"]
        kind = "headers" if release["assignment"]["kind"] == "header" else "cookies"
        asked += [{"path": "/ping", "user": user} for user in ("ann", "bob", "cid", "dan")]
        asked += [{"path": "/ping", kind: {name: value}} for value in values.values()]
        asked += [{"path": "/ping", kind: {name: f"stale.{deployment}"}} for deployment in values]
        asked += [{"path": "/ping", kind: {name: f"{value}x"}} for value in values.values()]
        pinned = {"headers": {"x-mlflow-deployment": "m-v1", **({name: values["m-v2"]} if kind == "headers" else {})}}
        asked.append({"path": "/ping", kind: {name: values["m-v2"]}, **pinned})
        if kind == "cookies":
            asked.append({"path": "/ping", "headers": {"cookie": f"a=1; {name}={values['m-v2']}; b=2"}})
            asked.append({"path": "/ping", "headers": {"cookie": f"not{name}={values['m-v2']}"}})
    return asked


def answered(place: Place, view: dict[str, Any], path: str, count: int) -> dict[str, int]:
    """Who answers the request that was explained, by the version header."""
    url, own = place.url()
    seen: dict[str, int] = {}
    with requests.Session() as session:
        for _ in range(count):
            prepared = session.prepare_request(
                requests.Request("GET", url + "/ping", headers={**own, **view["request"]["headers"]})
            )
            prepared.url = url + path  # requests would resolve dots by itself
            answer = session.send(prepared, timeout=60)
            session.cookies.clear()
            version = answer.headers[VERSION]
            seen[version] = seen.get(version, 0) + 1
    return seen


@pytest.mark.parametrize("setup", SETUPS)
def test_the_explanation_is_what_the_proxy_does(settled: Place, setup: str) -> None:
    if SETUPS[setup]:
        settled.do(**SETUPS[setup])
    checked = 0
    for question in questions(settled):
        view = settled.client.explain_route("m", method="GET", **question)
        assert view["perhaps"] == []
        shares = {share["version"]: share["percent"] for share in view["answers"]}
        only = len(shares) == 1
        seen = answered(settled, view, question["path"], 5 if only else COUNT)
        assert seen.keys() <= shares.keys(), (question, view)
        if not only:
            for version, percent in shares.items():
                assert inside_bounds(seen.get(version, 0), COUNT, percent / 100), (question, seen)
        checked += 1
    assert checked >= 7
    probe = settled.client.explain_route("m", headers={"x-mlflow-istio-probe": "1"})
    answer = settled.ask({"x-mlflow-istio-probe": "1"}, "/")
    assert (probe["kind"], answer.text.strip()) == ("probe", settled.client.get_endpoint("m")["change"]["id"])
    assert probe["does"]["directResponse"]["body"]["string"] == answer.text.strip()
