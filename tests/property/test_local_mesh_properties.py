"""Whatever stands in an object, the local mesh reads it or refuses it with an error of ours that names the object."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.adapters.local.envoy.clusters import clusters
from mlflow_istio.adapters.local.envoy.route_table import route_configuration
from mlflow_istio.adapters.local.storage import admitted, with_fields_applied
from mlflow_istio.adapters.local.workloads import workload
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import InvalidInput, MlflowIstioError, StateConflict, Unsupported
from tests.contract.model_server import deployment, destination_rule, service, virtual_service
from tests.unit.adapters.local.test_envoy_golden import everything

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**10) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
RULE = destination_rule(
    "churn",
    "a",
    connectionPool={"tcp": {"maxConnections": 1}, "http": {"idleTimeout": "1s"}},
    outlierDetection={"consecutive5xxErrors": 1, "interval": "1s"},
    loadBalancer={"simple": "RANDOM"},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values inside a document."""
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the document with another value at a place."""
    if not path:
        return value
    result = copy.copy(document)
    result[path[0]] = with_value(document[path[0]], path[1:], value)
    return result


@st.composite
def damaged(draw: st.DrawFn, document: Object) -> Object:
    """The object with anything at all at one place of its spec."""
    path = draw(st.sampled_from([path for path in places(document["spec"]) if path]))
    return {**document, "spec": with_value(document["spec"], path, draw(ANYTHING))}


def carry_out(obj: Object) -> None:
    """Read an object as the mesh would."""
    kind = obj["kind"]
    if kind == "VirtualService":
        route_configuration(obj, {"churn": (80,)})
    elif kind == "Deployment":
        workload(obj)
    elif kind == "Service":
        clusters([obj], [RULE], [])
    else:
        clusters([service("churn")], [obj], [])


@given(
    damaged(everything())
    | damaged(virtual_service("churn", "change", {"a": 90, "b": 10}))
    | damaged(deployment("churn", "churn-a"))
    | damaged(service("churn"))
    | damaged(RULE)
)
def test_a_damaged_object_is_read_or_refused_by_name(obj: Object) -> None:
    before = copy.deepcopy(obj)
    try:
        carry_out(admitted(obj))
    except MlflowIstioError as exc:
        refusal: MlflowIstioError | None = exc
    else:
        refusal = None
    assert obj == before
    if refusal is not None:
        assert isinstance(refusal, InvalidInput | Unsupported | StateConflict)
        assert str(refusal).startswith(f"{obj['kind']} {obj['metadata']['name']}")
        assert "\n" not in refusal.message


DOCUMENTS = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS)
def test_applying_sets_what_is_wanted_and_keeps_what_others_set(live: Object, last: Object, wanted: Object) -> None:
    inputs = copy.deepcopy({"live": live, "last": last, "wanted": wanted})
    result = with_fields_applied(live, last, wanted)
    assert {"live": live, "last": last, "wanted": wanted} == inputs
    for path in places(wanted):
        value = at(wanted, path)
        if not isinstance(value, dict) or not value:
            continue
        for key, member in value.items():
            if not isinstance(member, dict):
                assert at(result, (*path, key)) == member
    for key, value in live.items():
        if key not in last and key not in wanted:
            assert result[key] == value
    for key, value in last.items():
        if not isinstance(value, dict) and key not in wanted:
            assert key not in result
    assert with_fields_applied(result, wanted, wanted) == result


def at(document: Any, path: tuple[Any, ...]) -> Any:
    """The value at a place."""
    for key in path:
        document = document[key]
    return document
