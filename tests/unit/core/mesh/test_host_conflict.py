"""A host that another VirtualService has at the same gateway is refused, because Istio would send its requests to the older one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.core.mesh.host_conflict import check_hosts
from mlflow_istio.errors import StateConflict


def virtual_service(name: str, hosts: Sequence[str], gateways: Sequence[str] | None) -> Object:
    spec: Object = {**({"hosts": list(hosts)} if hosts else {}), **({"gateways": list(gateways)} if gateways else {})}
    return {
        "apiVersion": API_VERSIONS["VirtualService"],
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": spec,
    }


SAME = [
    (["churn.example.com"], ["infra/gw"], ["x.example.com", "churn.example.com"], ["mesh", "infra/gw"]),
    (["churn.example.com"], ["gw"], ["churn.example.com"], ["models/gw"]),
    (["churn"], ["infra/gw"], ["churn.models.svc.cluster.local"], ["infra/gw"]),
    (["churn"], None, ["churn"], ["mesh"]),
    (["*"], ["infra/gw"], ["*"], ["infra/gw"]),
    (["churn.example.com"], ["infra/gw"], ["churn.example.com"], ["gw.infra.svc.cluster.local"]),
    (["churn.example.com"], ["gw.infra"], ["Churn.Example.com"], ["mesh", "gw.infra.svc"]),
    (["churn.example.com"], ["./gw"], ["churn.example.com"], ["gw.models.svc.cluster.local"]),
    (["*.example.com"], ["gw"], ["*.example.com"], ["models/gw"]),
    (["churn"], None, ["churn.models"], None),
    (["churn"], ["mesh", "gw"], ["churn.models.svc"], ["mesh"]),
]
DIFFERENT = [
    (["churn.example.com"], ["infra/gw"], ["fraud.example.com"], ["infra/gw"]),
    (["churn.example.com"], ["infra/gw"], ["churn.example.com"], ["infra/other"]),
    (["churn"], ["infra/gw"], ["churn.elsewhere.svc.cluster.local"], ["infra/gw"]),
    (["churn"], ["infra/gw"], ["churn"], None),
    ([], ["infra/gw"], ["churn"], ["infra/gw"]),
    ([], None, [], None),
    (["churn"], ["infra/gw"], ["churn.models"], ["infra/gw"]),
    (["churn.example.com"], ["infra/gw"], ["churn.example.com"], ["gw.models.svc.cluster.local"]),
    (["churn.example.com"], ["infra/gw"], ["*.example.com"], ["infra/gw"]),
    (["churn"], None, ["churn.elsewhere"], None),
]


@pytest.mark.parametrize(("hosts", "gateways", "other_hosts", "other_gateways"), SAME)
def test_the_same_host_at_a_common_gateway_is_refused_with_the_others_name(
    hosts: list[str], gateways: list[str] | None, other_hosts: list[str], other_gateways: list[str] | None
) -> None:
    other = virtual_service("theirs", other_hosts, other_gateways)
    with pytest.raises(StateConflict, match="belongs to VirtualService 'theirs' already.*endpoint 'ours'"):
        check_hosts(virtual_service("ours", hosts, gateways), [other], "models")


@pytest.mark.parametrize(("hosts", "gateways", "other_hosts", "other_gateways"), DIFFERENT)
def test_another_host_or_another_gateway_is_nobodys_business(
    hosts: list[str], gateways: list[str] | None, other_hosts: list[str], other_gateways: list[str] | None
) -> None:
    other = virtual_service("theirs", other_hosts, other_gateways)
    check_hosts(virtual_service("ours", hosts, gateways), [other], "models")


def test_a_virtual_service_is_not_in_its_own_way() -> None:
    ours = virtual_service("ours", ["churn"], None)
    check_hosts(ours, [ours], "models")
