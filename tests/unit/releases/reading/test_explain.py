"""The explanation of an endpoint's routes: kinds, versions, users, files, and what people read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_istio.cli.explain import explanation_text
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, StateConflict
from mlflow_istio.releases.reading.explain import Question, explain_objects, explain_route
from mlflow_istio.verbs import Verbs
from tests.support.in_memory import World, a_world, with_canary


def asked(world: World, **question: Any) -> dict[str, Any]:
    return explain_route(world.cluster, "churn", Question(**question))


def who(view: dict[str, Any]) -> dict[str, float]:
    return {share["name"]: share["percent"] for share in view["answers"]}


def ab(**traffic_request: Any) -> World:
    return a_world("churn-v1", "churn-v2", strategy="ab", traffic_request=TrafficRequest(weight=30, **traffic_request))


def test_the_split_shows_its_shares_versions_and_the_routes_above() -> None:
    view = asked(with_canary(10))
    assert (view["kind"], view["route"]) == ("split", "mlflow-istio.churn.split")
    assert view["answers"] == [
        {"name": "churn-v1", "percent": 90.0, "version": "churn/1", "ready": 1, "ours": True},
        {"name": "churn-v2", "percent": 10.0, "version": "churn/2", "ready": 1, "ours": True},
    ]
    assert [passed["route"] for passed in view["above"]] == [
        "mlflow-istio.churn.probe",
        *(f"mlflow-istio.churn.pin.churn-v{number}" for number in (1, 2, 3)),
    ]
    assert view["above"][0]["because"] == ["headers[x-mlflow-istio-probe] is not there, wanted: exact '1'"]
    assert json.loads(json.dumps(view)) == view


@pytest.mark.parametrize(
    ("question", "kind", "answers"),
    [
        ({"headers": {"X-MLflow-Deployment": "churn-v3"}}, "pin", {"churn-v3": 100.0}),
        ({"headers": {"x-mlflow-deployment": "churn-v9"}}, "split", {"churn-v1": 90.0, "churn-v2": 10.0}),
        ({"headers": {"x-mlflow-istio-probe": "1"}}, "probe", {}),
        ({"path": "/ping?a=b", "method": "get"}, "split", {"churn-v1": 90.0, "churn-v2": 10.0}),
    ],
)
def test_each_kind_of_route_is_told(question: dict[str, Any], kind: str, answers: dict[str, float]) -> None:
    view = asked(with_canary(10), **question)
    assert (view["kind"], who(view)) == (kind, answers)


def test_a_user_is_sent_to_the_arm_that_assign_names() -> None:
    world = ab(header="x-arm")
    seen = {}
    for number in range(40):
        view = asked(world, user=f"u{number}")
        assert view["kind"] == "arm"
        ((name, share),) = who(view).items()
        assert (share, view["assigned"]["x-arm"].rpartition(".")[2]) == (100.0, name)
        seen[name] = view["route"]
    assert seen == {name: f"mlflow-istio.churn.arm.{name}" for name in ("churn-v1", "churn-v2")}


def test_a_cookie_beside_others_brings_a_browser_back_to_its_arm() -> None:
    world = ab(cookie="arm")
    release = world.endpoint().release
    assert release is not None
    view = asked(world, cookies={"arm": f"{release.id}.churn-v2"}, headers={"cookie": "a=1"})
    assert (view["kind"], who(view), view["sticky"]["cookie"]) == ("arm", {"churn-v2": 100.0}, "arm")
    assert view["request"]["headers"]["cookie"] == f"a=1; arm={release.id}.churn-v2"
    stale = asked(world, cookies={"arm": "an-earlier-release.churn-v2"})
    assert (stale["kind"], who(stale)) == ("split", {"churn-v1": 70.0, "churn-v2": 30.0})
    assert "sticky: cookie arm" in explanation_text(view)


def test_copies_and_a_destination_without_a_ready_replica_are_shown() -> None:
    world = a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=25))
    world.cluster.unready.add("churn-v1")
    text = explanation_text(asked(world))
    assert "answered by: churn-v1 (churn/1) 100%, which has no ready replica\n" in text
    assert "copied to: churn-v2 (churn/2) 25%" in text


def test_people_read_who_answers_by_which_route_and_why() -> None:
    assert explanation_text(asked(with_canary(10), headers={"x-mlflow-deployment": "churn-v2"})).splitlines() == [
        "POST /invocations",
        "answered by: churn-v2 (churn/2) 100%",
        "route: mlflow-istio.churn.pin.churn-v2 (the header route of one deployment)",
        "  because headers[x-mlflow-deployment] is 'churn-v2', wanted: exact 'churn-v2'",
        "not by the routes above:",
        "  mlflow-istio.churn.probe: headers[x-mlflow-istio-probe] is not there, wanted: exact '1'",
        "  mlflow-istio.churn.pin.churn-v1: headers[x-mlflow-deployment] is 'churn-v2', wanted: exact 'churn-v1'",
    ]


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        ({"path": "invocations"}, InvalidInput, "path 'invocations' must start with '/'"),
        ({"user": "ann"}, StateConflict, "endpoint 'churn' has no open A/B release to assign users in"),
    ],
)
def test_a_question_that_can_not_be_is_refused(
    question: dict[str, Any], error: type[MlflowIstioError], words: str
) -> None:
    with pytest.raises(error, match=words):
        asked(with_canary(), **question)


def test_an_endpoint_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFound, match="there is no endpoint 'chrun' in in-memory: did you mean 'churn'"):
        explain_route(with_canary().cluster, "chrun", Question())


FOREIGN = """
apiVersion: v1
kind: List
items:
- apiVersion: networking.istio.io/v1
  kind: VirtualService
  metadata: {name: shop}
  spec:
    hosts: [shop.example.com]
    http:
    - name: internal
      match: [{sourceLabels: {app: batch}, uri: {prefix: /m}}]
      route: [{destination: {host: big}}]
    - name: old
      match: [{uri: {prefix: /old}}]
      redirect: {uri: /m}
    - match: [{authority: {exact: shop.example.com}, uri: {prefix: /m}}]
      fault: {delay: {fixedDelay: 1s, percentage: {value: 1}}}
      route: [{destination: {host: small, port: {number: 80}}}]
