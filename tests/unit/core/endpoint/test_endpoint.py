"""An endpoint's annotations say all of it, survive being read, and when damaged say so by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import annotations_of, with_annotations
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import (
    MAX_UNRECORDED,
    MAX_UNRECORDED_BYTES,
    Endpoint,
    annotation,
    endpoint_from,
    has_endpoint,
    route_name,
    with_change,
    without_recorded,
)
from mlflow_istio.core.endpoint.release_state import ClosedRelease
from mlflow_istio.core.endpoint.traffic import Traffic
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, StateConflict
from tests.support.endpoint_values import (
    LEGACY,
    a_release,
    a_stamp,
    a_virtual_service,
    an_endpoint,
    canary,
    carrying,
    moved,
    own,
    split,
    started,
)

STATE, RELEASE, UNRECORDED = (annotation("churn", part) for part in ("state", "release", "unrecorded"))


@pytest.mark.parametrize(
    "endpoint",
    [
        an_endpoint(),
        an_endpoint(settings={"stable_alias": "prod"}, sequence=7, change="c7", deleting=True),
        an_endpoint(
            last=ClosedRelease(
                id="r0", strategy="ab", outcome="promoted", candidates=("v1",), run="x", previous=LEGACY, sequence=6
            )
        ),
        an_endpoint(last=ClosedRelease(id="r0", strategy="shadow", outcome="aborted")),
        started("canary", traffic_request=TrafficRequest(weight=10)),
        started("ab", traffic_request=TrafficRequest(header="x-arm", values={"v1": "a", "v2": '"{{ b }}"'})),
        started("ab", traffic_request=TrafficRequest(cookie="arm")),
        started("shadow"),
        with_change(an_endpoint(), started(), a_stamp("c1", reason="weil\u2028 {{ 'ü' }}", evidence={"p": 0.5}), "4"),
    ],
)
def test_what_is_written_is_read_back(endpoint: Endpoint) -> None:
    assert read_endpoint(json.loads(json.dumps(carrying(endpoint))), "churn") == endpoint


def test_annotations_are_keyed_by_endpoint_and_absent_where_there_is_nothing_to_say() -> None:
    assert set(annotations_of(carrying(an_endpoint()))) == {STATE, "mlflow-istio.org/deployed.churn"}
    assert set(annotations_of(carrying(started()))) == {STATE, RELEASE, "mlflow-istio.org/deployed.churn"}
    assert has_endpoint(carrying(an_endpoint()), "churn")
    assert not has_endpoint(carrying(an_endpoint()), "chur")


DAMAGED = [
    (STATE, "{", "annotation mlflow-istio.org/state.churn is not JSON"),
    (STATE, "5", "the annotations of endpoint 'churn' are damaged"),
    (STATE, "[]", "damaged"),
    (STATE, "{}", "damaged"),
    (STATE, '"text"', "damaged"),
    (STATE, {"stable": "v1"}, "damaged"),
    (STATE, {"stable": None}, "damaged"),
    (STATE, {"sequence": "many"}, "damaged"),
    (STATE, {"settings": 5}, "damaged"),
    (STATE, {"last": {"id": "r"}}, "damaged"),
    (STATE, {"last": "r"}, "damaged"),
    (RELEASE, "null,", "annotation mlflow-istio.org/release.churn is not JSON"),
    (RELEASE, {"opened": "yesterday"}, "damaged"),
    (RELEASE, {"id": None, "assignment": 5}, "damaged"),
    (RELEASE, "[1]", "damaged"),
    (UNRECORDED, "[", "annotation mlflow-istio.org/unrecorded.churn is not JSON"),
    (UNRECORDED, "[5]", "damaged"),
    (UNRECORDED, "5", "damaged"),
    (UNRECORDED, '[{"id": "x"}]', "damaged"),
]


@pytest.mark.parametrize(("key", "value", "words"), DAMAGED, ids=[f"{key[17:22]} {value}" for key, value, _ in DAMAGED])
def test_damaged_annotations_are_one_error_that_says_what_to_do(key: str, value: Any, words: str) -> None:
    good = moved(a_virtual_service(), canary, "c1")
    if isinstance(value, dict):
        value = json.dumps({**json.loads(annotations_of(good)[key]), **value})
    with pytest.raises(InvalidInput, match=words) as caught:
        read_endpoint(with_annotations(good, {key: value}), "churn")
    assert "VirtualService 'churn'" in caught.value.message
    assert "delete the endpoint with 'mlflow-istio delete-endpoint --force'" in caught.value.message
    assert "\n" not in caught.value.message


def test_an_entry_whose_weights_do_not_sum_up_is_damage_too() -> None:
    good = moved(a_virtual_service(), canary, "c1")
    entries = json.loads(annotations_of(good)[UNRECORDED])
    entries[0]["after"]["split"][0]["weight"] = 1
    with pytest.raises(InvalidInput, match="damaged"):
        read_endpoint(with_annotations(good, {UNRECORDED: json.dumps(entries)}), "churn")


def test_an_object_that_does_not_carry_the_endpoint_says_so() -> None:
    with pytest.raises(InvalidInput, match="VirtualService 'churn' does not carry endpoint 'other'"):
        endpoint_from(carrying(an_endpoint()), "other", an_endpoint().traffic)


def test_the_splits_route_is_named_by_the_state_or_ours() -> None:
    assert route_name(carrying(an_endpoint()), "churn") == "mlflow-istio.churn.split"
    assert route_name({"metadata": {"annotations": {STATE: '{"route": "main"}'}}}, "churn") == "main"
    assert route_name({"metadata": {"annotations": {STATE: '{"route": ""}'}}}, "churn") == "mlflow-istio.churn.split"


def test_recorded_entries_leave_and_the_others_stay_in_order() -> None:
    three = moved(moved(a_virtual_service(), canary, "c1"), transitions.abort, "c2")
    left = without_recorded(three, "churn", frozenset({"c1"}))
    assert [entry.id for entry in read_endpoint(left, "churn").outbox] == ["c0", "c2"]
    none = without_recorded(left, "churn", frozenset({"c0", "c2", "other"}))
    assert UNRECORDED not in annotations_of(none)
    assert without_recorded(none, "churn", frozenset({"c0"})) is none
    assert none["spec"] == three["spec"]


@pytest.mark.parametrize(
    ("deployment", "role"), [("v1", "stable"), ("v2", "candidate"), ("v3", "idle"), ("nobody", "idle")]
)
def test_a_deployment_has_one_role(deployment: str, role: str) -> None:
    assert started().role_of(deployment) == role


def test_a_foreign_stable_makes_no_deployment_stable_even_of_its_name() -> None:
    foreign = an_endpoint(
        traffic=Traffic(split=split(legacy=100), pins=("v1",)), stable=replace(own("v1"), host="elsewhere")
    )
    assert foreign.role_of("v1") == "idle"
    assert not foreign.owns(foreign.stable)
    assert foreign.owns(own("v1"))
    assert foreign.owns(own("v2")), "the Service is ours, whatever routes are left there"


def test_a_change_is_known_while_it_is_the_newest_or_unrecorded() -> None:
    endpoint = read_endpoint(moved(a_virtual_service(), canary, "c1"), "churn")
    assert [endpoint.has_change(change) for change in ("c0", "c1", "c2")] == [True, True, False]


# The bound of what an object may owe the registry


def owing(count: int, reason: str = "") -> Endpoint:
    endpoint = an_endpoint()
    for number in range(count):
        endpoint = with_change(endpoint, endpoint, a_stamp(f"c{number}", reason=reason), "1")
    return endpoint


@pytest.mark.parametrize("full", [owing(MAX_UNRECORDED), owing(11, "x" * 12_000)], ids=["by number", "by size"])
def test_too_many_unrecorded_changes_refuse_another_and_say_what_still_works(full: Endpoint) -> None:
    with pytest.raises(StateConflict, match=r"endpoint 'churn' has \d+ routing changes that the MLflow") as caught:
        with_change(full, full, a_stamp("more"), "1")
    assert "rollback and abort still work" in caught.value.message
    urgent = with_change(full, full, a_stamp("more", "rollback", urgent=True), "1")
    assert urgent.outbox[-1].id == "more"


def test_what_may_be_owed_leaves_room_for_rollbacks_in_256_kib_of_annotations() -> None:
    """Kubernetes refuses an object whose annotations are larger; then nothing could be rolled back any more."""
    entry = with_change(None, an_endpoint(), a_stamp("c", reason="x" * 12_000), "1").outbox[0]
    assert MAX_UNRECORDED_BYTES + 4 * len(json.dumps(to_json(entry))) < 256 * 1024


def test_an_entry_names_the_versions_of_what_it_moved_and_no_others() -> None:
    before = an_endpoint(traffic=Traffic(split=split(v1=100), pins=("v1",)))
    after = replace(before, traffic=before.traffic.with_pin("v2"))
    (entry,) = with_change(before, after, a_stamp(), "1").outbox
    assert entry.versions == {"v1": "churn/1", "v2": "churn/2"}


def test_the_last_entry_of_an_endpoint_has_no_traffic_after() -> None:
    (entry,) = with_change(an_endpoint(), replace(an_endpoint(), deleting=True), a_stamp(), "1").outbox
    assert entry.before == an_endpoint().traffic
    assert entry.after is None


def test_a_release_that_never_closed_leaves_no_end() -> None:
    assert a_release().run == "run-r1"
    assert with_change(an_endpoint(), started(), a_stamp(), "1").last is None
