"""People who call an endpoint over gRPC, all on one connection."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from urllib.parse import urlsplit

import grpc

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


class GrpcCallers:
    """Two threads that call ModelInfer on one connection until the end, one message after the other, and what they got."""

    def __init__(self, url: str, *messages: bytes, host: str = "") -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self._messages = messages
        options: list[tuple[str, str | int]] = [("grpc.use_local_subchannel_pool", 1)]
        parts = urlsplit(url)
        self._channel = grpc.insecure_channel(
            f"{parts.hostname}:{parts.port or 80}",
            options=[*options, ("grpc.default_authority", host)] if host else options,
        )
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(2)]

    def __enter__(self) -> GrpcCallers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def wait_for(self, more: int) -> Counter[tuple[str, str]]:
        """So many further answers."""
        before = Counter(self.seen)
        while sum((self.seen - before).values()) < more and any(thread.is_alive() for thread in self._threads):
            self._stop.wait(0.05)
        return Counter(self.seen) - before

    def _work(self) -> None:
        call = self._channel.unary_unary(MODEL_INFER)
        messages = itertools.cycle(self._messages)
        while not self._stop.wait(0.002):
            try:
                _, made = call.with_call(next(messages), timeout=30)
                status = "OK"
            except grpc.RpcError as exc:  # of a call that failed at once, all metadata are trailing ones
                status, made = exc.code().name, exc
            metadata = dict([*(made.initial_metadata() or ()), *(made.trailing_metadata() or ())])
            self.seen[status, metadata.get("x-mlflow-model-version", "none")] += 1
