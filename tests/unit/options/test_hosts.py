"""Under whose host, and for whom, a new endpoint stands: each combination of options that means nothing is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.matching.places import foreign_namespace
from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import CreateOptions, parse_options
from mlflow_istio.releases.deploying.sharing import HostShare
from mlflow_istio.verbs.deployments import create_options, deploy_or_adopt, host_share
from tests.support.in_memory import World, a_request
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs


def options(**given: Any) -> CreateOptions:
    return parse_options(CreateOptions, given, cluster="istio")


def test_a_share_is_read_from_path_and_header() -> None:
    assert host_share(options()) is None
    found = host_share(options(under="models", path="/api/v1/chat/", match_header="Model-Version = x"))
    assert found == HostShare(under="models", claim=Claim(path="/api/v1/chat", header=("model-version", "x")))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "/a"}, "option 'path' has no effect without 'under'"),
        ({"match_header": "a=b"}, "option 'match_header' has no effect without 'under'"),
        ({"under": "models"}, "give 'path' or 'match_header'"),
        ({"under": "models", "match_header": "ab"}, "option 'match_header' can't be 'ab': write NAME=VALUE"),
        ({"under": "models", "path": "/a", "export_to": "."}, "option 'export_to' has no effect with 'under'"),
        ({"virtual_service": "shop", "route": "main", "export_to": "."}, "'export_to' has no effect with 'virtual_service'"),
        ({"virtual_service": "shop", "route": "main", "under": "m", "path": "/a"}, "'under' has no effect with 'virtual_service'"),
        ({"export_to": "not one"}, "namespace 'not one' is not valid"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_with_nothing_written(given: dict[str, Any], words: str) -> None:
    world = World()

    def create() -> None:
        chosen = create_options(world.context, options(**given), given, "churn", "models:/churn/1")
        deploy_or_adopt(world.context, a_request("churn-v1"), chosen)

    with pytest.raises(InvalidInput, match=words):
        create()
    assert world.objects() == []


def test_the_local_mesh_has_no_namespaces_to_export_to() -> None:
    with pytest.raises(InvalidInput, match="option 'export_to' has no effect on target istio-local"):
        parse_options(CreateOptions, {"export_to": "."}, cluster="istio-local")


@pytest.mark.parametrize(
    ("host", "other"),
    [
        ("shop.web.svc.cluster.local", "web"),
        ("Shop.Web.SVC.cluster.local.", "web"),
        ("shop.web.svc", "web"),
        ("shop.web.svc.corp.example", "web"),
        ("*.web.svc.cluster.local", "web"),
        ("*.web.svc", "web"),
        ("*.svc.cluster.local", "*"),
        ("*.svc", "*"),
        ("*.cluster.local", "*"),
        ("*.local", "*"),
        ("shop.own.svc.cluster.local", None),
        ("*.own.svc.cluster.local", None),
        ("churn.example.com", None),
        ("churn.svc.example.com", None),
        ("example.com", None),
        ("*.example.com", None),
    ],
)
def test_whose_services_a_host_means(host: str, other: str | None) -> None:
    assert foreign_namespace(host, "own") == other


def test_a_host_of_another_namespace_takes_an_explicit_word() -> None:
    world = World()
    config = {"host": "churn.example.com,shop.web.svc.cluster.local"}
    verbs = InMemoryVerbs(world, CLUSTER)
    with pytest.raises(
        InvalidInput, match="host 'shop.web.svc.cluster.local' is that of a Service of namespace 'web', whose"
    ):
        verbs.create("churn-v1", "models:/churn/1", None, "churn", config)
    assert world.objects() == []
    verbs.create("churn-v1", "models:/churn/1", None, "churn", {**config, "foreign_host": "true"})
    hosts = world.cluster.get("VirtualService", "churn")["spec"]["hosts"]
    assert hosts[1:] == config["host"].split(",")
