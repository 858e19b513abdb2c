"""At a real gateway pins and the probe ask for a key, from the first moment or from the next command on."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.matching.pin_guard import is_key
from mlflow_istio.releases.context import edit_endpoint, endpoint_of, pin_headers
from mlflow_istio.releases.moving.pins import set_pins
from tests.control_plane.office import ENDPOINT, Office
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

PIN = {"x-mlflow-deployment": "m-v2"}


def asked(office: Office, headers: Mapping[str, str], path: str = "/invocations") -> tuple[int, str]:
    """Status and version, or body, of a caller's request at the gateway, with no header but these."""
    address = office.cluster.address(ENDPOINT)
    connection = http.client.HTTPConnection(urlsplit(address.url).netloc, timeout=60)
    try:
        connection.request("POST", path, headers={**address.headers, **headers})
        answer = connection.getresponse()
        body = answer.read().decode()
        return answer.status, answer.getheader("x-mlflow-model-version") or body
    finally:
        connection.close()


def test_an_endpoint_at_a_gateway_is_guarded_and_ours_go_on(settled: Office) -> None:
    endpoint = endpoint_of(settled.cluster, ENDPOINT)
    assert is_key(endpoint.guard)
    assert asked(settled, PIN) == (200, "m/1")
    assert asked(settled, {**PIN, "x-mlflow-istio-key": "mik_" + "0" * 32}) == (200, "m/1")
    assert endpoint.change not in asked(settled, {"x-mlflow-istio-probe": "1"}, "/")[1]
    assert asked(settled, pin_headers(settled.cluster, ENDPOINT, "m-v2")) == (200, "m/2")
    outcome = settled.canary(2, 0)
    assert outcome.proxies, "the change was proved through the guarded probe"
    settled.rollback()


def test_another_key_shuts_out_the_old_one_and_open_asks_for_none(settled: Office) -> None:
    old = pin_headers(settled.cluster, ENDPOINT, "m-v2")
    assert set_pins(settled.context, ENDPOINT, "new").proxies
    assert asked(settled, old) == (200, "m/1")
    assert asked(settled, pin_headers(settled.cluster, ENDPOINT, "m-v2")) == (200, "m/2")
    assert set_pins(settled.context, ENDPOINT, "open").proxies
    assert asked(settled, PIN) == (200, "m/2")
    assert set_pins(settled.context, ENDPOINT, "guarded").proxies
    assert asked(settled, PIN) == (200, "m/1")


def test_an_endpoint_of_before_gets_its_key_with_the_next_change(settled: Office) -> None:
    def as_before(endpoint: Endpoint) -> Endpoint:
        return replace(endpoint, guard=None)

    edit_endpoint(settled.cluster, ENDPOINT, ENDPOINT, as_before)
    wait_for("the gateway to have open pins", lambda: asked(settled, PIN) == (200, "m/2"))
    assert settled.canary(2, 10).proxies
    assert is_key(endpoint_of(settled.cluster, ENDPOINT).guard)
    assert asked(settled, pin_headers(settled.cluster, ENDPOINT, "m-v2")) == (200, "m/2")
    wait_for("pins that ask for a key", lambda: {asked(settled, PIN)[1] for _ in range(20)} == {"m/1", "m/2"})
    settled.rollback()
