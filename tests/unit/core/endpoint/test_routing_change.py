"""A change says all of it in JSON, and as a tag's value fits every database whatever it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.endpoint.routing_change import MAX_TAG, RoutingChange
from mlflow_istio.core.endpoint.traffic import Arm, Destination, Mirror, SessionAffinity, Traffic, WeightedDestination
from tests.support.endpoint_values import TIME, own, split

LONG_HOST = "h" * 249


def a_change(**changes: Any) -> RoutingChange:
    values: dict[str, Any] = {
        "id": "c7",
        "sequence": 7,
        "time": TIME,
        "endpoint": "churn",
        "action": "shift",
        "reason": "weil",
        "who": "me",
        "release": "r1",
        "run": "0123",
        "before": Traffic(split=split(v1=100), pins=("v1",)),
        "after": Traffic(
            split=split(v1=90, v2=10), pins=("v1", "v2"), sticky=SessionAffinity(cookie="arm", release="r1")
        ),
        "versions": {"v1": "churn/1", "v2": "churn/2"},
        "resource_version": "41",
        "evidence": {"p": 0.01, "n": [1, 2]},
    }
    return RoutingChange(**{**values, **changes})


def wide(count: int, host: str = LONG_HOST) -> Traffic:
    """A split over many destinations with long names."""
    shares = [
        WeightedDestination(
            destination=Destination(host=f"{host}{number:03d}", subset=f"{number:03d}{'s' * 49}", port=65535), weight=1
        )
        for number in range(count - 1)
    ]
    return Traffic(split=(*shares, WeightedDestination(destination=own("v1"), weight=100 - len(shares))))


def armed(count: int) -> Traffic:
    arms = tuple(Arm(deployment=f"v{n}", match=({"headers": {"x" * 50: {"exact": "y" * 50}}},)) for n in range(count))
    return Traffic(split=split(v1=100), arms=arms, mirrors=(Mirror(destination=own("v2"), percentage=5),))


CHANGES = {
    "small": a_change(),
    "first": a_change(before=None, release=None, run=None),
    "last": a_change(after=None),
    "bare": RoutingChange(id="a", sequence=1, time=TIME, endpoint="e", action="deploy", before=None, after=None),
    "evidence": a_change(evidence={"samples": ["x" * 100] * 100}),
    "reason": a_change(reason="x" * 100_000, who="y" * 100_000),
    "reason beyond ASCII": a_change(reason="😀" * 100_000, who="é" * 100_000),
    "arms": a_change(before=armed(20), after=armed(30)),
    "versions": a_change(versions={f"v{n}": "m" * 200 + "/1" for n in range(40)}),
    "pins": a_change(after=Traffic(split=split(v1=100), pins=tuple(f"{n:03d}{'p' * 49}" for n in range(90)))),
    "wide": a_change(before=wide(100), after=wide(50)),
    "wide after": a_change(before=None, after=wide(5)),
    "four": a_change(before=wide(4), after=wide(4)),
    "everything": a_change(
        before=wide(100),
        after=wide(100),
        reason='"\\\u2028' * 5000,
        who="\u0000" * 5000,
        versions={f"v{n}": "m/1" for n in range(500)},
        evidence={"x": "y" * 10_000},
        endpoint="e" * 52,
        release="r" * 63,
        run="f" * 32,
        resource_version="9" * 20,
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_read_back_from_its_json_as_it_was(change: RoutingChange) -> None:
    assert from_json(RoutingChange, json.loads(json.dumps(to_json(change)))) == change


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_tag_fits_and_is_still_a_change_of_the_same_shape(change: RoutingChange) -> None:
    tag = change.as_tag()
    assert len(tag) <= MAX_TAG < 5000
    assert tag.isascii()
    read = from_json(RoutingChange, json.loads(tag))
    for field in ("id", "sequence", "time", "endpoint", "action", "release", "run", "resource_version"):
        assert getattr(read, field) == getattr(change, field)
    assert change.reason.startswith(read.reason)
    assert (read.before is None, read.after is None) == (change.before is None, change.after is None)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_tag_says_that_it_was_cut_only_when_it_was(change: RoutingChange) -> None:
    whole = json.dumps(to_json(change), separators=(",", ":"), sort_keys=True)
    assert ("cut" in json.loads(change.as_tag())) is (len(whole) > MAX_TAG)


@pytest.mark.parametrize(
    ("name", "kept", "lost"),
    [
        ("evidence", ("reason", "versions", "after"), ("evidence",)),
        ("reason", ("versions", "after"), ("evidence", "reason", "who")),
        ("arms", ("reason", "versions"), ("evidence", "after")),
        ("versions", ("reason",), ("evidence", "versions")),
    ],
)
def test_what_matters_least_is_cut_first(name: str, kept: tuple[str, ...], lost: tuple[str, ...]) -> None:
    change = CHANGES[name]
    read = from_json(RoutingChange, json.loads(change.as_tag()))
    assert all(getattr(read, field) == getattr(change, field) for field in kept)
    assert all(getattr(read, field) != getattr(change, field) for field in lost)


def test_the_largest_shares_survive_and_the_rest_is_one() -> None:
    read = from_json(RoutingChange, json.loads(CHANGES["wide"].as_tag()))
    assert read.after is not None
    assert read.before is not None
    assert [share.weight for share in read.after.split] == [51, 1, 1, 47]
    assert read.after.split[0].destination == own("v1")
    assert read.after.split[-1].destination.name == "(47 others)"
    assert read.before.split[-1].destination.name == "(97 others)"


def test_three_shares_leave_no_others() -> None:
    change = a_change(
        before=None, after=wide(3), versions={f"v{n}": "m" * 200 + "/1" for n in range(40)}, reason="x" * 9000
    )
    read = from_json(RoutingChange, json.loads(change.as_tag()))
    assert read.after is not None
    assert [share.weight for share in read.after.split] == [1, 1, 98]


def test_tags_sort_by_sequence_and_no_other_change_has_the_key() -> None:
    keys = [a_change(id=name, sequence=sequence).tag_key for sequence, name in ((2, "b"), (10, "a"), (10, "c"))]
    assert keys == sorted(keys)
    assert len(set(keys)) == 3
    assert all(len(a_change(id="i" * 63).tag_key) <= 250 for _ in keys)
