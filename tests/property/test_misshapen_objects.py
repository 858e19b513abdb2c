"""A VirtualService in which anything is null, gone or of another type is read, or refused in one line that names the path."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import example, given, note
from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.core.mesh.export import as_in_git
from mlflow_istio.core.mesh.host_conflict import check_hosts
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import adoption, transitions
from mlflow_istio.core.moves.claims import Claim, claimed, claims_in
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import MlflowIstioError
from mlflow_istio.releases.reading.doctor import examine
from mlflow_istio.releases.reading.explain import Question, explain_objects, explain_route
from mlflow_istio.releases.reading.export import exported
from tests.corpus.cases import load
from tests.support.endpoint_values import a_release, a_stamp
from tests.support.in_memory import World, a_shop, with_canary, with_shop

Path = tuple[str | int, ...]

ROUTES = [route for case in load() if case.istiod == "same" for route in case.http]
OTHERS: list[Any] = [None, "text", 7, -1, 1.5, True, [], {}, [None], ["text"], {"a": None}, {"a": {"b": "c"}}]


def a_user_s(*above: Object, below: Sequence[Object] = ()) -> Object:
    shop = a_shop()
    shop["metadata"] = {
        "name": "shop",
        "namespace": "team-a",
        "labels": {"team": "risk"},
        "annotations": {"note": "ours"},
    }
    main = {
        **shop["spec"]["http"][0],
        "mirror": {"host": "copies", "subset": "a", "port": {"number": 80}},
        "mirrorPercentage": {"value": 10.0},
        "headers": {"request": {"set": {"x-a": "1"}, "remove": ["x-b"]}},
        "retries": {"attempts": 2},
        "timeout": "3s",
    }
    return copy.deepcopy({**shop, "spec": {"gateways": ["front"], **shop["spec"], "http": [*above, main, *below]}})


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, member in steps:
        yield from places(member, (*path, step))


def damaged(obj: Object, path: Path, other: Any, *, removed: bool) -> Any:
    """The object with another value at a path, or with nothing there."""
    damaged_object = copy.deepcopy(obj)
    if not path:
        return other
    holder = damaged_object
    for step in path[:-1]:
        holder = holder[step]
    if removed:
        del holder[path[-1]]
    else:
        holder[path[-1]] = copy.deepcopy(other)
    return damaged_object


@st.composite
def damages(draw: st.DrawFn, obj: Object, below: tuple[str, ...] = ("spec", "metadata")) -> Object:
    """One to three damages, one after the other."""
    for _ in range(draw(st.integers(1, 3))):
        every = [path for path in places(obj) if len(path) > 1 and path[0] in below and path != ("metadata", "name")]
        if not every:
            break
        path = draw(st.sampled_from(every))
        obj = damaged(obj, path, draw(st.sampled_from(OTHERS)), removed=draw(st.booleans()))
    return obj


def in_one_line(read: Callable[[], Any]) -> str:
    """Read it, or say in one line what can't be; the line, empty where it was read."""
    try:
        read()
    except MlflowIstioError as exc:
        message = exc.message
    else:
        return ""
    assert message == " ".join(message.splitlines()).strip()
    assert 0 < len(message) < 900
    return message


def complaint(obj: Object) -> str:
    return in_one_line(lambda: readable(obj))


def adopt(obj: Object) -> Object:
    return adoption.adopt(obj, "churn", "main", a_stamp("c0", "adopt"))


def released(obj: Object) -> Object:
    release = a_release("canary", "v2", id="r1")
    state = changed(obj, transitions.pin(read_endpoint(obj, "churn"), "v2"), a_stamp("c1", "deploy"))
    opened = transitions.start(read_endpoint(state, "churn"), release, TrafficRequest(weight=10))
    return changed(state, opened, a_stamp("c2", "start"))


ABOVE = st.lists(st.sampled_from(ROUTES), max_size=2)


@given(st.data())
def test_a_users_object_is_explained_adopted_and_compared_or_refused(data: st.DataObject) -> None:
    obj = data.draw(damages(a_user_s(*data.draw(ABOVE))))
    note(json.dumps(obj))
    other = a_user_s()
    other["metadata"]["name"] = "other"
    explained = in_one_line(lambda: explain_objects([obj], None, Question()))
    adopted = in_one_line(lambda: adopt(obj))
    in_one_line(lambda: check_hosts(obj, [other], "team-a"))
    in_one_line(lambda: check_hosts(other, [obj], "team-a"))
    in_one_line(lambda: claimed(obj, "chat", Claim(path="/api/v1/chat")))
    problem = complaint(obj)
    if problem:
        assert explained == problem
        # What an adoption only carries along stays as it is, whatever it is: the API server has let it in.
        assert adopted in ("", problem)


@given(st.data())
def test_an_endpoints_object_is_read_moved_and_given_back_or_refused(data: st.DataObject) -> None:
    whole = released(adopt(a_user_s(below=data.draw(ABOVE))))
    obj = data.draw(damages(whole, ("spec",)))
    note(json.dumps(obj))
    in_one_line(lambda: read_endpoint(obj, "churn"))
    in_one_line(lambda: changed(obj, transitions.promote(read_endpoint(obj, "churn")), a_stamp("c3", "promote")))
    in_one_line(lambda: adoption.given_back(obj, "churn"))
    in_one_line(lambda: explain_objects([obj], None, Question()))
    in_one_line(lambda: as_in_git(obj, "churn"))
    in_one_line(lambda: claims_in(obj))


WORLDS: list[tuple[World, str]] = []
"""An endpoint of our own and an adopted one; made once, for they are only read."""


def worlds() -> list[tuple[World, str]]:
    return WORLDS or WORLDS.extend([(with_canary(), "churn"), (with_shop(deployed=("churn-v1",)), "shop")]) or WORLDS


@given(st.data())
def test_every_reading_of_an_endpoint_ends_in_an_answer_or_a_line(data: st.DataObject) -> None:
    world, name = data.draw(st.sampled_from(worlds()))
    key = ("VirtualService", name)
    whole = world.cluster._objects[key]
    obj = data.draw(damages(whole))
    note(json.dumps(obj))
    world.cluster._objects[key] = obj
    try:
        every_reading(world)
    finally:
        world.cluster._objects[key] = whole


def every_reading(world: World) -> None:
    in_one_line(lambda: examine(world.context, "churn"))
    in_one_line(lambda: examine(world.context))
    in_one_line(lambda: exported(world.cluster, "churn"))
    in_one_line(lambda: explain_route(world.cluster, "churn", Question()))


@given(st.data())
@example(None)
def test_nulls_are_absent_fields(data: st.DataObject | None) -> None:
    obj = a_user_s()
    bare = copy.deepcopy(obj)
    for path in [path for path in places(bare) if isinstance(path[-1] if path else "", str) and path]:
        holder: Any = obj
        for step in path[:-1]:
            holder = holder[step]
        if isinstance(holder, dict) and "annotations" not in path and (data is None or data.draw(st.booleans())):
            holder[f"x-{path[-1]}"] = None
    assert json.dumps(readable(obj), sort_keys=True) == json.dumps(bare, sort_keys=True)
    assert readable(bare) is bare