- {apiVersion: v1, kind: Service, metadata: {name: small}}
"""


@pytest.fixture
def verbs() -> Verbs:
    return Verbs("istio-local:/never-made")


def test_a_file_is_explained_without_a_cluster(verbs: Verbs, tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(FOREIGN)
    view = verbs.explain_route(None, file=str(path), path="/m/score")
    assert (who(view), view["kind"], view["index"]) == ({"small:80": 100.0}, "other", 2)
    assert view["does"]["fault"]["delay"]["fixedDelay"] == "1s"
    (perhaps,) = view["perhaps"]
    assert perhaps["route"] == "internal"
    assert explanation_text(view).splitlines()[1:3] == [
        "perhaps answered by route internal: sourceLabels ({'app': 'batch'}) can't be evaluated offline: it depends on the "
        "labels of the caller's pod",
        "otherwise answered by: small:80 (not ours) 100%",
    ]
    assert verbs.explain_route("shop", file=str(path), path="/old")["kind"] == "redirect"
    nobody = verbs.explain_route("shop", file=str(path), path="/")
    assert nobody["route"] is None
    assert "answered by nobody: no route takes it, so the proxy answers 404" in explanation_text(nobody)


def test_people_read_why_nobody_answers(verbs: Verbs, tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(FOREIGN)
    other = verbs.explain_route("shop", file=str(path), path="/m/score", host="other.example")
    assert (other["route"], other["above"]) == (None, [])
    assert explanation_text(other).splitlines()[1:] == [
        "answered by nobody: other.example is not a host of VirtualService 'shop', which has shop.example.com: its routes are "
        "not asked"
    ]
    path.write_text(
        FOREIGN.replace(
            "destination: {host: small, port: {number: 80}}", "destination: {host: small}, weight: 0"
        ).replace(
            "route: [{destination: {host: small}, weight: 0}]",
            "route: [{destination: {host: small}, weight: 0}, {destination: {host: large}, weight: 0}]",
        )
    )
    nothing = verbs.explain_route("shop", file=str(path), path="/m/score")
    assert "otherwise answered by nobody: none of its destinations has any weight" in explanation_text(nothing)
    assert nothing["index"] == 2


def test_people_read_to_whom_a_request_is_handed_on_that_is_not_in_the_file(verbs: Verbs, tmp_path: Path) -> None:
    path = tmp_path / "root.yaml"
    path.write_text(
        """
