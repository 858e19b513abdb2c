"""Callers who mean harm, under live load on a real Envoy and real model servers, move no verdict.

After the trials of the issue: a version released over itself, a caller with an arm's cookie, a pin, NaN, bodies that break readers,
and one request id for many requests. ``int(nan)`` raises in the model, so NaN is a 500 of it.
"""

from __future__ import annotations

import itertools
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.client.plugin import IstioDeploymentClient
from tests.faulty import register_faulty
from tests.support.callers import calling
from tests.support.mlflow_addresses import mlflow_at

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

GOOD = b'{"inputs": [[1.0, 2.0]]}'
NAN = b'{"inputs": [[NaN, 2.0]]}'
BREAKING = (
    b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"inputs": [[' + b"9" * 5000 + b", 1]]}",
    b'{"inputs": [[1e999, 1]]}',
    b'{"inputs": [["\xff", 1]]}',
    b'{"inputs": [[1, 2]], "inputs": [[1, 2]]}',
    b'{"inputs": [["text"]]}',
)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, _fresh_database: Path) -> Iterator[IstioDeploymentClient]:
    """Endpoint churn, guarded, with the same model as churn-v1 (stable) and churn-v2; both record."""
    folder = tmp_path_factory.mktemp("forged")
    uri = f"sqlite:///{shutil.copy(_fresh_database, folder / 'mlflow.db')}"
    with pytest.MonkeyPatch.context() as patch, mlflow_at(uri):
        patch.setenv("MLFLOW_ISTIO_HOME", str(folder / "meshes"))
        register_faulty(uri, "churn", folder / "artifacts")
        found = IstioDeploymentClient("istio-local")
        recording = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": str(folder / "records")}
        try:
            for name, further in (("churn-v1", {"pins": "guarded"}), ("churn-v2", {})):
                config = {"env": recording, "ready_timeout": 300, **further}
                found.create_deployment(name, "models:/churn/1", endpoint="churn", config=config)
            yield found
        finally:
            LocalMesh(folder / "meshes").down(purge=True)


def post(session: requests.Session, url: str, body: bytes, **headers: str) -> requests.Response:
    sent = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return session.post(f"{url}/invocations", data=body, headers=sent, timeout=60)


@contextmanager
def load(url: str, *asks: Callable[[requests.Session, int], requests.Response]) -> Iterator[Counter[int]]:
    """Honest callers, and each of the others beside them; their statuses."""
    seen: Counter[int] = Counter()
    lock = threading.Lock()
    turns = itertools.cycle([lambda session, _: post(session, url, GOOD, x_request_id=str(uuid.uuid4())), *asks])

    def ask(session: requests.Session, number: int) -> None:
        with lock:
            turn = next(turns)
        status = turn(session, number).status_code
        with lock:
            seen[status] += 1

    with calling(ask, workers=3, seconds=600):
        yield seen


def test_a_stranger_can_not_pin_and_our_own_commands_can(client):
    url = client.get_endpoint("churn")["url"]
    for name in ("churn-v1", "churn-v2"):
        shown = client.pins("churn", show=True)["pin_headers"][name]
        for headers in ({"x-mlflow-deployment": "churn-v2"}, {**shown, "x-mlflow-istio-key": "mik_" + "0" * 32}):
            answer = requests.get(f"{url}/ping", headers=headers, timeout=60)
            assert answer.headers["x-mlflow-deployment"] == "churn-v1"
        assert requests.get(f"{url}/ping", headers=shown, timeout=60).headers["x-mlflow-deployment"] == name
        assert client.predict(name, {"inputs": [[1.0, 2.0]]})["predictions"] == [1.0]
    probe = requests.get(f"{url}/", headers={"x-mlflow-istio-probe": "1"}, timeout=60)
    assert client.get_endpoint("churn")["change"]["id"] not in probe.text
    assert "mik_" not in repr(client.get_endpoint("churn")) + repr(client.get_deployment("churn-v1"))


def test_another_key_shuts_out_the_old_one_and_open_pins_ask_for_none(client):
    url = client.get_endpoint("churn")["url"]
    old = client.pins("churn", show=True)["pin_headers"]["churn-v2"]
    new = client.pins("churn", "new", show=True)["pin_headers"]["churn-v2"]
    assert old != new
    assert requests.get(f"{url}/ping", headers=old, timeout=60).headers["x-mlflow-deployment"] == "churn-v1"
    assert requests.get(f"{url}/ping", headers=new, timeout=60).headers["x-mlflow-deployment"] == "churn-v2"
    assert client.pins("churn", "open")["pins"] == "open"
    pin = {"x-mlflow-deployment": "churn-v2"}
    assert requests.get(f"{url}/ping", headers=pin, timeout=60).headers["x-mlflow-deployment"] == "churn-v2"
    assert client.pins("churn", "guarded")["pins"] == "guarded"
    assert requests.get(f"{url}/ping", headers=pin, timeout=60).headers["x-mlflow-deployment"] == "churn-v1"


def test_who_chose_an_arm_by_its_cookie_is_no_evidence_about_it(client):
    url = client.get_endpoint("churn")["url"]
    client.update_endpoint("churn", {"strategy": "ab", "candidate": "churn-v2", "weight": 50, "cookie": "arm"})
    try:
        cookie = ""
        while not cookie.endswith(".churn-v2"):
            cookie = requests.get(f"{url}/ping", timeout=60).headers["set-cookie"].partition(";")[0]
        client.analyse("churn")
        with requests.Session() as session:
            for _ in range(60):
                session.cookies.clear()
                assert post(session, url, GOOD).status_code == 200
            for number in range(150):
                session.cookies.clear()
                assert post(session, url, NAN, cookie=cookie).status_code == 500
                answer = post(session, url, BREAKING[number % len(BREAKING)], cookie=cookie)
                assert (answer.status_code, answer.headers["x-mlflow-deployment"]) == (400, "churn-v2")
        look = client.analyse("churn")
        assert look["outcome"] != "winner", look
        arms = {arm["name"]: arm for arm in look["arms"]}
        assert arms["churn-v2"]["requests"] <= 60 + 1
    finally:
        client.abort("churn")


def test_a_shadows_pairs_are_copies_of_one_request(client):
    url = client.get_endpoint("churn")["url"]
    pins = client.pins("churn", show=True)["pin_headers"]
    client.update_endpoint("churn", {"strategy": "shadow", "candidate": "churn-v2", "mirror": 100})
    time.sleep(0.3)  # what comes within settle (0.2 s) of a shadow's beginning is not compared
    try:
        with requests.Session() as session:
            for number in range(80):
                post(session, url, GOOD, x_request_id=f"honest-{number}")
                for name, body in (("churn-v1", GOOD), ("churn-v2", NAN)):
                    post(session, url, body, x_request_id=f"forged-{number}", **pins[name])
        deadline = time.monotonic() + 60
        while (found := client.compare("churn", settle=0.2, agreement=0.5))["figures"]["shadow/pairs"] < 78:
            assert time.monotonic() < deadline, found  # nobody waits for a mirrored request, nor sends it again
            time.sleep(0.2)
        assert found["verdict"]["word"] != "rollback", found
        figures = found["figures"]
        assert figures["shadow/candidate_failed"] == figures["shadow/stable_failed"] == 0
        assert figures["shadow/agreement"] == 1
        assert figures["shadow/pinned"] >= 156
    finally:
        client.abort("churn")


def test_a_release_over_itself_is_promoted_whatever_strangers_send(client):
    url = client.get_endpoint("churn")["url"]
    pin = {"x-mlflow-deployment": "churn-v2", "x-mlflow-istio-key": "guessed"}
    with load(
        url,
        lambda session, number: post(session, url, BREAKING[number % len(BREAKING)], **pin),
        lambda session, _: post(session, url, BREAKING[1], cookie="arm=r.churn-v2", x_request_id="always-the-same"),
    ) as seen:
        found = client.release(
            "churn",
            candidate="churn-v2",
            steps="20,50",
            interval=1,
            hold=3,
            min_requests=20,
            warmup=1,
            warm_requests=0,
            phase=0,
            deadline=240,
        )
    assert found["outcome"] == "promoted", found["verdict"]
    assert set(seen) == {200, 400}
