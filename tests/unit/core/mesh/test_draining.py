"""How long a server that goes may finish what it is answering, as its Deployment says it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.basics.objects import annotations_of
from mlflow_istio.core.mesh.manifests import DeploymentValues, deployment_manifest, may_stream
from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.runtime.profiles import MLFLOW, OPENAI
from tests.support.endpoint_values import TEMPLATES

PLAIN = DeploymentValues(
    name="chat-v1", endpoint="chat", model=ModelVersion(model="chat", version=1), image="serving:1", pod=PodSettings()
)
STREAMS = ModelVersion(model="chat", version=1, streams=True)
PROXY = "proxy.istio.io/config"


def rendered(**changes: Any) -> dict[str, Any]:
    return deployment_manifest(TEMPLATES["Deployment"], replace(PLAIN, **changes))


def grace(deployment: dict[str, Any]) -> int | None:
    found: int | None = deployment["spec"]["template"]["spec"].get("terminationGracePeriodSeconds")
    return found


@pytest.mark.parametrize(
    ("changes", "seconds", "streams"),
    [
        ({}, None, False),
        ({"drain": 60}, 65, False),
        ({"model": STREAMS, "runtime": MLFLOW}, 305, True),
        ({"model": STREAMS, "drain": 10}, 15, True),
        ({"runtime": replace(OPENAI, command=("serve",))}, 305, True),
        ({"model": STREAMS, "pod": None}, 305, True),
    ],
)
def test_what_may_stream_has_five_minutes_unless_somebody_says_otherwise(
    changes: dict[str, Any], seconds: int | None, streams: bool
) -> None:
    deployment = rendered(**changes)
    assert (grace(deployment), may_stream(deployment)) == (seconds, streams)


def test_the_proxy_beside_it_waits_too_unless_it_is_configured_already() -> None:
    def proxy(**changes: Any) -> str | None:
        return annotations_of(rendered(**changes)["spec"]["template"]).get(PROXY)

    assert "EXIT_ON_ZERO_ACTIVE_CONNECTIONS" in str(proxy(model=STREAMS))
    assert proxy(model=STREAMS, pod=PodSettings(annotations={PROXY: "{}"})) == "{}"
    assert proxy(model=STREAMS, pod=None) is None
    assert proxy() is None
