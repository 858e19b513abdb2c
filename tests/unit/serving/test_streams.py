"""Streams of models that MLflow saved and loads itself, on its own scoring app; no server between."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import Message

from mlflow_istio.serving.body_gate import BodyGate
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.model_failures import ModelFailures, noticing_failures
from mlflow_istio.serving.plain_errors import PlainErrors
from tests.support import streaming_models
from tests.support.pyfunc import Streams, scoring_server

SAVE = """
import sys, mlflow, mlflow.pyfunc
for source in sys.argv[1:]:
    mlflow.pyfunc.save_model(source.removesuffix(".py"), python_model=source, pip_requirements=[])
"""
KINDS = ("TEXT", "CHAT", "CHAT_AGENT", "AGENT", "MUTE_AGENT")


pytestmark = pytest.mark.filterwarnings("ignore:.*type hints to the .predict. method")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    sources = []
    for kind in KINDS:
        source = folder / f"{kind}.py"
        source.write_text(getattr(streaming_models, kind))
        sources.append(str(source))
    # A program of its own, because MLflow warns about much while it saves.
    saved = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAVE, *sources], capture_output=True, text=True, cwd=folder
    )
    assert saved.returncode == 0, saved.stderr
    return folder


class Caller:
    """Asks an app as uvicorn would, and stays until it leaves."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.registry = CollectorRegistry()
        metrics = ServerMetrics(self.registry, deployment="chat-v1", model="chat", version="1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow warns of its own classes and type hints
            model = noticing_failures(scoring_server.load_model_with_mlflow_config(str(folder / kind)))
        streams = Streams(scoring_server.init(model), model, metrics)
        self.app = BodyGate(PlainErrors(ModelFailures(streams)), max_bytes=10**6, timeout=60)

    def ask(self, body: Any, leave_after: int | None = None) -> tuple[int, str, list[bytes]]:
        """Status, content type and the parts of the body; the caller leaves after so many parts."""
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/invocations",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        sent: list[Message] = []

        async def run() -> None:
            left = asyncio.Event()
            pending = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

            async def receive() -> Message:
                if pending:
                    return pending.pop()
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message: Message) -> None:
                sent.append(message)
                if leave_after is not None and len(sent) > leave_after:
                    left.set()
                    await asyncio.sleep(0)

            await self.app(scope, receive, send)

        asyncio.run(run())
        start, *rest = sent
        kind = dict(start["headers"]).get(b"content-type", b"").decode()
        return start["status"], kind, [message["body"] for message in rest if message.get("body")]

    def figure(self, sample: str) -> float:
        lines = generate_latest(self.registry).decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample)

    def ends(self) -> dict[str, float]:
        ends = ("whole", "model", "caller", "server")
        return {end: count for end in ends if (count := self.figure(f'mlflow_istio_streams_total{{end="{end}"}}'))}


@pytest.fixture
def caller(models: Path) -> Callable[[str], Caller]:
    return lambda kind: Caller(models, kind)


def chunks(parts: list[bytes]) -> list[Any]:
    *events, done, end = b"".join(parts).split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "stream": True, **more}


def test_a_plain_models_chunks_come_as_events_all_read_in_one_thread(caller) -> None:
    chat = caller("TEXT")
    status, kind, parts = chat.ask(asking("5"))
    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    assert chunks(parts) == [{"number": number, "same_thread": True} for number in range(5)]
    assert chat.ends() == {"whole": 1.0}
    assert chat.figure("mlflow_istio_stream_first_chunk_seconds_count") == 1
    assert chat.figure("mlflow_istio_stream_chunk_seconds_count") == 1
    assert chat.figure("mlflow_istio_stream_chunks_sum") == 5


def test_a_chat_agents_chunks_come_as_it_gives_them(caller) -> None:
    agent = caller("CHAT_AGENT")
    status, _, parts = agent.ask(asking("hello"))
    assert status == 200
    assert [chunk["delta"] for chunk in chunks(parts)] == [
        {"role": "assistant", "content": word, "id": "m-1"} for word in ("one", "two", "hello")
    ]
    assert agent.ends() == {"whole": 1.0}
    status, _, (body,) = agent.ask({"messages": [{"role": "user", "content": "hello"}]})
    assert (status, json.loads(body)["messages"][0]["content"]) == (200, "one two three")


def test_a_chat_model_sees_that_it_streams(caller) -> None:
    _, _, parts = caller("CHAT").ask(asking("hello"))
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks(parts)] == [
        "one True",
        "two True",
        "three True",
    ]


def test_an_agents_events_come_as_they_are(caller) -> None:
    _, _, parts = caller("AGENT").ask({"input": [{"role": "user", "content": "hello"}], "stream": True})
    events = chunks(parts)
    assert [event.get("delta") for event in events] == ["one", "two", "three", None]
    assert events[-1]["item"]["content"][0]["text"] == "one two three"


@pytest.mark.parametrize("stream", [{}, {"stream": False}])
def test_who_asks_for_none_gets_the_whole_answer(caller, stream) -> None:
    status, kind, parts = caller("TEXT").ask({"messages": [{"role": "user", "content": "3"}], **stream})
    assert (status, kind, json.loads(b"".join(parts))) == (200, "application/json", {"text": "one two three"})


def test_a_model_that_fails_before_its_first_chunk_is_500_and_no_stream(caller) -> None:
    chat = caller("TEXT")
    status, kind, parts = chat.ask(asking("raise"))
    said = json.loads(b"".join(parts))
    assert (status, kind, said["error_code"]) == (500, "application/json", "INTERNAL_ERROR")
    assert "stack_trace" not in said
    assert chat.ends() == {}


def test_a_model_that_fails_later_says_so_in_an_event_and_is_counted_as_unfinished(caller) -> None:
    chat = caller("TEXT")
    status, _, parts = chat.ask(asking("raise later"))
    assert (status, chunks(parts)[1:]) == (200, [{"error": "out of words"}])
    assert chat.ends() == {"model": 1.0}
    assert chat.figure("mlflow_istio_stream_chunks_count") == 0


def test_nobody_reads_on_for_a_caller_who_left(caller) -> None:
    chat = caller("TEXT")
    status, _, parts = chat.ask(asking("1000000"), leave_after=3)
    assert status == 200
    assert b"".join(parts).count(b"data: ") < 1000
    assert chat.ends() == {"caller": 1.0}


def test_a_stream_asked_of_a_model_that_has_none_is_refused_in_one_line(caller) -> None:
    chat = caller("MUTE_AGENT")
    status, _, parts = chat.ask({"input": [{"role": "user", "content": "hello"}], "stream": True})
    assert status == 400
    assert json.loads(b"".join(parts))["message"] == (
        'this model does not stream its answers (it has no predict_stream): ask without "stream": true'
    )
    assert chat.ends() == {}


def test_a_body_that_the_models_signature_refuses_is_400(caller) -> None:
    status, _, parts = caller("CHAT").ask({"messages": "no list", "stream": True})
    assert (status, json.loads(b"".join(parts))["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
