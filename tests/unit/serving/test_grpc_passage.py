"""The recorder in front of a server of gRPC: grpcio on both sides of it, and bytes that no library would send."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from prometheus_client import CollectorRegistry, make_asgi_app

from mlflow_istio.calls.grpc_infer import request_message, response_document
from mlflow_istio.serving import http2_frames as http2
from mlflow_istio.serving.configuration import PayloadFields, RecordSettings
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.grpc_answers import V2Bodies
from mlflow_istio.serving.grpc_passage import Door
from mlflow_istio.serving.http2_frames import FrameReader, Piece, frame
from mlflow_istio.serving.record_log import RecordLog
from mlflow_istio.serving.recorder import Recorder
from mlflow_istio.serving.recording_proxy import Passage
from mlflow_istio.serving.records_app import RecordsApp
from tests.support.bare_grpc_caller import Bare
from tests.support.grpc_callers import MODEL_INFER

DOCUMENT = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}]}
MESSAGE = request_message(DOCUMENT)
# What ModelInfer answers here: the same tensors, which have the same number in both messages.
ECHO = MESSAGE[MESSAGE.index(b"\x2a") :]
READER = {"authorization": "Bearer t"}


@dataclass
class Model:
    """What stands behind: a server of grpcio that does what metadata say."""

    go_on: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    seen: list[dict[str, Any]] = field(default_factory=list)

    def infer(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = dict(context.invocation_metadata())
        self.seen.append({**metadata, "left": context.time_remaining()})
        context.add_callback(self.gone.set)
        if "fails" in metadata:
            context.set_trailing_metadata([("why-bin", b"\x00\xff"), ("how", "bad")])
            context.abort(grpc.StatusCode[str(metadata["fails"])], "as it was told: é")
        if "waits" in metadata:
            self.go_on.wait(60)
        if "compresses" in metadata:
            context.set_compression(grpc.Compression.Gzip)
        context.send_initial_metadata([("leads", "here")])
        context.set_trailing_metadata([("trails", "there")])
        return b"no message" if "garbage" in metadata else ECHO

    def download(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(message)):
            yield b"%d" % number * 1000

    def upload(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"%d" % sum(map(len, messages))

    def talk(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for message in messages:
            yield message.upper()


@contextmanager
def serving(model: Model) -> Iterator[int]:
    infer = {"ModelInfer": grpc.unary_unary_rpc_method_handler(model.infer)}
    kinds = {
        "Download": grpc.unary_stream_rpc_method_handler(model.download),
        "Upload": grpc.stream_unary_rpc_method_handler(model.upload),
        "Talk": grpc.stream_stream_rpc_method_handler(model.talk),
    }
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 3 * 1024 * 1024)])
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("inference.GRPCInferenceService", infer),
            grpc.method_handlers_generic_handler("own.Streams", kinds),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        model.go_on.set()
        server.stop(0).wait()


@contextmanager
def passing(port: int, recorder: Recorder | None, metrics: ServerMetrics) -> Iterator[tuple[int, Passage]]:
    """The proxy in front of a port, in a thread of its own."""
    loop = asyncio.new_event_loop()
    own: dict[bytes, Any] = {}
    if recorder is not None:
        own = {
            b"/records": RecordsApp(recorder.log, "t", recorder.dropped),
            b"/records/metrics": make_asgi_app(metrics.of_recorder()[0]),
        }
    passage = Passage(port=port, recorder=recorder, own=own)
    door = loop.run_until_complete(loop.create_server(lambda: Door(passage), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield door.sockets[0].getsockname()[1], passage
    finally:
        loop.call_soon_threadsafe(door.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@dataclass
class Front:
    """A recorder with a server behind it."""

    port: int
    straight: int
    model: Model
    recorder: Recorder
    passage: Passage
    channel: grpc.Channel

    def call(self, message: bytes = MESSAGE, timeout: float = 60, **metadata: Any) -> tuple[bytes, Any]:
        said = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        answer, made = self.channel.unary_unary(MODEL_INFER).with_call(message, metadata=said, timeout=timeout)
        return bytes(answer), made

    def page(self, after: str = "") -> dict[str, Any]:
        answer = requests.get(
            f"http://127.0.0.1:{self.port}/records",
            params={"after": after} if after else {},
            headers=READER,
            timeout=60,
        )
        return dict(answer.json())

    def records(self, count: int) -> list[dict[str, Any]]:
        """The first so many; the recorder writes them in its own time."""
        deadline = time.monotonic() + 60
        while len(found := self.page()["records"]) < count:
            assert time.monotonic() < deadline, self.page()
            time.sleep(0.01)
        return list(found)

    def dropped(self, reason: str, count: int = 1) -> None:
        """Wait until so many were not recorded for a reason."""
        deadline = time.monotonic() + 60
        while self.recorder.dropped().get(reason) != count:
            assert time.monotonic() < deadline, self.recorder.dropped()
            time.sleep(0.01)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    opened: list[Any] = []

    def made(dropped: frozenset[str] = frozenset()) -> Front:
        fields = PayloadFields(input=True, dropped=dropped)
        metrics = ServerMetrics(CollectorRegistry(), deployment="m-v1", model="m", version="1")
        log = RecordLog(tmp_path / "records", 64 * 1024 * 1024)
        log.open()
        settings = RecordSettings(rate=1, directory=tmp_path / "records", fields=fields, token="t")
        recorder = Recorder(settings, log, metrics, deployment="m-v1", model_version="m/1", bodies=V2Bodies())
        model = Model()
        behind = serving(model)
        straight = behind.__enter__()
        before = passing(straight, recorder, metrics)
        port, passage = before.__enter__()
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        opened.extend(
            [recorder.close, lambda: before.__exit__(None, None, None), lambda: behind.__exit__(None, None, None)]
        )
        opened.append(channel.close)
        return Front(port, straight, model, recorder, passage, channel)

    yield made
    while opened:
        opened.pop()()


@pytest.fixture
def front(make: Callable[..., Front]) -> Front:
    return make()


def test_a_call_is_passed_on_and_recorded_as_the_protocols_json(front: Front) -> None:
    answer, made = front.call(x_request_id="id-1", own_bin=b"\x00\xfe", timeout=50)
    assert answer == ECHO
    assert ("leads", "here") in made.initial_metadata()
    assert ("trails", "there") in made.trailing_metadata()
    assert front.model.seen[0]["own-bin"] == b"\x00\xfe"
    assert 0 < front.model.seen[0]["left"] <= 50
    (record,) = front.records(1)
    tensor = DOCUMENT["inputs"][0]
    assert record["input"]["inputs"] == [tensor]
    assert record["output"]["outputs"] == [tensor] == response_document(ECHO)["outputs"]
    assert {name: record[name] for name in ("request_id", "deployment", "model_version", "status", "grpc_status")} == {
        "request_id": "id-1",
        "deployment": "m-v1",
        "model_version": "m/1",
        "status": 200,
        "grpc_status": "OK",
    }
    assert record["ms"] > 0
    assert "pinned" not in record


def test_a_caller_that_chose_who_answers_is_told_apart_and_one_without_an_id_is_counted(front: Front) -> None:
    front.call(x_request_id="id-1", x_mlflow_deployment="m-v1")
    front.call()
    assert front.records(1)[0]["pinned"] is True
    front.dropped("no_request_id")


@pytest.mark.parametrize(
    ("status", "like"),
    [("INTERNAL", 500), ("INVALID_ARGUMENT", 400), ("UNAVAILABLE", 503), ("RESOURCE_EXHAUSTED", 429)],
)
def test_a_call_that_fails_is_passed_on_with_its_details_and_recorded_by_its_status_alone(
    front: Front, status: str, like: int
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        front.call(x_request_id="id-1", fails=status)
    error: Any = failed.value
    assert (error.code().name, error.details()) == (status, "as it was told: é")
    assert {("why-bin", b"\x00\xff"), ("how", "bad")} <= set(error.trailing_metadata())
    (record,) = front.records(1)
    assert (record["status"], record["grpc_status"], record["output"]) == (like, status, {"error_code": status})


def test_a_method_that_is_not_there_fails_as_the_server_says_it(front: Front) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        front.channel.unary_unary("/own.Streams/Nothing")(b"", timeout=60)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_streams_of_all_kinds_pass_and_are_not_recorded(front: Front) -> None:
    said = [("x-request-id", "id")]
    down = front.channel.unary_stream("/own.Streams/Download")(b"300", metadata=said, timeout=60)
    assert [len(part) for part in down] == [1000] * 10 + [2000] * 90 + [3000] * 200
    up = front.channel.stream_unary("/own.Streams/Upload")
    assert up(iter([b"x" * 500_000] * 20), metadata=said, timeout=60) == b"10000000"
    go_on, heard = threading.Event(), []

    def words() -> Iterator[bytes]:
        yield b"one"
        go_on.wait(60)
        yield b"two"

    for word in front.channel.stream_stream("/own.Streams/Talk")(words(), metadata=said, timeout=60):
        heard.append(word)
        go_on.set()  # the second is said only once the first was answered
    assert heard == [b"ONE", b"TWO"]
    front.call(x_request_id="id-1")
    assert [record["request_id"] for record in front.records(1)] == ["id-1"]


def test_the_servers_own_limit_of_a_message_holds_and_no_other(front: Front) -> None:
    front.call(MESSAGE + request_message({"inputs": [], "id": "i" * 2_500_000}), x_request_id="id-1")
    front.dropped("too_large")
    with pytest.raises(grpc.RpcError) as failed:
        front.call(b"x" * 3_500_000, x_request_id="id-2")
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_call_that_is_given_up_ends_at_the_server_and_counts_as_unanswered(front: Front) -> None:
    call = front.channel.unary_unary(MODEL_INFER).future(
        MESSAGE, metadata=[("waits", "1"), ("x-request-id", "id-1")], timeout=60
    )
    deadline = time.monotonic() + 60
    while not front.model.seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    call.cancel()
    assert front.model.gone.wait(60)
    front.dropped("unanswered")
    with pytest.raises(grpc.RpcError) as failed:
        front.call(x_request_id="id-2", waits="1", timeout=0.2)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    deadline = time.monotonic() + 60
    while True:  # the server may be the first to see that the time is over, and say so
        said = [record["grpc_status"] for record in front.page()["records"]]
        if said == ["DEADLINE_EXCEEDED"] or (not said and front.recorder.dropped() == {"unanswered": 2}):
            break
        assert time.monotonic() < deadline, (said, front.recorder.dropped())
        time.sleep(0.01)


def test_compressed_messages_are_recorded_as_they_read(front: Front) -> None:
    infer = front.channel.unary_unary(MODEL_INFER)
    metadata = [("x-request-id", "id-1"), ("compresses", "1")]
    answer = infer(
        MESSAGE + b"\x1a\x80\x08" + b"i" * 1024, metadata=metadata, compression=grpc.Compression.Deflate, timeout=60
    )
    assert answer == ECHO
    (record,) = front.records(1)
    assert record["input"]["id"] == "i" * 1024
    assert record["output"]["outputs"][0]["data"] == [1.0, 2.0]


def test_what_is_no_message_of_the_protocol_passes_and_is_counted(front: Front) -> None:
    assert front.call(x_request_id="id-1", garbage="1")[0] == b"no message"
    front.dropped("unreadable")


def test_fields_that_are_dropped_are_not_kept(make: Callable[..., Front]) -> None:
    front = make(frozenset({"X"}))
    front.call(x_request_id="id-1")
    (record,) = front.records(1)
    assert (record["input"]["inputs"], record["output"]["outputs"]) == ([], [])


def test_many_calls_at_once_on_one_connection_are_each_answered_and_recorded(front: Front) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: front.call(x_request_id=f"id-{number}")[0], range(400)))
    assert answers == [ECHO] * 400
    assert {record["request_id"] for record in front.records(400)} == {f"id-{number}" for number in range(400)}
    assert front.recorder.dropped() == {}


def test_who_can_not_reach_the_server_sees_it_unavailable() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        metrics = ServerMetrics(CollectorRegistry(), deployment="m-v1", model="m", version="1")
        with (
            passing(nobody.getsockname()[1], None, metrics) as (port, _),
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            pytest.raises(grpc.RpcError) as failed,
        ):
            channel.unary_unary(MODEL_INFER)(MESSAGE, timeout=60)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


def test_records_and_metrics_are_read_over_http_1_too(front: Front) -> None:
    front.call(x_request_id="id-1")
    front.records(1)
    url = f"http://127.0.0.1:{front.port}/records"
    assert requests.get(url, timeout=60).status_code == 401
    assert "mlflow_istio_records_total 1.0" in requests.get(f"{url}/metrics", timeout=60).text


@pytest.fixture
def bare(front: Front) -> Iterator[Callable[..., Bare]]:
    made: list[Bare] = []

    def connected(**more: int) -> Bare:
        made.append(Bare(front.port, **more))
        return made[-1]

    yield connected
    for caller in made:
        caller.close()


def test_records_are_read_on_the_connection_that_carries_calls(front: Front, bare: Callable[..., Bare]) -> None:
    caller = bare()
    for round_ in range(3):
        call = caller.infer(f"id-{round_}", MESSAGE)
        read, metrics = caller.ask("GET", "/records", **READER), caller.ask("GET", "/records/metrics")
        nobody = caller.ask("GET", "/records")
        after = caller.infer(f"after-{round_}", MESSAGE)
        got = caller.answers(call, read, metrics, nobody, after)
        late = caller.ask("GET", "/records/metrics")
        caller.answers(late)  # the server has never heard of this stream, nor of a newer one
        caller.send(http2.window_update(late, 1000) + frame(http2.RST_STREAM, 0, late, (8).to_bytes(4, "big")))
        assert {got[stream][0]["grpc-status"] for stream in (call, after)} == {"0"}
        assert {got[stream][1][5:] for stream in (call, after)} == {ECHO}
        assert got[read][0][":status"] == "200"
        assert got[read][1].startswith(b'{"next": ')
        assert got[nobody][0][":status"] == "401"
        assert b"mlflow_istio_records_total" in got[metrics][1]
    assert len(front.records(6)) == 6
    assert all("authorization" not in seen for seen in front.model.seen)


def test_answers_of_ours_and_the_servers_keep_to_the_window_together(front: Front, bare: Callable[..., Bare]) -> None:
    """Twelve pages of a megabyte and thousands of answers on a connection whose caller lets 3 MiB come at a time."""
    for number in range(6000):
        front.recorder.log.append(b'{"time": %d, "pad": "%s"}' % (number, b"x" * 1000))
    caller = bare(window=3 * 1024 * 1024)
    for number in range(12):
        reads = [caller.ask("GET", "/records", **READER) for _ in range(2)]
        calls = [caller.infer(f"id-{number}-{call}", MESSAGE) for call in range(50)]
        got = caller.answers(*reads, *calls)
        assert all(len(got[read][1]) > 900_000 for read in reads)
        assert {got[call][0]["grpc-status"] for call in calls} == {"0"}


def test_the_servers_settings_come_before_any_answer_of_ours() -> None:
    async def own(_scope: Any, _receive: Any, send: Any) -> None:
        answered.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    answered = threading.Event()
    metrics = ServerMetrics(CollectorRegistry(), deployment="m-v1", model="m", version="1")
    with (
        socket.create_server(("127.0.0.1", 0)) as slow,
        passing(slow.getsockname()[1], None, metrics) as (port, passage),
    ):
        passage.own[b"/records"] = own  # type: ignore[index]
        caller = Bare(port)
        server, _ = slow.accept()
        with server:
            read = caller.ask("GET", "/records")
            assert answered.wait(60)
            server.sendall(frame(http2.SETTINGS, 0, 0))
            first = caller.receive(9)
            assert first == frame(http2.SETTINGS, 0, 0)
            assert caller.answers(read)[read][0] == {":status": "200"}
        caller.close()


def test_a_larger_window_holds_once_the_server_has_acknowledged_it() -> None:
    """Envoy, which gives 16 MiB, resets a stream that has had more than 64 KiB before that: seen on a busy machine."""

    async def own(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 200_000})

    def pieces(until: Callable[[list[Piece]], bool]) -> list[Piece]:
        got: list[Piece] = []
        while not until(got):
            data = caller.receive_some()
            assert data, "closed"
            got += reader.feed(data)
        return got

    def size(got: list[Piece]) -> int:
        return sum(len(piece.payload) for piece in got if piece.kind == http2.DATA)

    reader = FrameReader()
    ping = frame(http2.PING, 0, 0, b"the end.")
    metrics = ServerMetrics(CollectorRegistry(), deployment="m-v1", model="m", version="1")
    with (
        socket.create_server(("127.0.0.1", 0)) as slow,
        passing(slow.getsockname()[1], None, metrics) as (port, passage),
    ):
        passage.own[b"/records"] = own  # type: ignore[index]
        caller = Bare(port, stream_window=1024 * 1024)
        server, _ = slow.accept()
        with server:
            caller.ask("GET", "/records")
            server.sendall(frame(http2.SETTINGS, 0, 0))
            early = pieces(lambda got: size(got) >= http2.WINDOW_BYTES)
            server.sendall(ping)
            early += pieces(lambda got: any(piece.kind == http2.PING for piece in got))
            assert size(early) == http2.WINDOW_BYTES
            server.sendall(frame(http2.SETTINGS, http2.ACK, 0))
            late = pieces(lambda got: any(piece.kind == http2.DATA and piece.has(http2.END_STREAM) for piece in got))
            assert size(early) + size(late) == 200_000
        caller.close()


def test_a_reader_whose_answer_breaks_is_told_so(front: Front, bare: Callable[..., Bare]) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("as it was told")

    front.passage.own[b"/records"] = broken  # type: ignore[index]
    caller = bare()
    read, call = caller.ask("GET", "/records"), caller.infer("id-1", MESSAGE)
    got = caller.answers(read, call)
    assert got[read][0] == {"reset": str(http2.INTERNAL_ERROR)}
    assert got[call][0]["grpc-status"] == "0"


def test_a_reader_that_goes_away_leaves_the_calls_alone(front: Front, bare: Callable[..., Bare]) -> None:
    caller = bare()  # of each stream it lets 64 KiB come before it reads
    for number in range(3000):
        front.recorder.log.append(b'{"time": %d, "pad": "%s"}' % (number, b"x" * 1000))
    reads = [caller.ask("GET", "/records", **READER) for _ in range(9)]
    assert caller.answers(reads[-1])[reads[-1]][0]["reset"] == str(http2.REFUSED_STREAM)
    for read in reads[:-1]:
        caller.send(frame(http2.RST_STREAM, 0, read, (8).to_bytes(4, "big")))
    call = caller.infer("id-1", MESSAGE)
    assert caller.answers(call)[call][0]["grpc-status"] == "0"
    again = caller.ask("GET", "/records")
    assert caller.answers(again)[again][0][":status"] == "401"


@pytest.mark.parametrize(
    "words",
    [
        frame(http2.HEADERS, http2.END_HEADERS, 3, b"\xff\xff\xff\xff\xff"),
        frame(http2.HEADERS, 0, 3, b"\x82") + frame(http2.PING, 0, 0, b"12345678"),
        frame(http2.CONTINUATION, http2.END_HEADERS, 3, b"\x82"),
        frame(http2.HEADERS, http2.END_HEADERS | http2.PADDED, 3, b"\xff\x82"),
        (16_000_000).to_bytes(3, "big") + bytes((http2.SETTINGS, 0)) + bytes(4) + b"x" * 20_000,
    ],
    ids=["no headers", "a ping between headers", "headers that never began", "padding", "a frame too large"],
)
def test_what_is_no_http_2_is_the_servers_to_judge(front: Front, words: bytes) -> None:
    """Byte for byte: what the server says is what it says without us."""
    said = []
    for port in (front.straight, front.port):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as caller:
            caller.sendall(http2.PREFACE + frame(http2.SETTINGS, 0, 0) + words)
            got, reader = [], FrameReader()
            while data := _received(caller):
                got += [(piece.kind, piece.payload) for piece in reader.feed(data)]
        said.append([entry for entry in got if entry[0] == http2.GOAWAY])
    assert said[0] == said[1]
    front.call(x_request_id="id-1")


def _received(caller: socket.socket) -> bytes:
    try:
        return caller.recv(65536)
    except ConnectionResetError:
        return b""


def test_who_is_told_to_leave_answers_what_is_open(front: Front) -> None:
    call = front.channel.unary_unary(MODEL_INFER).future(
        MESSAGE, metadata=[("waits", "1"), ("x-request-id", "id-1")], timeout=60
    )
    deadline = time.monotonic() + 60
    while not front.model.seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (caller,) = front.passage.callers
    loop = caller._transport._loop  # type: ignore[attr-defined]  # where its connection lives
    loop.call_soon_threadsafe(caller.leave)
    front.model.go_on.set()
    assert call.result() == ECHO
    while front.passage.callers:
        assert time.monotonic() < deadline
        time.sleep(0.01)
