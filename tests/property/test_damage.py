"""Damage to one endpoint stays its own: any stored text of it made unreadable is one line of an error, and the others go on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.errors import LONGEST, MlflowIstioError
from tests.support.damage import DEEP, TEXTS, damaged_objects, damaged_texts
from tests.support.in_memory import World
from tests.support.in_memory_verbs import InMemoryVerbs
from tests.support.worlds import NAMES, calls, fork, put, three_endpoints

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
OTHERS_DO = ("weight", "rollback", "history", "export")


def objects_of(name: str) -> list[Object]:
    """What stands in the cluster for an endpoint and holds texts of ours."""
    objects = [obj for obj in three_endpoints().objects() if name in name_of(obj)]
    return [obj for obj in objects if obj["kind"] == "VirtualService" or obj["metadata"].get("annotations")]


def problem_of(world: World, verb: str, name: str) -> str:
    """What a verb complains of on a copy of the world; "" where it does its work. Anything but an error of ours gets through."""
    problem = ""
    try:
        calls(name)[verb](InMemoryVerbs(fork(world)))
    except MlflowIstioError as exc:
        problem = exc.message
    assert problem == "" or problem.isprintable()
    assert len(problem) <= LONGEST
    return problem


def check_others(world: World, damaged: str) -> None:
    """Lists, doctor and sweep name the damaged endpoint at most; others are seen and changed as before."""
    untouched = InMemoryVerbs(fork(three_endpoints()))
    views = {view["name"]: view for view in InMemoryVerbs(fork(world)).endpoints()}
    was = {view["name"]: view for view in untouched.endpoints()}
    assert {name: view for name, view in views.items() if name != damaged} == {
        name: view for name, view in was.items() if name != damaged
    }
    found = InMemoryVerbs(fork(world)).doctor()["findings"]
    assert {finding["endpoint"] for finding in found} <= {damaged}
    assert len({(finding["code"], finding["text"]) for finding in found}) == len(found)
    assert {swept["endpoint"] for swept in InMemoryVerbs(fork(world)).sweep({})} <= {damaged}
    other = next(name for name in NAMES if name != damaged)
    assert [problem_of(world, verb, other) for verb in OTHERS_DO] == [""] * len(OTHERS_DO)


@FEW
@given(data=st.data())
def test_a_damaged_object_is_one_endpoints_own_trouble(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    obj = data.draw(st.sampled_from(objects_of(name)))
    world = fork(three_endpoints())
    put(world, data.draw(damaged_objects(obj)), (obj["kind"], name_of(obj)))
    for verb in data.draw(st.lists(st.sampled_from(sorted(calls(name))), min_size=2, max_size=4, unique=True)):
        problem_of(world, verb, name)
    check_others(world, name)


@pytest.mark.parametrize("part", ["state", "release", "unrecorded", "progress", "deadlines", "policy", "deployed"])
@pytest.mark.parametrize("text", ["[" * DEEP + "]" * DEEP, "", "null", "[]"], ids=["deep", "empty", "null", "list"])
def test_an_unreadable_annotation_is_one_line_that_names_the_endpoint(part: str, text: str) -> None:
    world = fork(three_endpoints())
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    key = f"mlflow-istio.org/{part}.churn"
    found["metadata"]["annotations"][key] = text
    put(world, found, ("VirtualService", "churn"))
    check_others(world, "churn")
    problems = [problem_of(world, verb, "churn") for verb in ("weight", "endpoint", "resume_release")]
    assert all("churn" in problem or "the progress of the release" in problem for problem in problems if problem)
    if text.startswith("[["):
        assert any(problems)


def kept_tags(name: str) -> list[str]:
    return [change.id for change in three_endpoints().registry.history("prod", name)]


@FEW
@given(data=st.data())
def test_a_damaged_ledger_entry_is_one_endpoints_own_trouble(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    history = three_endpoints().registry.history("prod", name)
    change = data.draw(st.sampled_from(history))
    world = fork(three_endpoints())
    world.registry.altered[change.id] = data.draw(damaged_texts(change.as_tag()))
    for verb in ("history", "doctor of one", "rollback", "rollback to 1", "report"):
        problem_of(world, verb, name)
    check_others(world, name)


def forged(world: World, name: str, index: int, **changes: Any) -> str:
    change = world.registry.history("prod", name)[index]
    world.registry.altered[change.id] = json.dumps({**json.loads(change.as_tag()), **changes})
    return change.tag_key


@pytest.mark.parametrize(
    "changes",
    [
        {"who": "somebody else"},
        {"reason": "the board wanted it"},
        {"time": "2020-01-01T00:00:00+00:00"},
        {"after": None},
        {"versions": {"ash-v1": "ash/3"}},
        {"sequence": 7},
        {"id": "other"},
        {"digest": ""},
        {"digest": "0" * 16},
    ],
    ids=str,
)
def test_a_forged_ledger_entry_is_flagged_and_not_gone_back_to(changes: dict[str, Any]) -> None:
    world = fork(three_endpoints())
    assert [change["forged"] for change in InMemoryVerbs(world).history("ash")] == [False] * len(kept_tags("ash"))
    key = forged(world, "ash", 1, **changes)
    assert sum(change["forged"] for change in InMemoryVerbs(fork(world)).history("ash")) == 1
    found = InMemoryVerbs(fork(world)).doctor("ash")["findings"]
    (flag,) = [finding for finding in found if finding["code"] == "forged-change"]
    assert flag["severity"] == "error"
    assert "istio.change." in flag["text"]
    assert key in flag["text"] or {"sequence", "id"} & set(changes)
    if not {"sequence", "id"} & set(changes):
        with pytest.raises(MlflowIstioError, match="change 2 "):
            InMemoryVerbs(world).update_endpoint("ash", {"action": "rollback", "to": 2})


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_damaged_artifact_is_not_taken_for_the_object_it_was(text: str) -> None:
    world = fork(three_endpoints())
    found = world.cluster.get("VirtualService", "ash")
    assert found is not None
    found["metadata"]["annotations"]["mlflow-istio.org/state.ash"] = "{"
    put(world, found, ("VirtualService", "ash"))
    last = world.registry.history("prod", "ash")[-1]
    world.runs.texts[(str(last.run), f"changes/{last.sequence:06d}-{last.id}/after.json")] = text
    (finding,) = InMemoryVerbs(world).doctor("ash")["findings"]
    assert finding["code"] == "damaged-for-good"


def test_a_damaged_number_of_changes_is_not_counted_up_to() -> None:
    world = fork(three_endpoints())
    found = world.cluster.get("VirtualService", "ash")
    assert found is not None
    key = "mlflow-istio.org/state.ash"
    state = json.loads(found["metadata"]["annotations"][key])
    found["metadata"]["annotations"][key] = json.dumps({**state, "sequence": 2**62})
    put(world, found, ("VirtualService", "ash"))
    assert "lost-changes" in {finding["code"] for finding in InMemoryVerbs(world).doctor("ash")["findings"]}
