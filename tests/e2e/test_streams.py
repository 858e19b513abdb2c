"""Streamed answers of MLflow models through real Envoy, while what answers them comes, goes and is replaced."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from mlflow.deployments import get_deploy_client

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.calls.streaming import events_of
from mlflow_istio.cli import main
from mlflow_istio.client.errors import IstioDeploymentError
from tests.support.chat_models import register_chat

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHUNKS = 10


def asking(text: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.fixture
def chat(own_mesh: str, tmp_path: Path) -> str:
    """The target of a mesh; versions 1 and 2 of model chat, which stream, are in its registry."""
    register_chat(f"sqlite:///{tmp_path / 'mlflow.db'}", "chat", tmp_path, versions=2)
    return own_mesh


class Streams:
    """Callers who read streams one after another; what became of them."""

    def __init__(self, url: str, chunks: int = CHUNKS) -> None:
        self.whole: Counter[str] = Counter()
        self.broken: list[str] = []
        self._url, self._chunks = url, chunks
        self._over = threading.Event()

    @property
    def count(self) -> int:
        return sum(self.whole.values())

    def ask(self) -> None:
        with requests.Session() as session:
            session.trust_env = False  # a release in this process changes the environment meanwhile
            while not self._over.is_set():
                self.read(session)

    def read(self, session: requests.Session) -> None:
        body = {**asking(str(self._chunks)), "stream": True}
        try:
            with session.post(self._url, json=body, stream=True, timeout=120) as answer:
                events = list(events_of(answer.iter_content(None)))
        except requests.RequestException as exc:
            self.broken.append(repr(exc))
            return
        numbers = [json.loads(event).get("number") for event in events[:-1]] if answer.ok else []
        if numbers == list(range(self._chunks)) and events[-1] == "[DONE]":
            self.whole[answer.headers["x-mlflow-model-version"]] += 1
        else:
            self.broken.append(f"{answer.status_code}: {events}")

    @contextmanager
    def going_on(self, callers: int = 2) -> Iterator[Streams]:
        threads = [threading.Thread(target=self.ask) for _ in range(callers)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def await_more(self, versions: set[str], each: int = 5) -> None:
        before = Counter(self.whole)
        deadline = time.monotonic() + 300
        while any(self.whole[version] < before[version] + each for version in versions):
            assert time.monotonic() < deadline, (self.whole, self.broken)
            time.sleep(0.05)


def test_chunks_come_one_by_one_to_every_kind_of_caller(chat: str, tmp_path: Path) -> None:
    client = get_deploy_client(chat)
    client.create_deployment("chat-v1", "models:/chat/1", endpoint="chat")
    for number, chunk in enumerate(client.predict_stream(endpoint="chat", inputs=asking(str(tmp_path)))):
        assert chunk == {"number": number}
        (
            tmp_path / str(number + 1)
        ).touch()  # the model gives the next one only now: whatever buffers would wait for ever
    assert number == 3

    (tmp_path / "question.json").write_text(json.dumps(asking("2")))
    words = ["predict", "-t", chat, "--name", "chat-v1", "-I", str(tmp_path / "question.json"), "--stream"]
    done = CliRunner().invoke(main, words)
    assert [json.loads(line)["number"] for line in done.output.splitlines()] == [0, 1]

    with pytest.raises(IstioDeploymentError, match="failed after 1 chunks of its answer: out of words"):
        list(client.predict_stream(endpoint="chat", inputs=asking("raise later")))
    with pytest.raises(IstioDeploymentError, match="answered 500"):
        client.predict_stream(endpoint="chat", inputs=asking("raise"))


def test_a_stream_asked_of_a_model_without_one_is_one_line(own_mesh: str) -> None:
    client = get_deploy_client(own_mesh)
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
    with pytest.raises(
        IstioDeploymentError, match="the model refused the input: this model does not stream its answers"
    ):
        client.predict_stream(endpoint="churn", inputs={"inputs": [[1.0, 2.0]]})


@pytest.mark.parametrize("end", ["promote", "rollback"])
def test_a_release_under_streams_loses_none_and_cuts_none(chat: str, end: str) -> None:
    client = get_deploy_client(chat)
    pace = {"env": {"STREAM_PACE": "0.05"}}
    client.create_deployment("chat-v1", "models:/chat/1", endpoint="chat", config=pace)
    streams = Streams(client.get_endpoint("chat")["scoring_url"])
    with streams.going_on():
        streams.await_more({"chat/1"})
        client.create_deployment(
            "chat-v2", "models:/chat/2", endpoint="chat", config={**pace, "strategy": "canary", "weight": 50}
        )
        streams.await_more({"chat/1", "chat/2"})
        if end == "promote":
            client.promote("chat")
            client.delete_deployment("chat-v1")
            streams.await_more({"chat/2"})
        else:
            client.rollback("chat")
            client.delete_deployment("chat-v2")
            streams.await_more({"chat/1"})
    assert streams.broken == []


def test_a_candidate_whose_first_token_is_late_is_rolled_back_though_its_answers_are_whole(chat: str) -> None:
    client = get_deploy_client(chat)
    client.create_deployment("chat-v1", "models:/chat/1", endpoint="chat")
    streams = Streams(client.get_endpoint("chat")["scoring_url"])
    quick = {"steps": [50], "interval": 0.5, "hold": 1, "min_requests": 20, "deadline": 200, "warmup": 0, "phase": 0}
    with streams.going_on(4):
        streams.await_more({"chat/1"}, 30)
        ended = client.release(
            "chat",
            "models:/chat/2",
            name="chat-v2",
            env={"STREAM_FIRST": "0.5"},
            warm="none",
            warm_requests=0,
            control="none",
            **quick,
        )
    assert ended["outcome"] == "rolled-back", ended
    assert "ttft" in ended["verdict"]["reason"]
    assert streams.broken == []
    # As many as its guard saw, but for those that their callers were still reading.
    assert streams.whole["chat/2"] > 0


def held_stream(client: Any, folder: Path, deployment: str) -> Iterator[Any]:
    """A stream of which the first chunk has come; ``let_go`` lets the others come."""
    chunks: Iterator[Any] = client.predict_stream(deployment_name=deployment, inputs=asking(str(folder)))
    assert next(chunks) == {"number": 0}
    return chunks


def let_go(folder: Path) -> None:
    for number in range(1, 4):
        (folder / str(number)).touch()


ENDS: Mapping[str, Callable[[Any], Any]] = {
    "delete": lambda client: client.delete_deployment("chat-v2"),
    "update": lambda client: client.update_deployment("chat-v2", config={"env": {"A": "b"}}),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_deployment_waits_for_its_streams(chat: str, tmp_path: Path, end: str) -> None:
    client = get_deploy_client(chat)
    client.create_deployment("chat-v1", "models:/chat/1", endpoint="chat")
    client.create_deployment("chat-v2", "models:/chat/2", endpoint="chat")
    chunks = held_stream(client, tmp_path, "chat-v2")
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(ENDS[end], client)
        mesh = LocalMesh(Path(os.environ["MLFLOW_ISTIO_HOME"]))
        deadline = time.monotonic() + 120
        while "Waiting for" not in mesh.logs("chat-v2"):  # uvicorn's words when it is told to end and something is open
            assert time.monotonic() < deadline, mesh.logs("chat-v2")
            time.sleep(0.05)
        assert not ending.done()
        let_go(tmp_path)
        assert [chunk["number"] for chunk in chunks] == [1, 2, 3]
        ending.result()


def test_draining_is_bounded_and_whom_it_cuts_is_told(chat: str, tmp_path: Path) -> None:
    client = get_deploy_client(chat)
    client.create_deployment("chat-v1", "models:/chat/1", endpoint="chat")
    client.create_deployment("chat-v2", "models:/chat/2", endpoint="chat", config={"drain": 1})
    chunks = held_stream(client, tmp_path, "chat-v2")
    client.delete_deployment("chat-v2")
    with pytest.raises(IstioDeploymentError, match="was cut before its end"):
        list(chunks)
