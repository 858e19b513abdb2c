"""Each field of Istio's API is carried out by the local mesh and has a case, or is refused by its path: none is ignored."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_istio.adapters.local.envoy.clusters import clusters
from mlflow_istio.adapters.local.envoy.route_table import route_configuration
from mlflow_istio.adapters.local.supported_fields import Field
from mlflow_istio.adapters.local.supported_fields import read as reader
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import MlflowIstioError
from tests.corpus.cases import Case, load
from tests.corpus.schema import KINDS, ApiField, api_fields

Steps = tuple[str | int, ...]

CASES = load()
# Neither a case nor refused -> why.
WITHOUT_CASE = {
    (
        "VirtualService",
        "spec.gateways",
    ): "the one member in which the objects of the two sides differ; only `mesh` is taken",
}
# Fields that one reader reads: a case for one is a case for both.
SAME_READER = (
    ("spec.subsets[].trafficPolicy.", "spec.trafficPolicy."),
    ("spec.http[].mirrors[].destination.", "spec.http[].route[].destination."),
    ("spec.http[].mirror.", "spec.http[].route[].destination."),
    ("spec.http[].route[].headers.", "spec.http[].headers."),
)
SAMPLES = {"string": "sample", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}, "any": {}}


def objects(case: Case) -> Iterator[Object]:
    if case.local == "same" and case.requests:
        yield case.virtual_service(ready_route=False)
        rule = case.destination_rule()
        if rule is not None:
            yield rule


EXAMPLES = {kind: [obj for case in CASES for obj in objects(case) if obj["kind"] == kind] for kind in KINDS}


def used(kind: str, value: Any, path: str, steps: Steps) -> Iterator[tuple[str, Steps, Any]]:
    """All fields of a value by their path in the API, and where each stands."""
    yield path, steps, value
    if isinstance(value, list):
        for index, member in enumerate(value):
            yield from used(kind, member, f"{path}[]", (*steps, index))
    elif isinstance(value, dict):
        for name, member in value.items():
            below = f"{path}.{name}"
            yield from used(kind, member, below if below in PATHS[kind] else f"{path}{{}}", (*steps, name))


PATHS = {kind: {field.path for field in api_fields(kind)} for kind in KINDS}
PLACES: dict[str, dict[str, tuple[Object, Steps]]] = {kind: {} for kind in KINDS}
VALUES: dict[str, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
for _kind, _examples in EXAMPLES.items():
    for _obj in _examples:
        for _path, _steps, _value in used(_kind, _obj["spec"], "spec", ("spec",)):
            PLACES[_kind].setdefault(_path, (_obj, _steps))
            VALUES[_kind].add((_path, str(_value)))


def has_case(kind: str, path: str, value: str | None = None) -> bool:
    """Whether a case that the local mesh answers has the field, with that value if one is given."""
    found = path in PLACES[kind] if value is None else (path, value) in VALUES[kind]
    return found or any(
        has_case(kind, path.replace(one, other, 1), value) for one, other in SAME_READER if path.startswith(one)
    )


def read(obj: Object) -> None:
    if obj["kind"] == "VirtualService":
        route_configuration(obj, {})
    else:
        clusters([], [obj], [])


BESIDE = {"simple": "consistentHash"}
"""Fields that stand in another's place."""


def refused(field: ApiField, kind: str, value: Any) -> tuple[str, str]:
    """What the local mesh says to a case's object with this field in the place where the case has its parent, and where."""
    path = field.parent
    while path not in PLACES[kind]:
        path = next(other + path[len(one) :] for one, other in SAME_READER if path.startswith(one))
    example, steps = PLACES[kind][path]
    changed = copy.deepcopy(example)
    place: Any = changed
    where = reader(changed)
    for step in steps:
        place, where = place[step], Field(None, step, where)
    name = field.path.rpartition(".")[2]
    place.pop(BESIDE.get(name, ""), None)
    place[name] = value
    try:
        read(changed)
    except MlflowIstioError as exc:
        return str(exc), str(Field(None, name, where))
    return "", str(Field(None, name, where))


def undecided(kind: str) -> list[ApiField]:
    """The fields that have no case, without those inside of another such field."""
    found: list[ApiField] = []
    for field in api_fields(kind):
        inside = any(field.path.startswith((f"{one.path}.", f"{one.path}[", f"{one.path}{{")) for one in found)
        if not inside and not has_case(kind, field.path):
            found.append(field)
    return found


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        pytest.param(kind, field, id=f"{kind}-{field.path}")
        for kind in KINDS
        for field in undecided(kind)
        if (kind, field.path) not in WITHOUT_CASE
    ],
)
def test_a_field_without_a_case_is_refused_by_its_path(kind: str, field: ApiField) -> None:
    said, path = refused(field, kind, field.values[0] if field.values else SAMPLES[field.kind])
    assert said.startswith(f"{path} can't be carried out by the local mesh")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        pytest.param(kind, field, value, id=f"{kind}-{field.path}-{value}")
        for kind in KINDS
        for field in api_fields(kind)
        if has_case(kind, field.path)
        for value in field.values
        if not has_case(kind, field.path, value)
    ],
)
def test_a_value_without_a_case_is_refused_by_the_path_of_its_field(kind: str, field: ApiField, value: str) -> None:
    said, path = refused(field, kind, value)
    assert said.startswith(f"{path} can't be carried out by the local mesh")


def test_what_has_no_case_is_in_the_api() -> None:
    assert {path for kind, path in WITHOUT_CASE if path not in PATHS[kind]} == set()


def test_the_api_is_read_whole() -> None:
    assert {kind: len(PATHS[kind]) > 200 for kind in KINDS} == {"VirtualService": True, "DestinationRule": True}
