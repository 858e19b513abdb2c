"""Frozen values are written as their fields say, read back as themselves, and what doesn't fit is named by its path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import NOT_STORED, compact, form, from_json, stored, to_json
from mlflow_istio.errors import InvalidInput

TIME = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=timezone.utc)


@form(closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    city: str
    floor: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    name: str
    home: Place = field(metadata=stored(flat=True))
    size: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InvalidInput("nobody is smaller than nothing")


@form(sparse=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    food: str | None = None
    more: Object = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    house: str = field(metadata=stored(context=True))
    since: datetime
    until: datetime | None = None
    guests: tuple[Guest, ...] = ()
    tables: Mapping[str, Place] = field(default_factory=dict)
    pairs: tuple[tuple[str, int], ...] = ()
    mood: Literal["good", "bad"] = "good"
    open_door: bool = field(default=True, metadata=stored(name="openDoor", needed=True))
    note: str = field(default="", metadata=stored(sparse=True))
    wishes: Wishes = field(default_factory=Wishes)
    raw: Mapping[str, Any] = field(default_factory=dict)
    weight: float = field(
        default=0.0, metadata=stored(write=lambda value: {"kg": value}, read=lambda data, _context: data["kg"])
    )
    far: bool = field(
        default=False,
        metadata=stored(derived=lambda data, context: data["house"] != context.get("here", data["house"])),
    )
    secret: str = field(default="none", metadata=NOT_STORED)


@form(row=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    count: int = 0
    total: float | None = None


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    peak: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally(Base):
    events: int = field(default=0, metadata=stored(name="ours", place=0))
    requests: int = field(default=0, metadata=stored(name="ours", place=1))
    sums: Sums = field(default_factory=Sums)


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    rank: int = 0
    home: Place = field(default_factory=lambda: Place(city="x"), metadata=stored(flat=True))


PARTY = Party(
    house="ours",
    since=TIME,
    guests=(Guest(name="ann", home=Place(city="here", floor=2)),),
    tables={"a": Place(city="there")},
    pairs=(("x", 1),),
    open_door=False,
    wishes=Wishes(food="soup"),
    raw={"any": [1, {"thing": None}]},
    weight=2.5,
)
WRITTEN: dict[str, Any] = {
    "house": "ours",
    "since": "2026-03-01T12:00:00.123000+00:00",
    "until": None,
    "guests": [{"name": "ann", "city": "here", "floor": 2, "size": 1.0}],
    "tables": {"a": {"city": "there", "floor": 0}},
    "pairs": [["x", 1]],
    "mood": "good",
    "openDoor": False,
    "wishes": {"food": "soup"},
    "raw": {"any": [1, {"thing": None}]},
    "weight": {"kg": 2.5},
}


def test_a_value_is_written_in_the_order_of_its_fields_and_reads_back_as_itself() -> None:
    assert json.dumps(to_json(PARTY)) == json.dumps(WRITTEN)
    assert from_json(Party, json.loads(json.dumps(WRITTEN))) == PARTY
    assert compact(to_json(Place(city="ü"))) == '{"city":"\\u00fc","floor":0}'


def test_what_is_not_stored_is_given_or_follows_from_what_is() -> None:
    assert from_json(Party, WRITTEN, here="theirs").far
    assert not from_json(Party, WRITTEN, here="ours").far
    assert from_json(Party, WRITTEN, secret="whispered").secret == "whispered"


def test_what_may_be_left_out_has_its_default_and_what_nobody_knows_is_passed_over() -> None:
    small = {"house": "ours", "since": TIME.isoformat(), "openDoor": True, "of_tomorrow": 1, "secret": "no"}
    assert from_json(Party, small) == Party(house="ours", since=TIME)


def with_parts(**parts: Any) -> dict[str, Any]:
    return {**WRITTEN, **parts}


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (Party, 5, "stored Party: must be an object, not 5"),
        (Party, {}, "stored Party: missing fields: house, openDoor, since (another version"),
        (Party, with_parts(house=None), "stored Party: house: must be a text, not None"),
        (
            Party,
            with_parts(since="noon"),
            "stored Party: since: must be a time such as 2026-03-01T12:00:00+00:00, not 'noon'",
        ),
        (Party, with_parts(until=5), "stored Party: until: must be a time"),
        (Party, with_parts(guests={}), "stored Party: guests: must be a list, not {}"),
        (Party, with_parts(guests=[{"city": "x"}]), "stored Party: guests[0]: missing fields: name ("),
        (Party, with_parts(guests=[{"name": "x", "city": 5}]), "stored Party: guests[0].city: must be a text, not 5"),
        (Party, with_parts(guests=[*WRITTEN["guests"], 7]), "stored Party: guests[1]: must be an object, not 7"),
        (
            Party,
            with_parts(guests=[{"name": "x", "city": "y", "size": -1}]),
            "stored Party: guests[0]: nobody is smaller than nothing",
        ),
        (Party, with_parts(tables=[]), "stored Party: tables: must be an object, not []"),
        (
            Party,
            with_parts(tables={"a": {"city": "x", "floor": True}}),
            "tables.a.floor: must be a whole number, not True",
        ),
        (
            Party,
            with_parts(tables={"a": {"city": "x", "hue": 1, "air": 2}}),
            "tables.a: unknown fields: air, hue (another",
        ),
        (Party, with_parts(pairs=[["x"]]), "stored Party: pairs[0]: must be a list of 2, not ['x']"),
        (Party, with_parts(pairs=[["x", 1.5]]), "stored Party: pairs[0][1]: must be a whole number, not 1.5"),
        (Party, with_parts(mood="odd"), "stored Party: mood: must be one of good, bad, not 'odd'"),
        (Party, with_parts(mood=[]), "stored Party: mood: must be one of good, bad, not []"),
        (Party, with_parts(openDoor=1), "stored Party: openDoor: must be true or false, not 1"),
        (Party, with_parts(house=["long"] * 99), "not ['long', 'long', 'long', 'long', 'long', 'long', 'long', ..."),
        (Party, with_parts(weight={}), "stored Party: weight: can't be read (KeyError('kg'))"),
        (Tally, {"peak": 1, "ours": [1, 2]}, "stored Tally: missing fields: sums ("),
        (Tally, {"peak": 1, "ours": [1], "sums": [1, 2]}, "stored Tally: ours: must be a list of more than 1, not [1]"),
        (Tally, {"peak": 1, "ours": [1, ""], "sums": [1, 2]}, "stored Tally: ours[1]: must be a whole number, not ''"),
        (
            Tally,
            {"peak": 1, "ours": [1, 2], "sums": [1]},
            "stored Tally: sums: must be a list of count, total, not [1]",
        ),
        (Tally, {"peak": 1, "ours": [1, 2], "sums": ["", 1]}, "stored Tally: sums.count: must be a whole number"),
        (Whole, {"rank": 1, "city": "x", "more": 1}, "missing fields: floor and unknown fields: more"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path_on_one_line(kind: type, data: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_json(kind, data)
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_fields_that_belong_together_stand_in_a_list() -> None:
    tally = Tally(peak=1.5, events=2, requests=3, sums=Sums(count=4))
    assert to_json(tally) == {"peak": 1.5, "ours": [2, 3], "sums": [4, None]}
    assert from_json(Tally, to_json(tally)) == tally


def test_a_whole_form_takes_exactly_its_keys() -> None:
    assert from_json(Whole, {"rank": 1, "city": "x", "floor": 3}) == Whole(rank=1, home=Place(city="x", floor=3))
    assert to_json(Whole()) == {"rank": 0, "city": "x", "floor": 0}
