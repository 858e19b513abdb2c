"""A server of V2 over gRPC in pods with a recorder beside it, behind the real istiod and Envoy: shadowed, compared, promoted."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from mlflow_istio.calls.grpc_infer import request_message, response_document
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput
from tests.control_plane.foreign_servers import RECORDING, V2, channel_to, compared, deployed, records_of
from tests.control_plane.office import ENDPOINT, Office
from tests.support.grpc_callers import MODEL_INFER
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

TENSOR = {"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, 2.5]}


@contextmanager
def users(office: Office) -> Iterator[list[Any]]:
    """Two who go on calling on one connection; what they got."""
    got: list[Any] = []
    stop = threading.Event()
    with channel_to(office) as (channel, metadata):

        def ask() -> None:
            infer = channel.unary_unary(MODEL_INFER)
            for number in itertools.count():
                if stop.wait(0.01):
                    return
                message = request_message({"inputs": [TENSOR], "id": f"call-{number}"})
                try:
                    got.append(response_document(infer(message, metadata=metadata, timeout=30))["outputs"][0]["data"])
                except grpc.RpcError as error:
                    got.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield got
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_shadow_over_grpc_is_recorded_compared_and_promoted_and_streams_pass(office: Office) -> None:
    deployed(office, 1, V2, env=RECORDING)
    mirrored = {"strategy": "shadow", "traffic_request": TrafficRequest(mirror=100)}
    with users(office) as got:
        with pytest.raises(InvalidInput, match="runtime 'mlserver' records none: .*let both record"):
            deployed(office, 2, V2, **mirrored)
        deployed(office, 2, V2, env=RECORDING, **mirrored)
        found = wait_for(
            "80 pairs",
            lambda: result if (result := compared(office, "numbers")).comparison.tally.compared >= 80 else None,
        )
        tally = found.comparison.tally
        assert (found.verdict.word, tally.agreeing, tally.unmatched_share) == ("advance", tally.compared, 0)

        with channel_to(office) as (channel, metadata):
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            messages = [request_message({"inputs": [TENSOR]})] * 20
            answers = list(stream(iter(messages), metadata=metadata, timeout=30))
        assert [response_document(answer)["outputs"][0]["data"] for answer in answers] == [[3.5]] * 20
        office.promote()
        before = len(got)
        wait_for("more answers", lambda: len(got) > before + 50)
    assert [answer for answer in got if answer != [3.5]] == [], "no call was lost"

    record = records_of(office).read(ENDPOINT, "m-v2", 1).records[0]
    assert (record["deployment"], record["model_version"]) == ("m-v2", "m/2")
    assert (record["status"], record["grpc_status"]) == (200, "OK")
    assert record["input"]["inputs"] == [TENSOR]
    assert record["output"]["outputs"] == [{"name": "sum-x", "shape": [1], "datatype": "FP64", "data": [3.5]}]
    assert not office.warnings
