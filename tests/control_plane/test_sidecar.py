"""Callers inside the mesh: what istiod gives the sidecar of a workload, shown by the requests that it sends."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlflow_istio.core.matching.rules import read_match
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import CustomRoute
from mlflow_istio.releases.moving import policy, shifting
from tests.control_plane.namespaces import fresh_namespace
from tests.control_plane.office import ENDPOINT, Office, open_office
from tests.control_plane.sidecar import Sidecar, sidecar
from tests.scenarios.place import inside_bounds

pytestmark = pytest.mark.control_plane

GOLD = {"app": "shop", "tier": "gold"}
BASIC = {"app": "shop", "tier": "basic"}
VERSION = "x-mlflow-model-version"
NEW, OLD = "m/2", "m/1"


@pytest.fixture(scope="module")
def serving() -> Iterator[Office]:
    """Version 1 has the traffic, version 2 stands beside it; both at the gateway and in the mesh."""
    with open_office() as opened:
        for version in (1, 2):
            opened.deploy(version)
        yield opened


@pytest.fixture
def ruled(serving: Office) -> Iterator[Office]:
    """The same; a route named ``vip`` is taken away again."""
    yield serving
    policy.remove_rule(serving.context, ENDPOINT, "vip")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """Another namespace of the mesh, with nothing of ours in it."""
    with fresh_namespace() as name:
        yield name


def host(office: Office) -> str:
    return f"{ENDPOINT}.{office.namespace}.svc.cluster.local"


def answers(caller: Sidecar, name: str, **options: Any) -> str:
    reply = caller.ask(name, **options)
    assert reply.status_code == 200, reply.text
    return reply.headers[VERSION]


CONDITIONS: dict[str, tuple[dict[str, Any], dict[str, str], bool, str]] = {
    "labels of the caller": ({"sourceLabels": {"tier": "gold"}}, GOLD, False, ""),
    "labels that another caller has": ({"sourceLabels": {"tier": "gold"}}, BASIC, False, "no"),
    "all labels must be there": ({"sourceLabels": {"tier": "gold", "region": "eu"}}, GOLD, False, "no"),
    "the caller's namespace": ({"sourceNamespace": "NAMESPACE"}, BASIC, False, ""),
    "a namespace that is not the caller's": ({"sourceNamespace": "NAMESPACE"}, BASIC, True, "no"),
    "the mesh, no gateway": ({"gateways": ["mesh"]}, BASIC, False, ""),
    "a gateway, not the mesh": ({"gateways": ["GATEWAY"]}, BASIC, False, "no"),
    "the port": ({"port": 80}, BASIC, False, ""),
    "another port": ({"port": 8443}, BASIC, False, "no"),
    "the name that was called": ({"authority": "HOST"}, BASIC, False, ""),
    "another name": ({"authority": "other.example.com"}, BASIC, False, "no"),
    "labels and a header together": (
        {"sourceLabels": {"tier": "gold"}, "headers": {"x-user": "ann"}},
        GOLD,
        False,
        "no",
    ),
}
"""Condition, the caller's labels, whether it calls from another namespace, and "no" where it must not match."""


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_route_takes_callers_by_where_they_call_from(
    ruled: Office, elsewhere: str, tmp_path: Path, name: str
) -> None:
    condition, labels, foreign, no = CONDITIONS[name]
    words = {"NAMESPACE": ruled.namespace, "GATEWAY": os.environ["MLFLOW_ISTIO_GATEWAY"], "HOST": host(ruled)}

    def filled(value: Any) -> Any:
        return [filled(one) for one in value] if isinstance(value, list) else words.get(str(value), value)

    match = read_match({key: filled(value) for key, value in condition.items()})
    policy.set_rule(ruled.context, ENDPOINT, CustomRoute(name="vip", deployment="m-v2", match=match))
    assert ruled.raw("virtualservices")["spec"]["http"][0]["match"], "what was written"
    with sidecar(elsewhere if foreign else ruled.namespace, labels, tmp_path) as caller:
        seen = {answers(caller, host(ruled)) for _ in range(3)}
        assert seen == ({OLD} if no else {NEW})
        # Pinned access and the release's own state are the same for everybody.
        assert answers(caller, host(ruled), headers=ruled.keyed({"x-mlflow-deployment": "m-v2"})) == NEW
    # The gateway listens at port 80, too, and is called by the same name.
    at_gateway = {"a gateway, not the mesh", "the port", "the name that was called"}
    assert ruled.ask() == (200, NEW if name in at_gateway else OLD)


def test_a_canary_splits_the_callers_inside_the_mesh_and_moves_without_losing_one(
    serving: Office, tmp_path: Path
) -> None:
    context = serving.context
    with sidecar(serving.namespace, BASIC, tmp_path) as caller:
        assert answers(caller, ENDPOINT) == OLD, "called by its short name"
        shifting.start(
            context, ENDPOINT, strategy="canary", candidates=("m-v2",), traffic_request=TrafficRequest(weight=30)
        )
        seen: Counter[str] = Counter()
        while not seen[
            NEW
        ]:  # the gateway has it; the sidecar is told at the same time, but may be some milliseconds behind
            seen[answers(caller, ENDPOINT)] += 1
        seen.clear()
        for _ in range(300):
            seen[answers(caller, ENDPOINT)] += 1
        assert inside_bounds(seen[NEW], 300, 0.3), seen

        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(lambda: [serving.shift(weight) for weight in (50, 5, 90)] and serving.rollback())
            while not moving.done():
                answers(caller, ENDPOINT)
            moving.result()
        while answers(caller, ENDPOINT) == NEW:
            pass
        assert {answers(caller, ENDPOINT) for _ in range(50)} == {OLD}
