"""Connections to servers that close idle ones soon: the proxies close them first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.policy.settings import PolicyRequest
from mlflow_istio.core.runtime.profiles import CONTAINER, MLFLOW, MLSERVER, OPENAI, OVER_GRPC
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.releases.deploying.deployments import deploy
from mlflow_istio.releases.moving.policy import set_policy
from tests.support.in_memory import World, a_request, a_world

OWN = replace(CONTAINER, image="own", command=("serve",))


def pool(world: World) -> Any:
    return (world.cluster.get("DestinationRule", "churn") or {})["spec"].get("trafficPolicy", {}).get("connectionPool")


def deployed(world: World, runtime: Runtime, name: str = "churn-v1") -> World:
    deploy(world.context, replace(a_request(name), runtime=runtime, image="own"))
    return world


@pytest.mark.parametrize(
    ("runtime", "idle"),
    [
        (MLSERVER, "4s"),
        (OWN, "4s"),
        (replace(OWN, keep_alive=75), "60s"),
        (replace(OWN, keep_alive=1), "0.8s"),
        (replace(OWN, keep_alive=0), None),  # it closes none
        (MLFLOW, None),  # ours keeps them for longer than Envoy
        (OVER_GRPC["mlserver"], None),  # a gRPC connection that is idle is closed with a word
    ],
)
def test_they_are_closed_in_four_fifths_of_the_time_after_which_the_server_does(
    runtime: Runtime, idle: str | None
) -> None:
    world = deployed(World(), runtime)
    assert pool(world) == ({"http": {"idleTimeout": idle}} if idle else None)
    assert [action for _, action in world.history()] == ["deploy", *(["policy"] if idle else [])]
    again = deploy(world.context, replace(a_request("churn-v1"), runtime=runtime, image="own"))
    assert not again.changed


def test_requests_of_a_connection_that_its_server_counts_are_counted_before_it() -> None:
    """llama.cpp's server closes a connection after each streamed answer, and after 100 requests."""
    for requests, most in ((OPENAI.connection_requests, 1), (100, 80)):
        world = deployed(World(), replace(OPENAI, image="own", connection_requests=requests))
        assert pool(world) == {"http": {"idleTimeout": "4s", "maxRequestsPerConnection": most}}


def test_a_candidate_that_runs_in_such_a_server_brings_it_to_an_endpoint_of_ours() -> None:
    world = a_world("churn-v1")
    assert pool(world) is None
    deployed(world, OWN, "churn-v2")
    assert pool(world) == {"http": {"idleTimeout": "4s"}}


def test_what_somebody_says_of_connections_stays() -> None:
    world = a_world("churn-v1")
    said = {"tcp": {"maxConnections": 5}}
    set_policy(world.context, "churn", PolicyRequest(changes={"connection_pool": said}))
    deployed(world, OWN, "churn-v2")
    assert pool(world) == said


def test_a_server_that_closes_sooner_than_those_there_are_shortens_what_we_said_for_them() -> None:
    world = deployed(World(), replace(OWN, keep_alive=75))
    assert pool(world) == {"http": {"idleTimeout": "60s"}}
    deployed(world, replace(OWN, connection_requests=1), "churn-v2")
    assert pool(world) == {"http": {"idleTimeout": "4s", "maxRequestsPerConnection": 1}}
    deployed(world, replace(OWN, keep_alive=75), "churn-v3")
    assert pool(world) == {"http": {"idleTimeout": "4s", "maxRequestsPerConnection": 1}}, "version 2 is still there"
    assert [action for _, action in world.history()].count("policy") == 2


def test_a_longer_time_that_somebody_said_stays_beside_a_server_that_closes_sooner() -> None:
    world = deployed(World(), replace(OWN, keep_alive=75))
    said = {"http": {"idleTimeout": "10s"}}
    set_policy(world.context, "churn", PolicyRequest(changes={"connection_pool": said}))
    deployed(world, replace(OWN, connection_requests=1), "churn-v2")
    assert pool(world) == said


def test_what_somebody_took_away_stays_away_and_is_said() -> None:
    world = deployed(World(), OWN)
    set_policy(world.context, "churn", PolicyRequest(changes={"connection_pool": None}))
    assert pool(world) is None
    candidate = deploy(world.context, replace(a_request("churn-v2"), runtime=OWN, image="own"))
    assert pool(world) is None
    (warning,) = [text for text in candidate.warnings if "connection_pool" in text]
    assert warning.startswith("the server of 'churn-v2' closes connections that Envoy would use again")
    assert """policy connection_pool='{"http": {"idleTimeout": "4s"}}'""" in warning
