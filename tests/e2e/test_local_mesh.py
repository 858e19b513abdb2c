"""Traffic through the local mesh with real Envoy: what a caller of an endpoint sees."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import pytest
from scipy.stats import binom

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.basics.objects import Object
from tests.contract.cluster_contract import request
from tests.contract.model_server import deployment
from tests.e2e.mesh_calls import admin, answers, serve, shift, until
from tests.e2e.mesh_load import Load

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("share", [10, 50, 1])
def test_a_split_is_inside_its_binomial_bounds(shared: LocalMesh, endpoint: str, share: int) -> None:
    """Bounds that an exact split leaves once in a hundred thousand times, over all the requests of this test."""
    a, b = f"{endpoint}-a", f"{endpoint}-b"
    serve(shared, endpoint, {a: 100 - share, b: share})
    count = 4000
    seen = Counter(answers(shared, endpoint, count))
    assert set(seen) <= {(200, f"m/{a}"), (200, f"m/{b}")}
    low, high = binom.interval(0.99999, count, share / 100)
    assert low <= seen[(200, f"m/{b}")] <= high


def test_a_mirror_gets_the_same_request_id_and_its_answer_is_nobodys(shared: LocalMesh, endpoint: str) -> None:
    a, b = f"{endpoint}-a", f"{endpoint}-b"
    mirror = {"destination": {"host": endpoint, "subset": b}, "percentage": {"value": 100.0}}
    serve(shared, endpoint, {a: 100, b: 0}, mirrors=[mirror])
    ids = [f"request-{number}" for number in range(20)]
    for one in ids:
        status, headers, _ = request(shared, endpoint, headers={"x-request-id": one})
        assert (status, headers["x-mlflow-deployment"]) == (200, a)

    def seen(name: str) -> list[str]:
        _, _, body = request(shared, endpoint, path="/seen", headers={"x-mlflow-deployment": name})
        return [one for one in json.loads(body) if one in ids]

    until(lambda: len(seen(b)) == len(ids))
    assert sorted(seen(b)) == sorted(seen(a)) == sorted(ids)


def test_a_mirror_of_a_share_gets_about_that_share(shared: LocalMesh, endpoint: str) -> None:
    a, b = f"{endpoint}-a", f"{endpoint}-b"
    mirror = {"destination": {"host": endpoint, "subset": b}, "percentage": {"value": 25.0}}
    serve(shared, endpoint, {a: 100, b: 0}, mirrors=[mirror])
    count = 2000
    assert set(answers(shared, endpoint, count)) == {(200, f"m/{a}")}

    def mirrored() -> int:
        _, _, body = request(shared, endpoint, path="/seen", headers={"x-mlflow-deployment": b})
        return len(json.loads(body))

    low, high = binom.interval(0.99999, count, 0.25)
    until(lambda: mirrored() >= low)
    assert mirrored() <= high


def test_requests_without_an_id_get_one(shared: LocalMesh, endpoint: str) -> None:
    serve(shared, endpoint, {f"{endpoint}-a": 100})
    _, _, body = request(shared, endpoint, path="/headers")
    assert len(json.loads(body)["x-request-id"]) == 36


def test_header_and_cookie_routes_choose_the_arm(shared: LocalMesh, endpoint: str) -> None:
    a, b = f"{endpoint}-a", f"{endpoint}-b"
    to_b = [{"destination": {"host": endpoint, "subset": b}}]
    arm = {
        "name": f"mlflow-istio.{endpoint}.arm.{b}",
        "match": [
            {"headers": {"x-arm": {"exact": "r1.b"}}},
            {"headers": {"cookie": {"regex": r"^(.*;\s*)?mlflow-arm=r1\.b(\s*;.*)?$"}}},
        ],
        "route": to_b,
    }
    serve(shared, endpoint, {a: 100, b: 0}, arm)
    table = [
        ({}, a),
        ({"x-arm": "r1.b"}, b),
        ({"x-arm": "r1.bb"}, a),
        ({"cookie": "mlflow-arm=r1.b"}, b),
        ({"cookie": "session=1; mlflow-arm=r1.b; other=2"}, b),
        ({"cookie": "mlflow-arm=r2.b"}, a),
        ({"cookie": "not-mlflow-arm=r1.b"}, a),
        ({"x-mlflow-deployment": b}, b),
    ]
    for headers, expected in table:
        _, seen, _ = request(shared, endpoint, headers=headers)
        assert seen["x-mlflow-deployment"] == expected, headers


def test_each_arm_of_a_split_sets_its_own_cookie(shared: LocalMesh, endpoint: str) -> None:
    a, b = f"{endpoint}-a", f"{endpoint}-b"
    serve(shared, endpoint, {a: 50, b: 50})
    split = [
        {
            "destination": {"host": endpoint, "subset": name},
            "weight": 50,
            "headers": {"response": {"add": {"set-cookie": f"mlflow-arm={name}; Path=/; SameSite=Lax"}}},
        }
        for name in (a, b)
    ]
    shift(shared, endpoint, "sticky", {a: 50, b: 50}, {"name": "sticky", "route": split})
    seen = set()
    for _ in range(60):
        _, headers, _ = request(shared, endpoint)
        seen.add((headers["x-mlflow-deployment"], headers["set-cookie"]))
    assert seen == {(name, f"mlflow-arm={name}; Path=/; SameSite=Lax") for name in (a, b)}


def test_a_route_carries_out_all_it_says(shared: LocalMesh, endpoint: str) -> None:
    """Each part of a route that is translated is seen in a request, so that none is translated into nothing."""
    a = f"{endpoint}-a"
    to_a = [{"destination": {"host": endpoint, "subset": a}}]

    def by(value: str, **route: Any) -> Object:
        return {"match": [{"headers": {"x-case": {"exact": value}}}], **route}

    serve(
        shared,
        endpoint,
        {a: 100},
        by("direct", directResponse={"status": 418, "body": {"string": "short"}}),
        by("redirect", redirect={"uri": "/elsewhere", "authority": "example.com", "redirectCode": 307}),
        by("prefix", match=[{"uri": {"prefix": "/old/"}}], rewrite={"uri": "/new/"}, route=to_a),
        by("regex", route=to_a, rewrite={"uriRegexRewrite": {"match": "^/v(\\d+)/", "rewrite": "/version-\\1/"}}),
        by("authority", route=to_a, rewrite={"authority": "model.example"}),
        by(
            "headers",
            route=[{**to_a[0], "headers": {"request": {"add": {"x-added": "destination"}}}}],
            headers={
                "request": {"set": {"x-set": "route"}, "remove": ["x-secret"]},
                "response": {"add": {"x-answer": "100%%"}, "remove": ["x-mlflow-deployment"]},
            },
        ),
        by("abort", route=to_a, fault={"abort": {"httpStatus": 429, "percentage": {"value": 100.0}}}),
        by("delay", route=to_a, fault={"delay": {"fixedDelay": "10ms", "percentage": {"value": 100.0}}}),
    )

    def ask(value: str, path: str = "/headers", **headers: str) -> tuple[int, dict[str, str], str]:
        return request(shared, endpoint, path=path, headers={"x-case": value, **headers})

    assert ask("direct")[::2] == (418, "short")
    status, headers, _ = ask("redirect")
    assert (status, headers["location"]) == (307, "http://example.com/elsewhere")
    assert json.loads(ask("none", "/old/headers")[2])["path"] == "/new/headers"
    assert json.loads(ask("regex", "/v2/x")[2])["path"] == "/version-2/x"
    assert json.loads(ask("authority")[2])["host"] == "model.example"
    status, headers, body = ask("headers", **{"x-secret": "s", "x-set": "caller"})
    got = json.loads(body)
    assert (got["x-set"], got["x-added"], "x-secret" in got) == ("route", "destination", False)
    assert headers["x-answer"] == "100%"
    assert "x-mlflow-deployment" not in headers
    assert ask("abort")[0] == 429
    assert ask("delay")[0] == 200
    assert f"http.{endpoint}.fault.delays_injected: 1\n" in admin(shared, "/stats?filter=delays_injected")


def test_a_timeout_ends_a_slow_request_and_without_one_it_runs(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    shared.apply(deployment(endpoint, a, version=f"m/{a}", mode="slow"))
    shared.wait_ready(a, 120)
    assert request(shared, endpoint)[0] == 200
    shift(shared, endpoint, "impatient", {a: 100}, timeout="50ms")
    assert request(shared, endpoint)[0] == 504


def test_retries_are_istios_by_default_and_the_given_ones_otherwise(shared: LocalMesh, endpoint: str) -> None:
    a = f"{endpoint}-a"
    serve(shared, endpoint, {a: 100})
    shared.apply(deployment(endpoint, a, version=f"m/{a}", mode="broken"))
    shared.wait_ready(a, 120)

    def attempts(request_id: str) -> int:
        assert request(shared, endpoint, headers={"x-request-id": request_id})[0] == 500
        _, _, body = request(shared, endpoint, path="/seen")
        return int(json.loads(body).count(request_id))

    assert attempts("once") == 1
    shift(shared, endpoint, "again", {a: 100}, retries={"attempts": 3, "retryOn": "5xx"})
    assert attempts("more") == 4


def test_no_request_fails_while_weights_change(shared: LocalMesh, endpoint: str) -> None:
    a, b = f"{endpoint}-a", f"{endpoint}-b"
    serve(shared, endpoint, {a: 100, b: 0})
    with Load(shared, endpoint) as load:
        for number in itertools.count():
            weight = (0, 100, 50, 10)[number % 4]
            shift(shared, endpoint, f"change-{number}", {a: 100 - weight, b: weight})
            if load.count > 2500 and number >= 20:
                break
    assert not load.failures
    assert set(load.versions) == {f"m/{a}", f"m/{b}"}
