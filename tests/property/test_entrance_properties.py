"""What is made up to reach a route reaches it, by the explanation that is held against the real istiod; what is dead is refused."""

from __future__ import annotations

import copy
import json
from urllib.parse import parse_qsl

from hypothesis import event, given, note
from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.inspection.explanation import explain
from mlflow_istio.core.matching.coverage import Arrival, arrivals, is_catch_all
from mlflow_istio.core.matching.entrance import Entrance, entrance_at
from mlflow_istio.core.matching.places import placed
from mlflow_istio.core.matching.requests import Request
from mlflow_istio.errors import InvalidInput

NAMES = ("x-user", "X-User", "x-team")
VALUES = ("", "a", "ann", "risk")
TEXTS = st.one_of(
    st.just({}),
    st.just({"regex": ".*"}),
    st.just({"regex": "*"}),
    st.builds(lambda kind, value: {kind: value}, st.sampled_from(["exact", "prefix"]), st.sampled_from(VALUES[1:])),
)
PREFIXES = st.sampled_from(["", "/", "/api", "/inv"]).map(lambda text: {"prefix": text})
REGEXES = st.sampled_from([".*", "/api(/.*)?", "/[^a].*"]).map(lambda text: {"regex": text})
PATHS = PREFIXES | REGEXES | st.sampled_from([{}, {"exact": "/api"}, {"exact": "/invocations"}])
METHODS = st.sampled_from(
    [{}, {"exact": "GET"}, {"exact": "POST"}, {"prefix": "P"}, {"regex": "GET|HEAD"}, {"regex": ".+"}]
)
HOSTS = st.sampled_from(
    [{"exact": "a.example"}, {"prefix": "b."}, {"regex": ".*example"}, {"exact": "gone.example"}, {}]
)
GATEWAYS = st.lists(
    st.sampled_from(["mesh", "front", "front.team-a", "infra/back", "back.infra.svc.cluster.local"]), max_size=2
)
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "uri": PATHS,
        "method": METHODS,
        "authority": HOSTS,
        "scheme": st.sampled_from([{"exact": "http"}, {"exact": "https"}, {"prefix": "http"}]),
        "headers": st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=2),
        "withoutHeaders": st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=1),
        "queryParams": st.dictionaries(st.sampled_from(["debug"]), TEXTS, max_size=1),
        "gateways": GATEWAYS,
        "sourceNamespace": st.sampled_from(["", "web"]),
        "port": st.sampled_from([0, 80]),
        "ignoreUriCase": st.booleans(),
        "name": st.just("one"),
    },
)


@st.composite
def theirs(draw: st.DrawFn) -> Object:
    """A VirtualService whose last route is ``main``."""
    http: list[Object] = []
    for number in range(draw(st.integers(1, 4))):
        match = draw(st.lists(MATCHES, max_size=2))
        http.append(
            {"name": f"r{number}", **({"match": match} if match else {}), "route": [{"destination": {"host": "web"}}]}
        )
    http[-1]["name"] = "main"
    spec = {
        "hosts": draw(st.sampled_from([["a.example"], ["a.example", "b.example"], ["*.example"], ["web"], ["*"]])),
        "gateways": draw(st.sampled_from([["front"], ["front", "mesh"], ["mesh"], ["infra/back", "front"]])),
        "http": http,
    }
    return {"metadata": {"name": "shop", "namespace": "team-a"}, "spec": copy.deepcopy(spec)}


def listeners_of(found: Entrance) -> list[tuple[str, int]]:
    """Where it says that it leads in; all that matter to these matches where it says nothing."""
    return list(found.listeners.taking if found.listeners else [("http", 80)])


def asked(found: Entrance, arrival: Arrival, scheme: str, port: int) -> Request:
    path, _, query = found.scoring.partition("?")
    headers = {name.lower(): value for name, value in found.headers.items()}
    return Request(
        path=path,
        method=found.method,
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers={name: value for name, value in headers.items() if name != "host"},
        authority=headers.get("host", arrival.host),
        gateway=arrival.gateway,
        scheme=scheme,
        port=port,
    )


def entrance_of(obj: Object, route: Object) -> Entrance | None:
    try:
        return entrance_at(obj, route)
    except InvalidInput:
        return None


@given(theirs())
def test_an_entrance_leads_to_its_route_at_each_of_its_gateways(obj: Object) -> None:
    note(json.dumps(obj))
    main = obj["spec"]["http"][-1]
    found = entrance_of(obj, main)
    event("reached" if found else "dead")
    if found is None:
        return
    usual = arrivals(obj)[0].host
    for gateway in {arrival.gateway for arrival in arrivals(obj)}:
        if found.gateways is not None and gateway not in found.gateways:
            continue
        for scheme, port in listeners_of(found):
            one = explain(obj, asked(found, Arrival(host=usual, gateway=gateway), scheme, port))
            places = [one.place, *(passed.place for passed in one.perhaps)]
            assert "main" in [place.name for place in places if place is not None], (found, one)


REQUESTS = st.builds(
    Request,
    path=st.sampled_from(["/", "/api", "/api/invocations", "/invocations", "/other"]),
    method=st.sampled_from(["GET", "POST", "PUT"]),
    headers=st.dictionaries(st.sampled_from(["x-user", "x-team"]), st.sampled_from(VALUES), max_size=2),
    query=st.dictionaries(st.just("debug"), st.sampled_from(VALUES), max_size=1),
    scheme=st.sampled_from(["http", "https"]),
    port=st.just(80),
)


@given(theirs(), REQUESTS)
def test_below_what_takes_everything_nobody_gets_a_request(obj: Object, request: Request) -> None:
    note(json.dumps(obj))
    http = placed(obj)["spec"]["http"]
    first = next((index for index, route in enumerate(http) if is_catch_all(route, placed(obj))), None)
    if first is None:
        return
    for arrival in arrivals(obj):
        explained = explain(obj, arrival.of(request))
        assert explained.place is not None, "it takes everything"
        assert explained.place.index <= first
    for route in obj["spec"]["http"][first + 1 :]:
        if route not in obj["spec"]["http"][: first + 1]:
            assert entrance_of(obj, route) is None, f"{route} gets no request"
