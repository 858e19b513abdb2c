"""The real Envoy of a local mesh and the in-memory cluster answer alike, whatever stands in a VirtualService."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.testing import Answers, InMemoryCluster, Request
from mlflow_istio.testing.cluster import first_values
from tests.contract.cluster_contract import request as send
from tests.contract.model_server import deployment, destination_rule, service

pytestmark = pytest.mark.e2e

COUNT, REQUESTS = 60, 12
PATHS = ("/api", "/api/score", "/API/score", "/docs", "/", "/api/../docs")
VALUES = ("", "1", "12", "ada", "Ada")
SUBSETS = ("m-a", "m-b", "m-none")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """A mesh with m-a and m-b; the subset m-none has nobody."""
    mesh = LocalMesh(tmp_path_factory.mktemp("alike") / "home")
    mesh.apply_by_user(list(standing()))
    for name in ("m-a", "m-b"):
        mesh.wait_ready(name, 60)
    yield mesh
    mesh.down(purge=True)


def standing() -> Iterator[Object]:
    yield service("m")
    yield destination_rule("m", *SUBSETS)
    yield deployment("m", "m-a")
    yield deployment("m", "m-b")


class Maker:
    """Makes VirtualServices and requests by chance, of few words so that they meet."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def some(self, *makers: Any) -> dict[str, Any]:
        """Some of the members, of which each is there by chance."""
        return {key: make() for key, make in makers if self.random.random() < 0.3}

    def string(self, values: tuple[str, ...] = VALUES[1:]) -> Object:
        kind, value = self.random.choice(("exact", "prefix", "regex", "present")), self.random.choice(values)
        if kind == "present":
            return {}
        return {kind: f"{value[:2]}.*" if kind == "regex" else value}

    def match(self) -> Object:
        found: Object = self.some(
            ("uri", lambda: self.string(PATHS[:5]) or {"prefix": "/"}),
            ("headers", lambda: {self.random.choice(("x-user", "X-Team")): self.string()}),
            ("withoutHeaders", lambda: {"x-user": self.string()}),
            ("queryParams", lambda: {"v": self.string()}),
            ("method", lambda: {"exact": self.random.choice(("GET", "POST"))}),
            (
                "authority",
                lambda: {self.random.choice(("exact", "prefix")): self.random.choice(("shop", "shop.example"))},
            ),
        )
        return (
            {**found, "ignoreUriCase": True}
            if "uri" in found and "regex" not in found["uri"] and self.chance(0.3)
            else found
        )

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def route(self, number: int) -> Object:
        match = [self.match() for _ in range(self.random.choice((0, 1, 1, 1, 2)))]
        match = [condition for condition in match if condition]
        does = self.random.choice(("to", "to", "to", "split", "direct", "redirect", "abort"))
        action: Object = {"route": [{"destination": {"host": "m", "subset": self.random.choice(SUBSETS)}}]}
        if does == "split":
            weights = dict(zip(self.random.sample(SUBSETS, 2), (100, 0), strict=True))
            action = {
                "route": [
                    {"destination": {"host": "m", "subset": name}, "weight": weight} for name, weight in weights.items()
                ]
            }
        elif does == "direct":
            body = {"body": {"string": f"route {number}"}} if self.chance(0.5) else {}
            action = {"directResponse": {"status": self.random.choice((200, 204, 403, 503)), **body}}
        elif does == "redirect":
            said = self.some(
                ("authority", lambda: "other.example"), ("scheme", lambda: "https"), ("port", lambda: 8443)
            )
            action = {"redirect": {"uri": "/new", **said, **self.some(("redirectCode", lambda: 307))}}
        elif does == "abort":
            action["fault"] = {"abort": {"httpStatus": 418, **self.some(("percentage", lambda: {"value": 100}))}}
        return {"name": f"r{number}", **({"match": match} if match else {}), **action}

    def virtual_service(self, number: int) -> Object:
        http = [self.route(index) for index in range(self.random.randint(1, 5))]
        spec = {"hosts": [f"v{number}.example"], "http": http}
        return {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": f"v{number}"},
            "spec": spec,
        }

    def request(self) -> tuple[str, str, dict[str, str]]:
        query = self.random.choice(("", "", "?v=1", "?v=12&w=ada", "?w=1"))
        headers = self.some(
            ("x-user", lambda: self.random.choice(VALUES)),
            ("x-team", lambda: self.random.choice(VALUES)),
            ("host", lambda: self.random.choice(("shop", "shop.example.com"))),
        )
        return self.random.choice(("GET", "POST")), self.random.choice(PATHS) + query, headers


def in_memory(
    cluster: InMemoryCluster, name: str, method: str, target: str, headers: dict[str, str], host: str
) -> Answers:
    path, _, query = target.partition("?")
    others = {key: value for key, value in headers.items() if key != "host"}
    return cluster.answers(
        name, Request(path=path, query=first_values(query), method=method, headers=others, authority=host)
    )


def test_envoy_and_the_in_memory_cluster_answer_alike(mesh: LocalMesh) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    maker = Maker(seed)
    made = [maker.virtual_service(number) for number in range(COUNT)]
    mesh.apply_by_user(made)
    for obj in made:
        cluster, name = InMemoryCluster(), obj["metadata"]["name"]
        # A mesh on this machine answers whatever host it is asked by; a cluster's proxies know the object's own.
        hosts = [*obj["spec"]["hosts"], "shop", "shop.example.com", "127.0.0.1"]
        for each in (*standing(), {**obj, "spec": {**obj["spec"], "hosts": hosts}}):
            cluster.apply(each)
        for _ in range(REQUESTS):
            method, target, headers = maker.request()
            host = headers.get("host", mesh.address(name).url.removeprefix("http://"))
            status, answered, body = send(mesh, name, method=method, path=target, headers=headers)
            found = in_memory(cluster, name, method, target, headers, host)
            (answer,) = found.answers
            asked = f"seed {seed}: {method} {target} {headers} to {obj['spec']['http']}"
            assert (status, answered.get("x-mlflow-deployment")) == (
                answer.status,
                answer.deployments[0] if answer.deployments else None,
            ), asked
            assert answered.get("location") == answer.headers.get("location"), asked
            if answer.destination is None and answer.status < 300:
                assert body == answer.body, asked