kind: VirtualService
metadata: {name: root, namespace: team-a}
spec: {hosts: [a.example], http: [{name: far, delegate: {name: chat, namespace: team-b}}]}
"""
    )
    view = verbs.explain_route(None, file=str(path))
    assert explanation_text(view).splitlines()[1:3] == [
        "answered by: whom VirtualService chat in namespace team-b names, which is not known here",
        "route: far (a delegate that is not known here)",
    ]


def test_the_endpoint_of_that_name_is_not_taken_for_another_namespaces_delegate() -> None:
    world = with_canary()
    root = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "root"},
        "spec": {"hosts": ["r.example"], "http": [{"delegate": {"name": "churn", "namespace": "team-b"}}]},
    }
    world.cluster.apply(root)
    view = asked(world)
    assert (view["virtual_service"], view["kind"]) == ("churn", "split")


def test_a_file_with_an_endpoint_knows_its_arms() -> None:
    virtual_service = ab(header="x-arm").cluster.get("VirtualService", "churn")
    assert virtual_service is not None
    view = explain_objects([yaml.safe_load(yaml.safe_dump(virtual_service))], "churn", Question(user="ann"))
    assert (view["kind"], view["endpoint"]) == ("arm", "churn")
    assert view["answers"][0]["version"] is None


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("a: [", None, "is no YAML"),
        ("a: 1", None, r"the file holds 0 VirtualServices: name one of those it has \(none\)"),
        (FOREIGN, "shp", r"the file holds no VirtualService 'shp': name one of those it has \(shop\)"),
        (FOREIGN.replace("kind: Service", "kind: VirtualService"), None, "the file holds 2 VirtualServices: name one"),
        (None, None, "can't be read: No such file"),
        (
            "- kind: VirtualService",
            None,
            "must be an object with kind, metadata and spec, not a list: put each object into",
        ),
        ("---\n---\nhello", None, r"a.yaml', document 2 must be an object with kind, metadata and spec, not 'hello'"),
        ("items: 7", None, "items must be a list, not 7"),
        ("items: [null]", None, r"items\[0\] must be an object, not null"),
        ("a: &a [*a]", None, "holds what no object can: Circular reference"),
        ("[" * 3000, None, "holds what no object can"),
        ("kind: VirtualService", None, "a VirtualService: metadata is missing"),
        ("kind: VirtualService\nmetadata:\n", None, "a VirtualService: metadata is missing"),
        (
            FOREIGN.replace("prefix: /old", "prefix: 1"),
            None,
            r"'shop': spec.http\[1\].match\[0\].uri.prefix must be a text",
        ),
        (
            FOREIGN.replace("{uri: /m}", "2024-01-01"),
            None,
            r"'shop': spec.http\[1\].redirect must be an object, not '2024-01-01'",
        ),
        (FOREIGN.replace("{host: big}", ""), None, r"'shop': spec.http\[0\].route\[0\].destination is missing"),
        (
            FOREIGN.replace("hosts: [shop.example.com]", "hosts: shop"),
            None,
            "'shop': spec.hosts must be a list, not 'shop'",
        ),
    ],
)
def test_a_file_that_can_not_be_is_refused(
    verbs: Verbs, tmp_path: Path, text: str | None, name: str | None, words: str
) -> None:
    path = tmp_path / "a.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput, match=words):
        verbs.explain_route(name, file=str(path))


@pytest.mark.parametrize(
    "empty", ["mirror:", "mirrors:", "headers:", "rewrite:", "timeout:", "fault:", "delegate:", "name:"]
)
def test_a_field_with_nothing_behind_it_is_absent(verbs: Verbs, tmp_path: Path, empty: str) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(FOREIGN.replace("      fault: {delay: {fixedDelay: 1s, percentage: {value: 1}}}", f"      {empty}"))
    view = verbs.explain_route(None, file=str(path), path="/m/score")
    assert (who(view), view["mirrors"], view["does"]) == ({"small:80": 100.0}, [], {})
    json.dumps(view)


def test_neither_endpoint_nor_file_is_refused(verbs: Verbs) -> None:
    with pytest.raises(InvalidInput, match="say which endpoint, or give a file"):
        verbs.explain_route(None)


def test_a_user_of_a_foreign_file_is_refused(verbs: Verbs, tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(FOREIGN)
    with pytest.raises(InvalidInput, match="carries no endpoint of ours"):
        verbs.explain_route(None, file=str(path), user="ann")


SHORT = """
kind: VirtualService
metadata: {name: churn}
spec:
  hosts: [churn]
  http:
  - {name: inside, match: [{gateways: [mesh], uri: {prefix: /in}}], route: [{destination: {host: a}}]}
  - {name: rest, route: [{destination: {host: b}}]}
"""


def explained(verbs: Verbs, tmp_path: Path, text: str, **question: Any) -> dict[str, Any]:
    path = tmp_path / "vs.yaml"
    path.write_text(text)
    return verbs.explain_route(None, file=str(path), **question)


@pytest.mark.parametrize(
    "host", ["churn.team-a", "churn.team-a.svc", "churn.team-a.svc.cluster.local", "Churn.Team-A:80"]
)
def test_a_short_host_of_a_file_without_a_namespace_may_be_the_one_that_is_asked_for(
    verbs: Verbs, tmp_path: Path, host: str
) -> None:
    """Istio takes it for the Service of that name in the VirtualService's namespace (``ResolveShortnameToFQDN``)."""
    view = explained(verbs, tmp_path, SHORT, host=host)
    assert view["provided"] == [
        f"VirtualService 'churn' stands in the namespace that {host} means: it does not say which, and its hosts (churn) are "
        "names there"
    ]
    assert explanation_text(view).splitlines()[1:3] == [
        f"only if {view['provided'][0]}",
        "perhaps answered by: a (not ours) 100%",
    ]
    said = explained(verbs, tmp_path, SHORT.replace("name: churn}", "name: churn, namespace: team-a}"), host=host)
    assert (who(said), said["provided"]) == ({"a": 100.0}, [])
    other = explained(verbs, tmp_path, SHORT.replace("name: churn}", "name: churn, namespace: team-b}"), host=host)
    assert "is not a host of VirtualService 'churn', which has churn.team-b.svc.cluster.local" in other["nobody"]


