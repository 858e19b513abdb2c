"""Model servers that are not ours, in an office's pods: deployed, compared and called as the verbs do it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from mlflow_istio.adapters.records import PinnedRecords
from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.analysis.shadow_verdict import ShadowLimits
from mlflow_istio.core.mesh.pods import RECORD_TOKEN, PodSettings, variable_of
from mlflow_istio.core.runtime.profiles import OVER_GRPC
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.releases.context import Context, address_of, pin_headers
from mlflow_istio.releases.deploying import deployments
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.driving.comparison import Compared, compare
from mlflow_istio.wiring.connection import load_templates
from tests.control_plane.office import ENDPOINT, Office

V2 = replace(
    OVER_GRPC["mlserver"],
    command=("python", "-m", "tests.support.v2_server"),
    env={"PYTHONPATH": str(Path(__file__).parents[2])},
)
"""A small server modelled on MLServer, over gRPC."""
RECORDING = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_FIELDS": "output,input"}


def context_of(office: Office) -> Context:
    """The office's, with our own templates as they are."""
    return replace(office.context, templates=load_templates(None))


def deployed(office: Office, version: int, runtime: Runtime, **more: Any) -> None:
    """Deploy ``m-vVERSION`` on a runtime."""
    request = DeployRequest(
        **{
            "name": f"m-v{version}",
            "endpoint": ENDPOINT,
            "model_uri": f"models:/m/{version}",
            "image": "theirs",
            "download_image": "serving",
            "runtime": runtime,
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


def compared(office: Office, kind: str) -> Compared:
    """What a shadow's answers are like, beside the stable's."""
    return compare(
        context_of(office),
        records_of(office),
        ENDPOINT,
        rule=AnswerRule(kind=kind),
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
