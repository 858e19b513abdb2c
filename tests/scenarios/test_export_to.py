"""Which namespaces' proxies see an endpoint: real on a cluster, refused by name on the local mesh, which has no namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import requests
from mlflow.exceptions import MlflowException

from mlflow_istio.verbs import Verbs
from tests.scenarios.place import BODY, VERSION, Place

ALIASES = {"champion_alias": "", "challenger_alias": "", "ready_timeout": 120}


@pytest.fixture
def guest(place: Place) -> Iterator[Place]:
    yield place
    place.client.delete_endpoint("seen", {"force": True, "confirm_timeout": 2})


def test_an_endpoint_is_seen_by_the_gateway_it_is_exported_to_and_by_no_other(guest: Place) -> None:
    def create(export_to: str, **more: object) -> None:
        config = {**ALIASES, "export_to": export_to, **more}
        guest.client.create_deployment("seen-v1", "models:/m/1", endpoint="seen", config=config)

    if guest.target == "istio-local":
        with pytest.raises(MlflowException, match="option 'export_to' has no effect on target istio-local"):
            create(".")
        return
    with pytest.raises(MlflowException, match="namespace 'Not One' is not valid"):
        create("Not One")
    at_gateway = {"host": "seen.example", "gateway": os.environ["MLFLOW_ISTIO_GATEWAY"]}
    create(".,istio-system", **at_gateway)
    view = guest.client.get_endpoint("seen")
    answer = requests.post(view["scoring_url"], json=BODY, headers=view["headers"], timeout=60)
    assert (answer.status_code, answer.headers[VERSION]) == (200, "m/1")
    cluster = Verbs(guest.target)._read().cluster
    for kind in ("VirtualService", "DestinationRule"):
        found = cluster.get(kind, "seen")
        assert found is not None
        assert found["spec"]["exportTo"] == [".", "istio-system"]
    guest.client.delete_endpoint("seen")
    with pytest.raises(MlflowException, match="did not confirm routing change .* status 404"):
        create(".", **at_gateway, confirm_timeout=5)
