"""Hosts and gateways have one name each, however a VirtualService writes them; the names are those that istiod makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.places import (
    asked_hosts,
    full_gateway,
    gateways_of,
    has_host,
    inside_host,
    placed,
    without_port,
)


def virtual_service(*http: Object, **spec: Any) -> Object:
    return {"metadata": {"name": "shop", "namespace": "team-a"}, "spec": {**spec, "http": list(http)}}


# What istiod's resolveGatewayName says of each (pilot/pkg/model/config.go, and its test in virtualservice_test.go).
GATEWAYS = {
    "front": "team-a/front",
    "istio-system/front": "istio-system/front",
    "./front": "team-a/front",
    "front.istio-system": "istio-system/front",
    "front.istio-system.svc": "istio-system/front",
    "front.istio-system.svc.cluster.local": "istio-system/front",
    "mesh": "mesh",
}


@pytest.mark.parametrize(("written", "full"), GATEWAYS.items())
def test_a_gateway_has_one_name_in_all_its_spellings(written: str, full: str) -> None:
    assert full_gateway(written, "team-a") == full
    both = virtual_service({"match": [{"gateways": [written]}, {}]}, gateways=[written])
    assert gateways_of(both) == (full,)
    assert placed(both) == virtual_service({"match": [{"gateways": [full]}, {}]}, gateways=[full])


def test_without_gateways_the_sidecars_have_it_and_nothing_is_named() -> None:
    bare = virtual_service({"match": [{"uri": {"prefix": "/"}}]})
    assert gateways_of(bare) == ("mesh",)
    assert placed(bare) == bare
    assert placed({"metadata": {"name": "a"}}) == {"metadata": {"name": "a"}}


@pytest.mark.parametrize("written", ["chat", "chat.team-a", "chat.team-a.svc", "chat.team-a.svc.cluster.local", "Chat"])
def test_sidecars_know_a_service_by_all_its_names(written: str) -> None:
    assert inside_host(written, "team-a") == "chat.team-a.svc.cluster.local"


@pytest.mark.parametrize("written", ["www.chat.example", "*.team-a", "*", "a.b.c.d"])
def test_what_is_no_services_name_stays(written: str) -> None:
    assert inside_host(written, "team-a") == written


HOSTS: list[tuple[dict[str, Any], str, bool]] = [
    ({"hosts": ["shop.example"], "gateways": ["front"]}, "shop.example", True),
    ({"hosts": ["shop.example"], "gateways": ["front"]}, "SHOP.example:8080", True),
    ({"hosts": ["shop.example"], "gateways": ["front"]}, "other.example", False),
    ({"hosts": ["*.example"], "gateways": ["front"]}, "shop.example", True),
    ({"hosts": ["*.example"], "gateways": ["front"]}, "example", False),
    ({"hosts": ["*"], "gateways": ["front"]}, "anything", True),
    ({"hosts": ["shop"], "gateways": ["front"]}, "shop.team-a.svc.cluster.local", True),
    ({"hosts": ["shop"], "gateways": ["front"]}, "shop", False),
    ({"hosts": ["shop"]}, "shop", True),
    ({"hosts": ["shop"]}, "shop.team-a:80", True),
    ({"hosts": ["shop"], "gateways": ["front", "mesh"]}, "shop.team-b", False),
    ({"hosts": ["10.0.0.1"]}, "10.0.0.1:80", True),
]


@pytest.mark.parametrize(("spec", "authority", "own"), HOSTS)
def test_whose_host_it_is(spec: dict[str, Any], authority: str, own: bool) -> None:
    assert has_host(virtual_service(**spec), authority) is own


@pytest.mark.parametrize(
    ("authority", "host"), [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("::1", "::1"), ("a:b", "a:b")]
)
def test_a_port_is_no_part_of_the_host(authority: str, host: str) -> None:
    assert without_port(authority) == host


def test_each_host_is_asked_by_a_name_that_it_covers_the_public_ones_first() -> None:
    hosts = ["shop", "*.example", "www.shop.example", "*"]
    assert asked_hosts(virtual_service(hosts=hosts)) == (
        "shop.example",
        "www.shop.example",
        "shop.team-a.svc.cluster.local",
    )