@pytest.mark.parametrize(
    ("hosts", "host", "known"),
    [
        ("churn", "churn", True),
        ("churn", "forest.team-a", False),
        ("churn", "churn.example", None),  # a Service of a namespace that is called example
        ("churn", "churn.example.com", False),
        ("churn.team-a.svc.cluster.local", "churn", None),  # the caller's namespace may be another
        ("churn.team-a.svc.cluster.local", "churn.team-a", True),
        ("'*'", "churn.team-a", True),
    ],
)
def test_a_host_is_known_not_known_or_a_matter_of_the_namespace(
    verbs: Verbs, tmp_path: Path, hosts: str, host: str, known: bool | None
) -> None:
    view = explained(verbs, tmp_path, SHORT.replace("[churn]", f"[{hosts}]"), host=host)
    assert (view["route"] is not None, bool(view["provided"])) == (known is not False, known is None)


GATES = """
kind: VirtualService
metadata: {name: churn, namespace: team-a}
spec:
  hosts: [churn, churn.example]
  gateways: [mesh, front, infra/back]
  http:
  - {name: inside, match: [{gateways: [mesh], uri: {prefix: /in}}], route: [{destination: {host: a}}]}
  - {name: rest, route: [{destination: {host: b}}]}
"""


@pytest.mark.parametrize(
    ("question", "route", "gateways"),
    [
        ({"gateway": "mesh"}, "inside", ["mesh"]),
        ({"gateway": "front"}, "rest", ["team-a/front"]),
        ({"gateway": "front.team-a.svc.cluster.local"}, "rest", ["team-a/front"]),
        ({"gateway": "infra/back", "host": "churn.example"}, "rest", ["infra/back"]),
        ({"host": "churn.team-a"}, "inside", ["mesh"]),  # a name that sidecars alone know
    ],
)
def test_it_matters_at_which_gateway_a_request_arrives(
    verbs: Verbs, tmp_path: Path, question: dict[str, str], route: str, gateways: list[str]
) -> None:
    view = explained(verbs, tmp_path, GATES, path="/in", **question)
    assert (view["route"], view["gateways"], view["perhaps"]) == (route, gateways, [])


def test_where_a_request_may_arrive_is_said(verbs: Verbs, tmp_path: Path) -> None:
    text = explanation_text(explained(verbs, tmp_path, GATES, path="/", host="churn.example"))
    assert "at: a sidecar (gateway mesh) or gateway team-a/front or gateway infra/back" in text
    assert "perhaps answered by route inside" in explanation_text(explained(verbs, tmp_path, GATES, path="/in"))


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (
            {"gateway": "infra/front"},
            "VirtualService 'churn' is bound to mesh and team-a/front and infra/back, not to infra/front: its routes are not asked",
        ),
        (
            {"gateway": "front", "host": "churn.team-a"},
            "churn.team-a is not a host of VirtualService 'churn' at team-a/front",
        ),
        ({"gateway": "mesh", "host": "a.example"}, "a.example is not a host of VirtualService 'churn', which has"),
    ],
)
def test_a_request_at_another_gateway_is_nobodys(
    verbs: Verbs, tmp_path: Path, question: dict[str, str], words: str
) -> None:
    view = explained(verbs, tmp_path, GATES, **question)
    assert (view["route"], view["gateways"]) == (None, [])
    assert words in view["nobody"]


def test_a_gateway_of_a_file_without_a_namespace_may_be_the_one_that_is_asked_for(verbs: Verbs, tmp_path: Path) -> None:
    text = GATES.replace(", namespace: team-a", "")
    view = explained(verbs, tmp_path, text, gateway="team-b/front")
    assert view["provided"] == [
        "VirtualService 'churn' stands in the namespace that team-b/front means: it does not say which, and its gateways (mesh, "
        "front, infra/back) are names there"
    ]
    assert explained(verbs, tmp_path, text, gateway="infra/back")["provided"] == []
    assert "not to team-b/other" in explained(verbs, tmp_path, text, gateway="team-b/other")["nobody"]
