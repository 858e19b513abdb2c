"""MLServer and Triton themselves behind endpoints of the local mesh, over HTTP and gRPC: every strategy, under load."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow.deployments import get_deploy_client
from scipy import stats

from mlflow_istio.calls.grpc_calls import call
from mlflow_istio.calls.grpc_infer import request_message
from tests.support.callers import calling
from tests.support.grpc_callers import MODEL_INFER, GrpcCallers
from tests.support.real_servers import RealServer, mlserver, triton

pytestmark = pytest.mark.e2e

VERSION = "x-mlflow-model-version"
FAILS_EVERY = 10
# A right split leaves these bounds about once in a hundred thousand.
CONFIDENCE = 1 - 1e-5
QUICK = {"steps": "50", "interval": 1, "control": "none", "warm": "none", "phase": 0, "hold": 3, "deadline": 300}
ERRORS = {"analysis": [{"guard": "errors"}]}


def message(number: int) -> dict[str, Any]:
    """A V2 request; MLServer reads it by the content type, Triton by its name."""
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [float(number), 2.0]}
    return {"inputs": [{**tensor, "parameters": {"content_type": "np"}}], "parameters": {"content_type": "np"}}


class HttpCallers:
    """Callers and the status and version of each answer."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self.words: list[str] = []
        self._lock = threading.Lock()

    def note(self, answer: requests.Response) -> None:
        with self._lock:
            self.seen["OK" if answer.ok else str(answer.status_code), answer.headers.get(VERSION, "none")] += 1
            if not answer.ok:
                self.words.append(f"{answer.text[:200]} {dict(answer.headers)}")

    def wait_for(self, more: int) -> Counter[tuple[str, str]]:
        before, deadline = Counter(self.seen), time.monotonic() + 120
        while sum((self.seen - before).values()) < more:
            assert time.monotonic() < deadline, f"{self.seen - before} of {more} answers in two minutes"
            time.sleep(0.05)
        return Counter(self.seen) - before


@contextmanager
def callers(client: Any, protocol: str) -> Iterator[Any]:
    """People who call the endpoint in the protocol it speaks."""
    view = client.get_endpoint("churn")
    if protocol == "grpc":
        with GrpcCallers(view["url"], *[request_message(message(number)) for number in range(FAILS_EVERY)]) as got:
            yield got
        return
    noted = HttpCallers()

    def ask(session: requests.Session, number: int) -> None:
        answer = session.post(view["scoring_url"], json=message(number), timeout=60)
        noted.note(answer)

    with calling(ask, workers=2, seconds=500, pause=0.002):
        yield noted


def version_for(client: Any, protocol: str, arm: str) -> str:
    """Who answers a caller of an arm, by a header or by metadata."""
    view, headers = client.get_endpoint("churn"), {"x-arm": arm}
    if protocol == "grpc":
        return call(view["url"], MODEL_INFER, request_message(message(0)), headers=headers, timeout=60).metadata[
            VERSION
        ]
    return str(requests.post(view["scoring_url"], json=message(0), headers=headers, timeout=60).headers[VERSION])


@pytest.fixture(params=["mlserver-http", "mlserver-grpc", "triton-http", "triton-grpc"])
def speaking(request: pytest.FixtureRequest, own_mesh: str, tmp_path: Path) -> tuple[Any, RealServer, dict[str, Any]]:
    """A client, a server, and what its deployments say; the registry has no version of its models yet."""
    name, _, protocol = request.param.partition("-")
    server = {"mlserver": mlserver, "triton": triton}[name](mlflow.get_tracking_uri(), tmp_path)
    return get_deploy_client(own_mesh), server, {"runtime": name, "protocol": protocol, **server.options}


def test_every_strategy_under_load_loses_nothing_and_a_version_that_fails_goes_back(
    speaking: tuple[Any, RealServer, dict[str, Any]],
) -> None:
    client, server, config = speaking
    first, second, failing = (
        server.register(answer, every) for answer, every in ((1.0, 0), (2.0, 0), (3.0, FAILS_EVERY))
    )
    good = {"OK"}
    client.create_deployment("churn-v1", f"models:/churn/{first}", endpoint="churn", config=config)
    with callers(client, config["protocol"]) as got:
        new = {"name": "churn-v2", "model_uri": f"models:/churn/{second}", "endpoint": "churn"}
        client.create_deployment(**new, config={**config, "strategy": "canary", "weight": 30})
        split = got.wait_for(1000)
        client.rollback("churn")
        client.update_endpoint(
            "churn",
            config={
                "strategy": "ab",
                "candidate": "churn-v2",
                "header": "x-arm",
                "values": {"churn-v1": "a", "churn-v2": "b"},
            },
        )
        arms = {arm: {version_for(client, config["protocol"], arm) for _ in range(20)} for arm in ("a", "b")}
        assert arms == {"a": {f"churn/{first}"}, "b": {f"churn/{second}"}}
        client.abort("churn")
        client.update_endpoint("churn", config={"strategy": "blue-green", "candidate": "churn-v2"})
        client.update_endpoint("churn", config={"action": "promote"})
        switched = got.wait_for(100)
        assert {status for status, _ in got.seen} == good, got.seen
        assert {version for _, version in got.seen} == {f"churn/{first}", f"churn/{second}"}
        low, high = stats.binom.interval(CONFIDENCE, sum(split.values()), 0.3)
        assert low <= split["OK", f"churn/{second}"] <= high
        assert switched["OK", f"churn/{second}"] > 0

        ended = client.release("churn", f"models:/churn/{failing}", **config, **QUICK, **ERRORS)
        assert ended["outcome"] == "rolled-back", ended
    lost = {version for status, version in got.seen if status not in good}
    assert lost == {f"churn/{failing}"}, got.seen


def test_a_shadow_is_compared_by_the_recorder_in_front_of_it(
    speaking: tuple[Any, RealServer, dict[str, Any]], tmp_path: Path
) -> None:
    client, server, config = speaking
    versions = [server.register(answer, 0) for answer in (1.0, 2.0)]
    for version, traffic in zip(versions, ({}, {"strategy": "shadow"}), strict=True):
        record = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": str(tmp_path / f"records-{version}")}
        client.create_deployment(
            f"churn-v{version}",
            f"models:/churn/{version}",
            endpoint="churn",
            config={**config, "env": {**config["env"], **record}, **traffic},
        )
    with callers(client, config["protocol"]) as got:
        got.wait_for(90)
        deadline = time.monotonic() + 120
        while (found := client.compare("churn", answers="numbers", settle=0.3))["figures"]["shadow/compared"] < 80:
            assert time.monotonic() < deadline, str(found)
            time.sleep(0.2)
    assert set(got.seen) == {("OK", f"churn/{versions[0]}")}, str(vars(got))
    # A copy may be late on a busy machine, and nobody sends one again that is lost: few are missing once nobody calls any more.
    while (found := client.compare("churn", answers="numbers", settle=0.3))["verdict"]["word"] != "rollback":
        assert time.monotonic() < deadline, str(found)
        time.sleep(0.2)
    assert found["figures"]["shadow/difference"] == pytest.approx(1.0), "one answers 1.0, the other 2.0"
