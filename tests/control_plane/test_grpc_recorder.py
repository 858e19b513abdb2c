"""A server of V2 over gRPC in pods with a recorder beside it, behind the real istiod and Envoy: shadowed, compared, promoted."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from mlflow_istio.adapters.records import PinnedRecords
from mlflow_istio.calls.grpc_infer import request_message, response_document
from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.analysis.shadow_verdict import ShadowLimits
from mlflow_istio.core.mesh.pods import RECORD_TOKEN, PodSettings, variable_of
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.runtime.profiles import OVER_GRPC
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.context import Context, address_of, pin_headers
from mlflow_istio.releases.deploying import deployments
from mlflow_istio.releases.deploying.deployments import DeployRequest
from mlflow_istio.releases.driving.comparison import Compared, compare
from mlflow_istio.wiring.connection import load_templates
from tests.control_plane.office import ENDPOINT, Office
from tests.support.grpc_callers import MODEL_INFER
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

V2 = replace(
    OVER_GRPC["mlserver"],
    command=("python", "-m", "tests.support.v2_server"),
    env={"PYTHONPATH": str(Path(__file__).parents[2])},
)
RECORDING = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_FIELDS": "output,input"}
TENSOR = {"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, 2.5]}


def context_of(office: Office) -> Context:
    return replace(office.context, templates=load_templates(None))


def deployed(office: Office, version: int, **more: Any) -> None:
    request = DeployRequest(
        **{
            "name": f"m-v{version}",
            "endpoint": ENDPOINT,
            "model_uri": f"models:/m/{version}",
            "image": "theirs",
            "download_image": "serving",
            "runtime": V2,
            "env": RECORDING,
            "pod": PodSettings(),
            "gateways": (os.environ["MLFLOW_ISTIO_GATEWAY"], "mesh"),
            "ready_timeout": 120.0,
            **more,
        }
    )
    deployments.deploy(context_of(office), request)


def records_of(office: Office) -> PinnedRecords:
    """As the verbs read them."""
    cluster = office.cluster
    return PinnedRecords(
        cluster.address,
        lambda *asked: pin_headers(cluster, *asked),
        lambda deployment: variable_of(cluster.get("Deployment", deployment) or {}, RECORD_TOKEN),
    )


def compared(office: Office) -> Compared:
    return compare(
        context_of(office),
        records_of(office),
        ENDPOINT,
        rule=AnswerRule(kind="numbers"),
        limits=ShadowLimits(agreement=0.9),
        settle=0.5,
    )


@contextmanager
def channel_to(office: Office) -> Iterator[tuple[grpc.Channel, list[tuple[str, str]]]]:
    """One connection to the gateway, and the metadata that lead to the endpoint."""
    address = address_of(office.cluster, ENDPOINT)
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.default_authority", address.headers.get("host", address.headers.get("Host", ""))),
    ]
    others = [(name.lower(), value) for name, value in address.headers.items() if name.lower() != "host"]
    parts = urlsplit(address.url)
    with grpc.insecure_channel(f"{parts.hostname}:{parts.port or 80}", options=options) as channel:
        yield channel, others


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
    deployed(office, 1)
    mirrored = {"strategy": "shadow", "traffic_request": TrafficRequest(mirror=100)}
    with users(office) as got:
        with pytest.raises(InvalidInput, match="runtime 'mlserver' records none: .*let both record"):
            deployed(office, 2, env={}, **mirrored)
        deployed(office, 2, **mirrored)
        found = wait_for(
            "80 pairs", lambda: result if (result := compared(office)).comparison.tally.compared >= 80 else None
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
