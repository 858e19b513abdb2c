"""Where a VirtualService is exposed: the names by which its proxies are found and asked, in whichever spelling it has them."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.adapters.kubernetes.exposure import Exposure, exposure_of, listened_port, served_host


def exposed(**spec: Any) -> Exposure:
    return exposure_of({"metadata": {"name": "shop", "namespace": "team-a"}, "spec": spec})


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("front", "team-a/front"),
        ("infra/front", "infra/front"),
        ("front.infra", "infra/front"),
        ("front.infra.svc.cluster.local", "infra/front"),
    ],
)
def test_a_gateway_is_found_by_its_full_name(written: str, full: str) -> None:
    found = exposed(hosts=["shop.example"], gateways=[written])
    assert (found.gateways, found.in_mesh, found.hosts) == ((full,), False, ("shop.example",))


def test_its_hosts_are_asked_by_full_names_the_public_ones_first() -> None:
    found = exposed(hosts=["shop", "*.example", "Www.example"], gateways=["mesh", "front"])
    assert found.hosts == ("shop.example", "www.example", "shop.team-a.svc.cluster.local")
    assert (found.inside, found.in_mesh) == ("shop.team-a.svc.cluster.local", True)
    assert exposed().hosts == ("shop.team-a.svc.cluster.local",)
    assert exposed(hosts=["*"]).hosts == ("shop.team-a.svc.cluster.local",)


def test_a_probe_for_some_gateways_is_asked_for_there_alone() -> None:
    found = exposed(hosts=["shop.example"], gateways=["front", "back", "mesh"])
    assert found.at(None) is found
    only = found.at(("team-a/back",))
    assert (only.gateways, only.in_mesh, only.hosts) == (("team-a/back",), False, found.hosts)
    sidecars = found.at(("mesh",))
    assert (sidecars.gateways, sidecars.in_mesh) == ((), True)


def test_the_host_is_one_that_the_gateway_serves_in_plain_http() -> None:
    found = exposed(hosts=["a.example", "b.other"], gateways=["front"])
    servers = [
        {"port": {"number": 443, "protocol": "HTTPS"}, "hosts": ["*"]},
        {"port": {"number": 80, "protocol": "HTTP"}, "hosts": ["team-a/*.other"]},
    ]
    assert served_host(found, {"spec": {"servers": servers}}) == "b.other"
    assert served_host(found, {"spec": {"servers": servers[:1]}}) is None
    assert served_host(found, None) == "a.example"


SERVERS = [
    {"port": {"number": 8080, "protocol": "HTTP"}, "hosts": ["*"]},
    {"port": {"number": 8443, "protocol": "HTTPS"}, "hosts": ["*"]},
    {"port": {"number": 9443, "protocol": "HTTPS"}, "hosts": ["*"]},
]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://10.0.0.1", 8080),  # a load balancer's 80 stands for the only plain server
        ("http://10.0.0.1:8080", 8080),
        ("https://10.0.0.1:9443", 9443),
        ("https://10.0.0.1", None),  # which of the two?
    ],
)
def test_the_port_that_matches_ask_for_is_the_servers(url: str, port: int | None) -> None:
    assert listened_port(url, {"spec": {"servers": SERVERS}}) == port


@pytest.mark.parametrize(("url", "port"), [("http://a", 80), ("https://a", 443), ("http://a:8080", 8080)])
def test_where_the_gateway_is_not_known_it_is_the_addresss_own(url: str, port: int) -> None:
    assert listened_port(url, None) == port
    plain = {"port": {"number": 1, "protocol": "HTTP"}}
    assert listened_port(url, {"spec": {"servers": [plain]}}) == (1 if url.startswith("http:") else port)
