"""Counts from the statistics of a gateway that the real istiod configures."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics
from mlflow_istio.core.analysis.measures import REQUESTS
from tests.contract.metrics_contract import MetricsContract, Watch, counted
from tests.control_plane.office import ENDPOINT, Office, open_office
from tests.testbed.client import Testbed, wait_for

pytestmark = pytest.mark.control_plane


class GatewayTraffic:
    """Two deployments behind the testbed's gateway."""

    endpoint = ENDPOINT
    deployments = ("m-v1", "m-v2")

    def __init__(self, office: Office) -> None:
        self.office = office
        self.admin = os.environ["GATEWAY_ADMIN_URL"]
        self.metrics = EnvoyMetrics(lambda: [self.admin], live=False, namespace=office.namespace)

    def serve(self, deployment: str, requests: int, errors: int = 0) -> None:
        # Pinned requests are in these counts, so the tests can choose the version without a change of traffic.
        pin = {"x-mlflow-deployment": deployment}
        for number in range(requests):
            self.office.ask(pin, path="/fail" if number < errors else "/invocations")

    def settle(self) -> None:
        def settled() -> bool:
            found = self.metrics.read(self.endpoint, self.deployments).values()
            counters = [one for reading in found for one in reading.values()]
            return bool(counters) and all(one.get(REQUESTS) == one.get("le/+Inf") for one in counters)

        wait_for("histograms that have caught up", settled)

    def restart(self) -> None:
        Testbed.of_this_process().restart("gateway")
        # The probe route answers from the proxy itself, so that it adds to no count.
        wait_for("a gateway that routes", lambda: self.office.ask({"x-mlflow-istio-probe": "1"})[0] == 200)

    def stop(self) -> None:
        """The Envoy of another test is needed still: ask where there is none."""
        self.admin = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def module_office() -> Iterator[Office]:
    with open_office() as office:
        office.deploy(1)
        office.deploy(2)
        office.canary(2, 0)
        yield office


@pytest.fixture
def traffic(module_office: Office) -> GatewayTraffic:
    return GatewayTraffic(module_office)


class TestGateway(MetricsContract):
    """The contract, on the real gateway."""


def test_the_splits_own_requests_are_counted_where_they_went(traffic: GatewayTraffic) -> None:
    for deployment in traffic.deployments:  # a proxy that was restarted has no counters of what nobody has asked yet
        traffic.serve(deployment, 1)
    traffic.settle()
    watch = Watch(traffic)
    watch.look()
    assert set(watch.seen) == set(traffic.deployments)
    traffic.office.shift(30)
    answers = traffic.office.count(60)
    seen = watch.until(lambda seen: sum(counted(seen, name, "le/+Inf") for name in traffic.deployments) >= 60)
    assert set(answers) == {"m/1", "m/2"}
    # A version that gets its first weight is asked once through its pin before: that request is in the count, too.
    assert counted(seen, "m-v1", REQUESTS) == answers["m/1"]
    assert answers["m/2"] <= counted(seen, "m-v2", REQUESTS) <= answers["m/2"] + 1
