"""docs/kserve.md as it stands: a predictor that KServe keeps, and a registered version released beside it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.verbs import Verbs
from tests.contract.model_server import deployment, service
from tests.scenarios.place import Place
from tests.scenarios.test_adoption import ask, own_part
from tests.support.registered_models import register

PREDICTOR = "churn-predictor"
OURS, THEIRS = "churn/2", "kserve/1"
TEXT = (Path(__file__).parents[2] / "docs" / "kserve.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.S | re.M)
    return str(found)


def users_route(place: Place) -> Object:
    """The page's VirtualService, at the testbed's gateway where there is one."""
    found: dict[str, Any] = yaml.safe_load(block("yaml"))
    if place.target != "istio-local":
        found["spec"]["gateways"] = [os.environ["MLFLOW_ISTIO_GATEWAY"], "mesh"]
    return found


def predictors_service(place: Place) -> Object:
    """Without an address of its own on the cluster, as KServe can be told to make it; the local mesh refuses such a Service."""
    found = service(PREDICTOR)
    return found if place.target == "istio-local" else {**found, "spec": {**found["spec"], "clusterIP": "None"}}


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    """The target's cluster with what KServe keeps for an InferenceService ``churn``, and the user's VirtualService."""
    found = Verbs(place.target)._read().cluster
    found.apply(deployment(PREDICTOR, PREDICTOR, version=THEIRS))
    found.apply(predictors_service(place))
    found.apply(users_route(place))
    found.wait_ready(PREDICTOR, 60)
    yield found
    place.client.delete_endpoint("churn-live", {"force": True})
    for kind, name in (("VirtualService", "scoring"), ("Service", PREDICTOR), ("Deployment", PREDICTOR)):
        found.delete(kind, name)


def test_a_version_is_released_beside_a_predictor_and_the_way_back_stays_open(
    place: Place, cluster: Cluster, tmp_path: Path
) -> None:
    for answer in (1.0, 2.0):
        register(place.tracking_uri, "churn", answer, tmp_path if place.target == "istio-local" else None)
    before = {kind: own_part(cluster.get(kind, name)) for kind, name in (("VirtualService", "scoring"), *KEPT)}

    def run(line: str) -> None:
        command = line.replace("istio:/models", place.target)
        program, *arguments = command.split(" ", 1)
        bash = f"{shlex.quote(str(Path(sys.executable).parent / program))} {arguments[0]}"
        done = subprocess.run(
            ["bash", "-ec", bash], env=dict(os.environ), capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, f"{bash}\n{done.stdout}\n{done.stderr}"

    adopt, create, promote, rollback, delete = block("bash").splitlines()
    run(adopt)
    view = place.client.get_endpoint("churn-live")
    assert view["stable"] == f"{PREDICTOR}:80"
    assert ask(view, 20) == {THEIRS: 20}
    run(create)
    assert place.client.get_endpoint("churn-live")["traffic"] == {"churn-v2": 10, f"{PREDICTOR}:80": 90}
    assert set(ask(view, 300)) == {OURS, THEIRS}
    run(promote)
    assert ask(view, 50) == {OURS: 50}
    run(rollback)
    assert ask(view, 50) == {THEIRS: 50}
    run(delete)
    assert ask(view, 20) == {THEIRS: 20}
    after = {kind: own_part(cluster.get(kind, name)) for kind, name in (("VirtualService", "scoring"), *KEPT)}
    assert after == before, "what KServe and the user have is what it was"


KEPT = (("Service", PREDICTOR), ("Deployment", PREDICTOR))
