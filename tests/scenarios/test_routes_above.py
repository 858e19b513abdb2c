"""What stands above and beside our routes in a user's VirtualService, with real requests: aside it stays, in the way it is told."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException

from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.verbs import Verbs
from tests.contract.model_server import deployment, service
from tests.scenarios.place import BODY, VERSION, Place

WEB = "web/1"
NO_ALIASES = {"champion_alias": "", "challenger_alias": ""}
OPTIONS = {**NO_ALIASES, "ready_timeout": 120}
"""Aliases of model m belong to the scenarios' own endpoint."""
TO_WEB = [{"destination": {"host": "web", "port": {"number": 80}}}]


def on_cluster(place: Place) -> bool:
    return place.target != "istio-local"


def spelled(end: str) -> str:
    """The testbed's gateway in a spelling that is not the usual one."""
    namespace, _, name = os.environ["MLFLOW_ISTIO_GATEWAY"].partition("/")
    return f"{name}.{namespace}{end}"


def answer(name: str, *match: Object) -> Object:
    """A route of the user's that answers by itself."""
    conditions = {"match": list(match)} if match else {}
    return {"name": name, **conditions, "directResponse": {"status": 200, "body": {"string": name}}}


def main(**fields: Any) -> Object:
    match = [{"uri": {"prefix": "/api/score"}}]
    return {
        "name": "main",
        "match": match,
        "rewrite": {"uri": "/invocations"},
        "route": copy.deepcopy(TO_WEB),
        **fields,
    }


def store(place: Place, cluster: Cluster, *http: Object, hosts: tuple[str, ...] = ("shop.example",)) -> Object:
    """What the user had: these routes, at the gateway by its longest name."""
    spec: Object = {"hosts": list(hosts), "http": list(http)}
    if on_cluster(place):
        spec["gateways"] = [spelled(".svc.cluster.local"), "mesh"]
    metadata = {"name": "shop"}
    return cluster.apply(
        {"apiVersion": API_VERSIONS["VirtualService"], "kind": "VirtualService", "metadata": metadata, "spec": spec}
    )


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    """The target's cluster with a service of the user's in it."""
    found = Verbs(place.target)._read().cluster
    found.apply(deployment("web", "web-1", version=WEB))
    found.apply(service("web"))
    found.wait_ready("web-1", 60)
    yield found
    place.client.delete_endpoint("chat", {"force": True})
    found.delete("VirtualService", "shop")
    for kind, name in (("Service", "web"), ("Deployment", "web-1")):
        found.delete(kind, name)


def spec_of(cluster: Cluster, name: str = "shop") -> Any:
    found = cluster.get("VirtualService", name)
    assert found is not None
    return found["spec"]


def ask(view: dict[str, Any], count: int, path: str | None = None, **headers: str) -> dict[str, int]:
    """Who answers, at the endpoint's own address or at another path of its host."""
    url = view["scoring_url"] if path is None else view["scoring_url"].removesuffix("/api/score") + path
    seen: dict[str, int] = {}
    with requests.Session() as session:
        for _ in range(count):
            got = session.post(url, json=BODY, headers={**view["headers"], **headers}, timeout=60)
            who = got.headers.get(VERSION, got.text) if got.status_code == 200 else str(got.status_code)
            seen[who] = seen.get(who, 0) + 1
    return seen


