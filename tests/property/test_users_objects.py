"""A user's own VirtualService with any fields of Istio's API keeps them through a whole release, and gets itself back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.adoption import adopt, given_back
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import MlflowIstioError
from tests.corpus.cases import load
from tests.support.endpoint_values import a_release, a_stamp

Step = Callable[[Endpoint], Endpoint]

# Whatever istiod takes, whether the local mesh carries it out or not.
ROUTES = [route for case in load() if case.istiod == "same" for route in case.http]
SPECS = [case.spec for case in load() if case.istiod == "same" and case.spec]
_NOT_BESIDE_A_SPLIT = {"name", "match", "route", "redirect", "directResponse", "delegate"}
FIELDS: dict[str, list[Any]] = {}
for _route in ROUTES:
    for _key, _value in _route.items():
        if "route" in _route and _key not in _NOT_BESIDE_A_SPLIT:
            FIELDS.setdefault(_key, []).append(_value)
HEADERS = [entry["headers"] for route in ROUTES for entry in route.get("route", ()) if "headers" in entry]
MATCHES = [{"uri": {"prefix": "/api"}}, {"uri": {"exact": "/score"}, "method": {"exact": "POST"}}]

WHOLE_RELEASE: tuple[tuple[str, Step], ...] = (
    ("deploy", lambda now: transitions.pin(now, "v2")),
    ("start", lambda now: transitions.start(now, a_release("canary", "v2", id="r1"), TrafficRequest(weight=10))),
    ("shift", lambda now: transitions.shift(now, TrafficRequest(weight=50))),
    ("promote", transitions.promote),
    ("rollback", transitions.rollback),
    ("start", lambda now: transitions.start(now, a_release("shadow", "v2", id="r2"), TrafficRequest(mirror=25))),
    ("abort", transitions.abort),
    ("start", lambda now: transitions.start(now, a_release("canary", "v2", id="r3"), TrafficRequest(weight=5))),
    ("rollback", transitions.rollback),
)


@st.composite
def theirs(draw: st.DrawFn) -> Object:
    """A user's VirtualService: routes of any kind around one named ``main`` with any fields that go with a split."""
    keys = draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True))
    fields = {key: draw(st.sampled_from(FIELDS[key])) for key in keys}
    destinations: list[Object] = [{"destination": {"host": "legacy", "subset": "old"}, "weight": 100}]
    if draw(st.booleans()):
        destinations.append({"destination": {"host": "other", "port": {"number": 8080}}, "weight": 0})
    for entry in destinations:
        if draw(st.booleans()):
            entry["headers"] = draw(st.sampled_from(HEADERS))
    main = {
        "name": "main",
        "match": draw(st.lists(st.sampled_from(MATCHES), max_size=2)),
        "route": destinations,
        **fields,
    }
    if not main["match"]:
        del main["match"]
    around = st.lists(st.sampled_from([route for route in ROUTES if "match" in route]), max_size=3)
    spec = draw(st.just({}) | st.sampled_from(SPECS))
    return copy.deepcopy(
        {
            "apiVersion": API_VERSIONS["VirtualService"],
            "kind": "VirtualService",
            "metadata": {"name": "shop", "labels": {"team": "risk"}, "annotations": {"note": "ours"}},
            "spec": {"hosts": ["shop.example"], **spec, "http": [*draw(around), main, *draw(around)]},
        }
    )


def text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def foreign(virtual_service: Object) -> str:
    """All that is the user's while a release is under way: the destinations' weights and our mirror are ours to set."""
    rest = copy.deepcopy(virtual_service)
    http = [route for route in rest["spec"]["http"] if not str(route.get("name", "")).startswith("mlflow-istio.")]
    for route in http:
        if route.get("name") == "main":
            route["route"] = [
                {key: value for key, value in entry.items() if key != "weight"}
                for entry in route["route"]
                if entry["destination"]["host"] != "churn"
            ]
            mirrors = [mirror for mirror in route.pop("mirrors", ()) if mirror["destination"]["host"] != "churn"]
            route.update({"mirrors": mirrors} if mirrors else {})
    rest["spec"]["http"] = http
    annotations = rest["metadata"]["annotations"]
    rest["metadata"]["annotations"] = {key: value for key, value in annotations.items() if "mlflow-istio" not in key}
    return text(rest)


@given(theirs())
def test_each_step_of_a_release_leaves_every_field_of_the_users_as_it_was(before: Object) -> None:
    untouched = copy.deepcopy(before)
    try:
        state = adopt(before, "churn", "main", a_stamp("c0", "adopt"))
    except MlflowIstioError:
        assume(False)  # no request of ours could reach the route
    moved = 0
    for number, (name, step) in enumerate(WHOLE_RELEASE):
        now = read_endpoint(state, "churn")
        try:
            after = changed(state, step(now), a_stamp(f"c{number + 1}", name))
        except MlflowIstioError:
            continue  # a mirror beside the user's own `mirror`, say
        assert foreign(after) == foreign(before)
        moved += after != state
        state = after
    assert moved >= 4
    assert text(given_back(state, "churn")) == text(before)
    assert before == untouched, "an input was changed"


def test_the_fields_drawn_from_are_those_of_the_corpus() -> None:
    assert set(FIELDS) >= {"timeout", "retries", "headers", "rewrite", "fault", "mirror", "mirrors", "corsPolicy"}
