"""Whatever happens between adopting a route and giving it back, its owner gets the object back, with the owner's own edits."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.adoption import adopt, given_back
from mlflow_istio.errors import MlflowIstioError
from tests.property.test_core_properties import verbs
from tests.support.endpoint_values import a_stamp

_WORDS = st.sampled_from(("a", "b", "web", "audit"))
_JSON = st.recursive(st.none() | st.booleans() | st.integers() | _WORDS, lambda inner: st.lists(inner, max_size=2))


@st.composite
def destinations(draw: st.DrawFn) -> list[Object]:
    """Destinations of a route of which exactly one has traffic, with fields nobody knows."""
    hosts = draw(st.lists(st.sampled_from(("web", "other", "third.old")), min_size=1, max_size=3, unique=True))
    live = draw(st.integers(0, len(hosts) - 1))
    entries = []
    for index, host in enumerate(hosts):
        entry: Object = {"destination": {"host": host}}
        if draw(st.booleans()):
            entry["destination"]["port"] = {"number": draw(st.integers(1, 65535))}
        if len(hosts) > 1 and index == live:
            entry["weight"] = draw(st.sampled_from((100, 1, 7)))
        elif draw(st.booleans()):
            entry["weight"] = 100 if len(hosts) == 1 else 0
        if draw(st.booleans()):
            entry["aFieldOfTomorrow"] = draw(_JSON)
        entries.append(entry)
    return entries


@st.composite
def virtual_services(draw: st.DrawFn) -> Object:
    """Somebody's VirtualService with a route ``main`` that can be adopted."""
    main: Object = {"name": "main", "route": draw(destinations())}
    if draw(st.booleans()):
        main["match"] = [{"uri": {"prefix": "/" + draw(_WORDS)}}]
    for field in ("timeout", "corsPolicy", "tomorrow"):
        if draw(st.booleans()):
            main[field] = draw(_JSON)
    if draw(st.booleans()):
        main["mirrors"] = [{"destination": {"host": "audit"}, "percentage": {"value": 5}}]
    other: Object = {"name": "docs", "match": [{"uri": {"exact": "/docs"}}], "redirect": {"uri": draw(_WORDS)}}
    rest: Object = {"route": [{"destination": {"host": "rest"}}]}
    metadata: Object = {"name": "shop", "resourceVersion": "1"}
    if draw(st.booleans()):
        metadata["annotations"] = {"team": draw(_WORDS)}
    routes = [other, main, rest] if draw(st.booleans()) else [main]
    spec = {"hosts": ["shop.example"], "http": routes, "tomorrow": draw(_JSON)}
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata, "spec": spec}


@st.composite
def owners_edits(draw: st.DrawFn) -> Any:
    """Something that its owner does to the object, as a function that edits in place; same before and after an adoption."""
    kind = draw(st.sampled_from(("host", "label", "annotation", "field", "route", "destination", "nothing")))
    value = draw(_JSON)

    def edit(obj: Object) -> None:
        main = next(entry for entry in obj["spec"]["http"] if entry.get("name") == "main")
        if kind == "host":
            obj["spec"]["hosts"].append("www.example")
        elif kind == "label":
            obj["metadata"].setdefault("labels", {})["late"] = "yes"
        elif kind == "annotation":
            obj["metadata"].setdefault("annotations", {})["late"] = "yes"
        elif kind == "field":
            main["late"] = value
        elif kind == "route":
            obj["spec"]["http"].append({"name": "late", "route": [{"destination": {"host": "late"}}]})
        elif kind == "destination":
            for entry in main["route"]:
                if entry["destination"]["host"] != "churn":
                    entry["late"] = value

    return edit


@given(virtual_services(), st.lists(verbs(), max_size=12), st.data())
def test_adopt_anything_and_delete_gives_an_equal_object_with_the_owners_edits(
    before: Object, steps: list[Any], data: st.DataObject
) -> None:
    kept = copy.deepcopy(before)
    now = adopt(before, "churn", "main", a_stamp("c0", "adopt"))
    edit = data.draw(owners_edits())
    when = data.draw(st.integers(0, len(steps)))
    for number, (_, verb) in enumerate([*steps, ("nothing", lambda endpoint: endpoint)]):
        if number == when:
            now = copy.deepcopy(now)
            edit(now)
        with contextlib.suppress(MlflowIstioError):  # a verb that does not fit is refused, and changes nothing
            now = changed(now, verb(read_endpoint(now, "churn")), a_stamp(f"c{number + 1}"))
    marked = changed(
        now, transitions.mark_deleting(read_endpoint(now, "churn"), force=True), a_stamp("end", urgent=True)
    )
    assert before == kept, "the input was changed"
    edit(kept)
    assert given_back(marked, "churn") == kept