def test_routes_aside_block_nothing_and_keep_their_own_requests(place: Place, cluster: Cluster) -> None:
    aside = [answer("admin", {"authority": {"exact": "admin.example"}}), answer("docs", {"headers": {"X-Docs": {}}})]
    if on_cluster(place):
        aside += [
            answer("sidecars", {"gateways": ["mesh"]}),
            answer("callers", {"sourceLabels": {"app": "nobody"}}),
            answer("port", {"port": 8443}),
            {
                "name": "support",
                "match": [{"uri": {"prefix": "/support"}}],
                "delegate": {"name": "chat", "namespace": "team-b"},
            },
        ]
    without = [{"uri": {"prefix": "/api/score"}, "withoutHeaders": {"x-preview": {"regex": "*"}}}]
    routes = [*aside, answer("secure", {"scheme": {"exact": "https"}}), main(match=without), answer("rest")]
    store(place, cluster, *routes, hosts=("admin.example", "shop.example"))
    before = spec_of(cluster)

    view = place.client.adopt("chat", "shop", "main", **NO_ALIASES)
    assert view["headers"]["Host"] == "shop.example", "the first host is the administrators'"
    assert ask(view, 10) == {WEB: 10}
    config = {"strategy": "canary", "weight": 100, **OPTIONS}
    place.client.create_deployment("chat-v1", "models:/m/1", endpoint="chat", config=config)
    place.client.promote("chat")
    assert ask(view, 10) == {"m/1": 10}
    assert ask(view, 3, Host="admin.example") == {"admin": 3}
    assert ask(view, 3, **{"x-docs": "1"}) == {"docs": 3}
    assert ask(view, 3, **{"X-Preview": "1"}) == {"rest": 3}
    seen = {"host": "shop.example", "path": "/api/score"}
    assert place.client.explain_route("chat", **seen)["kind"] == "split"
    assert place.client.explain_route("chat", **{**seen, "host": "admin.example"})["route"] == "admin"
    assert place.client.explain_route("chat", **seen, headers={"x-preview": ""})["route"] == "rest"

    nobody = place.client.explain_route("chat", host="other.example", path="/api/score")
    assert (nobody["route"], nobody["answers"]) == (None, [])
    assert "other.example is not a host of VirtualService 'shop'" in nobody["nobody"]
    if on_cluster(place):  # a local mesh has a port for each VirtualService, and answers there by any name
        assert ask(view, 3, Host="other.example") == {"404": 3}

    place.client.delete_endpoint("chat", {"force": True})
    assert spec_of(cluster) == before


DEAD: dict[str, tuple[Object, str]] = {
    "a prefix": (answer("all", {"uri": {"prefix": "/"}}), r"route 'all' \(uri prefix '/'\)"),
    "no match": (answer("all"), r"route 'all' \(no match\)"),
    "a regex": (answer("", {"uri": {"regex": "/.*"}}), r"route 'spec.http\[0\]' \(uri regex '/\.\*'\)"),
    "its host": (answer("all", {"authority": {"prefix": "shop."}}), r"route 'all' \(authority prefix 'shop.'\)"),
}


@pytest.mark.parametrize(("above", "words"), DEAD.values(), ids=list(DEAD))
def test_a_dead_route_is_refused_before_anything_is_written(
    place: Place, cluster: Cluster, above: Object, words: str
) -> None:
    above = {key: value for key, value in above.items() if value}
    store(place, cluster, above, main())
    before = cluster.get("VirtualService", "shop")
    with pytest.raises(MlflowException, match=rf"reaches route 'main' .*{words} above it takes them: put it below"):
        place.client.adopt("chat", "shop", "main", **NO_ALIASES)
    config = {"virtual_service": "shop", "route": "main", **OPTIONS}
    with pytest.raises(MlflowException, match=words):
        place.client.create_deployment("chat-v1", "models:/m/1", endpoint="chat", config=config)
    assert cluster.get("VirtualService", "shop") == before
    assert (cluster.get("Deployment", "chat-v1"), cluster.get("Service", "chat")) == (None, None)


def test_a_shared_hosts_everything_is_stood_above_in_whichever_words_and_another_namespaces_delegate_stays(
    place: Place, cluster: Cluster
) -> None:
    theirs = [answer("docs", {"uri": {"prefix": "/docs"}})]
    if on_cluster(place):
        theirs.append(
            {
                "name": "support",
                "match": [{"uri": {"prefix": "/support"}}],
                "delegate": {"name": "chat", "namespace": "team-b"},
            }
        )
    rest = {"name": "rest", "match": [{"name": "all", "uri": {"regex": ".*"}}], "route": copy.deepcopy(TO_WEB)}
    store(place, cluster, *theirs, rest)
    before = spec_of(cluster)
    config = {"under": "shop", "path": "/api/v1/chat", **OPTIONS}
    place.client.create_deployment("chat-v1", "models:/m/1", endpoint="chat", config=config)
    names = [route.get("name") for route in spec_of(cluster)["http"]]
    assert names == [*(route["name"] for route in theirs), None, None, "rest"]
    view = place.client.get_endpoint("chat")
    assert ask(view, 10) == {"m/1": 10}
    base = view["url"].removesuffix("/api/v1/chat")
    assert requests.get(f"{base}/docs", headers=view["headers"], timeout=60).text == "docs"
    elsewhere = requests.post(f"{base}/invocations", json=BODY, headers=view["headers"], timeout=60)
    assert elsewhere.headers[VERSION] == WEB
    assert place.client.explain_route("chat", path="/support/x")["kind"] == (
        "delegate" if on_cluster(place) else "other"
    )

    taker = answer("taker", {"uri": {"prefix": "/api/v2"}})
    cluster.edit("VirtualService", "shop", lambda obj: {**(obj or {}), "spec": with_first(obj or {}, taker)})
    with pytest.raises(MlflowException, match=r"route 'taker' \(uri prefix '/api/v2'\) takes /api/v2/rank already"):
        place.client.create_deployment(
            "rank-v1", "models:/m/3", endpoint="rank", config={**config, "path": "/api/v2/rank"}
        )
    assert cluster.get("Deployment", "rank-v1") is None

    place.client.delete_endpoint("chat", {"force": True})
    assert spec_of(cluster) == {**before, "http": [taker, *before["http"]]}


def with_first(obj: Object, route: Object) -> Object:
    return {**obj["spec"], "http": [route, *obj["spec"]["http"]]}


def test_an_owners_header_is_met_in_any_spelling(place: Place, cluster: Cluster) -> None:
    store(place, cluster, main(headers={"response": {"set": {"X-Tenant": "theirs"}}}))
    before = spec_of(cluster)
    view = place.client.adopt("chat", "shop", "main", **NO_ALIASES)

    def tenant() -> str | None:
        got = requests.post(view["scoring_url"], json=BODY, headers=view["headers"], timeout=60)
        return got.headers.get("x-tenant")

    assert tenant() == "theirs"
    ours = {"headers": {"response": {"set": {"x-tenant": "ours"}}}}
    words = r"route 'main' has headers.response.set.X-Tenant of its own \('theirs', the same header as x-tenant\)"
    with pytest.raises(MlflowException, match=words):
        place.client.policy("chat", **ours)
    assert tenant() == "theirs"
    place.client.policy("chat", **ours, replace=True)
    assert tenant() == "ours"
    place.client.policy("chat", headers={"response": {"remove": ["x-tenant"]}}, replace=True)
    assert tenant() is None
    place.client.policy("chat", headers="none")
    assert tenant() == "theirs"
    place.client.delete_endpoint("chat")
    assert spec_of(cluster) == before


def test_a_host_that_another_has_is_refused_in_any_spelling(place: Place, cluster: Cluster) -> None:
    taken = store(place, cluster, main(), hosts=("chat.scenarios" if on_cluster(place) else "chat",))
    with pytest.raises(MlflowException, match="at gateway 'mesh' belongs to VirtualService 'shop' already"):
        place.client.create_deployment("chat-v1", "models:/m/1", endpoint="chat", config=OPTIONS)
    assert cluster.get("Service", "chat") is None
    if on_cluster(place):
        taken["spec"] = {**taken["spec"], "hosts": ["Chat.example"], "gateways": [spelled("")]}
        cluster.edit("VirtualService", "shop", lambda obj: {**(obj or {}), "spec": taken["spec"]})
        config = {"host": "chat.example", "gateway": os.environ["MLFLOW_ISTIO_GATEWAY"], **OPTIONS}
        with pytest.raises(
            MlflowException, match=r"host 'chat.example' at gateway .* belongs to VirtualService 'shop'"
        ):
            place.client.create_deployment("chat-v1", "models:/m/1", endpoint="chat", config=config)
        assert cluster.get("Service", "chat") is None
