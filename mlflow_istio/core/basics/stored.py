"""Frozen dataclasses as the JSON that stands on objects, in runs and in tags, and back.

A field's type says how it is written: nested values as objects, tuples as lists, times in ISO form, what is JSON already as it is.
``stored`` says where a field is written otherwise, ``form`` what holds for a whole class. Whoever reads gets the value, or one
error that names the path of what doesn't fit. Forms are worked out when a class is first used, so an import costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from datetime import datetime, timezone
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from mlflow_istio.errors import InvalidInput

Value = TypeVar("Value")
Write = Callable[[Any], Any]
"""A field's value to its JSON."""
Read = Callable[[Any, Mapping[str, Any]], Any]
"""A field's JSON, and what is known around it, to its value."""

DEEPEST = 100
"""Levels of nesting in what we store; nothing of ours has a quarter of them, and Python's own readers give up at a thousand."""

_LARGEST = 2**63 - 1
"""No counter of ours is larger, nor what other programs read as a whole number."""

_FORMS: dict[Any, Mapping[str, bool]] = {}
_SCALARS: Mapping[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}


def stored(
    *,
    name: str = "",
    place: int | None = None,
    sparse: bool | None = None,
    needed: bool = False,
    flat: bool = False,
    context: bool = False,
    write: Write | None = None,
    read: Read | None = None,
    derived: Read | None = None,
) -> Mapping[str, Any]:
    """How a field is stored, as its ``metadata``.

    Args:
        name: Its key, where that isn't the field's name.
        place: Its place in a list that stands under its key, together with other fields of that key.
        sparse: Whether it is left out when it has its default; None: what its class's form says.
        needed: Whether it must be there when read although it has a default.
        flat: Whether the keys of the value in it stand beside this value's own.
        context: Whether the fields after it, and all in them, are read knowing it.
        write: Makes its JSON, where its type doesn't say how.
        read: Reads that.
        derived: It isn't written, but follows from the whole object and what is known around it.
    """
    return locals()


NOT_STORED: Mapping[str, Any] = stored(derived=lambda _data, _context: MISSING)
"""``metadata`` of a field that isn't written: whoever reads names it in the context, or it has its default."""


def form(
    *, sparse: bool = False, closed: bool = False, whole: bool = False, row: bool = False
) -> Callable[[type[Value]], type[Value]]:
    """How the values of a class and those below it are stored, as a decorator; without it unknown keys are passed over.

    Args:
        sparse: Whether fields are left out when they have their defaults.
        closed: Whether an unknown key is refused.
        whole: Whether each key must be there, but for those of fields that say themselves that they are sparse, and no other.
        row: Whether it is written as a list of its fields.
    """
    settings = {"sparse": sparse, "closed": closed or whole, "whole": whole or row, "row": row}

    def register(kind: type[Value]) -> type[Value]:
        _FORMS[kind] = settings
        return kind

    return register


def shaped(kind: Any) -> Read:
    """A reader, for ``stored``, of JSON that stays as it is: it must only fit this type, else it is refused by its path."""

    def read(data: Any, context: Mapping[str, Any]) -> Any:
        _codec(kind)[1](data, context)
        return data

    return read


def to_json(value: Any) -> dict[str, Any]:
    """A value's JSON; ``from_json`` reads it back."""
    return cast("dict[str, Any]", _written(value))


def from_json(kind: type[Value], data: Any, **context: Any) -> Value:
    """The value that ``to_json`` made this of.

    Args:
        kind: Its class.
        data: Its JSON.
        context: What its parts are read knowing; fields that aren't stored, too.

    Raises:
        InvalidInput: It doesn't fit; names the path of what doesn't.
    """
    try:
        return cast("Value", _read(_form_of(cast("Any", kind)), data, context))
    except _Misfit as exc:
        path = "".join(reversed(exc.path)).removeprefix(".")
        raise InvalidInput(f"stored {kind.__name__}: {path}{': ' if path else ''}{exc}") from exc.__cause__


def parsed(text: Any, what: str) -> Any:
    """The JSON in a text that somebody stored, and that anybody may have damaged since.

    Args:
        text: The text, or its bytes.
        what: What it is, for the error, such as ``annotation KEY``.

    Raises:
        InvalidInput: It is no JSON, is nested deeper than ``DEEPEST``, or holds half a character.
    """
    if not isinstance(text, str | bytes):
        raise InvalidInput(f"{what} is no text but {shortened(repr(text))}")
    deep = f"{what} is nested more than {DEEPEST} levels deep"
    try:
        data = json.loads(text)
    except RecursionError as exc:
        raise InvalidInput(deep) from exc
    except ValueError as exc:
        raise InvalidInput(f"{what} is not JSON ({shortened(str(exc))})") from exc
    plain = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
    if plain.count("[") + plain.count("{") > DEEPEST and _is_deep(data):
        raise InvalidInput(deep)
    if "\\u" in plain and _has_half_characters(data):
        raise InvalidInput(f"{what} holds half a character (a lone surrogate), which nothing can write")
    return data


def shortened(text: str) -> str:
    """At most 60 characters of a text."""
    return text if len(text) <= 60 else text[:57] + "..."


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            inner += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not inner:
            return False
        level = inner
    return any(isinstance(value, dict | list) for value in level)


def _has_half_characters(data: Any) -> bool:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def compact(data: Any) -> str:
    """JSON as annotations and tags hold it: short, and the same text for the same value."""
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


class _Misfit(Exception):
    """What doesn't fit; the path to it is put together from the inside out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path: list[str] = []

    @classmethod
    def of(cls, wanted: str, data: Any) -> _Misfit:
        return cls(f"must be {wanted}, not {shortened(_brief(data))}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """How a field is written (None: not at all) and read; ``flat`` are the keys of a value that stand beside its own."""

    attribute: str
    key: str
    place: int | None
    default: Any
    sparse: bool
    flat: frozenset[str]
    context: bool
    write: Write | None
    read: Read


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """A class's parts, the keys it knows, those that must be there, whether others are refused, and whether it is a list."""

    kind: Any
    parts: tuple[_Part, ...]
    known: frozenset[str]
    needed: frozenset[str]
    closed: bool
    row: bool


@cache
def _form_of(kind: Any) -> _Form:
    class_settings = next((_FORMS[base] for base in kind.__mro__ if base in _FORMS), {})
    whole = class_settings.get("whole", False)
    hints = get_type_hints(kind)
    parts: list[_Part] = []
    known: set[str] = set()
    needed: set[str] = set()
    for field in fields(kind):
        settings = field.metadata or stored()
        part = _part(field, hints[field.name], settings, class_settings.get("sparse", False))
        parts.append(part)
        if part.flat:
            known |= part.flat
            needed |= part.flat if whole else _form_of(hints[field.name]).needed
        elif part.write is not None:
            known.add(part.key)
            always = part.default is MISSING or settings["needed"] or (whole and settings["sparse"] is None)
            needed |= {part.key} if always else set()
    return _Form(
        kind=kind,
        parts=tuple(parts),
        known=frozenset(known),
        needed=frozenset(needed),
        closed=class_settings.get("closed", False),
        row=class_settings.get("row", False),
    )


def _part(field: Field[Any], hint: Any, settings: Mapping[str, Any], sparse: bool) -> _Part:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    write, read = settings["write"], settings["derived"]
    if settings["read"] is not None:
        read = _own(settings["read"])
    if read is None or (write is None and settings["derived"] is None):
        write, read = (own or by_type for own, by_type in zip((write, read), _codec(hint), strict=True))
    return _Part(
        attribute=field.name,
        key=settings["name"] or field.name,
        place=settings["place"],
        default=default,
        sparse=default is not MISSING and (sparse if settings["sparse"] is None else settings["sparse"]),
        flat=_form_of(hint).known if settings["flat"] else frozenset(),
        context=settings["context"],
        write=write,
        read=read if settings["place"] is None else _nth(settings["place"], read),
    )


def _written(value: Any) -> Any:
    """An object, or a row's list."""
    form = _form_of(cast("Any", type(value)))
    obj: dict[str, Any] = {}
    for part in form.parts:
        content = getattr(value, part.attribute)
        if part.write is None or (part.sparse and content == part.default):
            continue
        if part.flat:
            obj.update(part.write(content))
        elif part.place is not None:
            obj.setdefault(part.key, []).append(part.write(content))
        else:
            obj[part.key] = part.write(content)
    return list(obj.values()) if form.row else obj


def _read(form: _Form, data: Any, context: Mapping[str, Any]) -> Any:
    if form.row:
        keys = [part.key for part in form.parts if part.write is not None]
        if not isinstance(data, list | tuple) or len(data) != len(keys):
            raise _Misfit.of(f"a list of {', '.join(keys)}", data)
        data = dict(zip(keys, data, strict=True))
    if not isinstance(data, dict):
        raise _Misfit.of("an object", data)
    if not form.needed <= data.keys() or (form.closed and not form.known >= data.keys()):
        problems = {"missing": form.needed - data.keys(), "unknown": data.keys() - form.known if form.closed else ()}
        words = [f"{what} fields: {', '.join(sorted(keys))}" for what, keys in problems.items() if keys]
        raise _Misfit(f"{' and '.join(words)} (another version of mlflow-istio may have written it)")
    values: dict[str, Any] = {}
    part = form.parts[0]
    try:
        for part in form.parts:
            if part.write is None:
                content = context[part.attribute] if part.attribute in context else part.read(data, context)
                if content is not MISSING:
                    values[part.attribute] = content
            elif part.flat:
                values[part.attribute] = part.read({key: data[key] for key in part.flat & data.keys()}, context)
            elif part.key in data:
                values[part.attribute] = part.read(data[part.key], context)
            if part.context:
                context = {**context, part.attribute: values[part.attribute]}
    except (_Misfit, InvalidInput) as exc:
        raise _found_in("" if part.flat else f".{part.key}", exc) from exc.__cause__
    try:
        return form.kind(**values)
    except InvalidInput as exc:
        raise _Misfit(exc.message) from exc


def _nth(place: int, read: Read) -> Read:
    def read_nth(data: Any, context: Mapping[str, Any]) -> Any:
        if not isinstance(data, list | tuple) or len(data) <= place:
            raise _Misfit.of(f"a list of more than {place}", data)
        return _inside(f"[{place}]", read, data[place], context)

    return read_nth


def _inside(step: str, read: Read, data: Any, context: Mapping[str, Any]) -> Any:
    try:
        return read(data, context)
    except (_Misfit, InvalidInput) as exc:
        raise _found_in(step, exc) from exc.__cause__


def _found_in(step: str, problem: _Misfit | InvalidInput) -> _Misfit:
    """What a reader of ours, or a field's own, complained of, one step farther out."""
    misfit = problem if isinstance(problem, _Misfit) else _Misfit(problem.message)
    misfit.path.append(step)
    return misfit


def _codec(hint: Any) -> tuple[Write, Read]:
    """How values of a type are written and read."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _same, _scalar(*_SCALARS[hint])
    if hint is datetime:
        return datetime.isoformat, _time
    if origin is Literal:
        return _same, _one_of(args)
    if origin in (Union, UnionType):
        return _optional(*_codec(Union[tuple(arg for arg in args if arg is not type(None))]))  # noqa: UP007
    if origin is tuple:
        return _tuple([_codec(arg) for arg in args if arg is not Ellipsis], any_length=args[-1] is Ellipsis)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(*_codec(args[1]))
    if hasattr(hint, "__dataclass_fields__"):
        return _written, lambda data, context: _read(_form_of(hint), data, context)
    return _same, _raw


def _same(value: Any) -> Any:
    return value


def _raw(data: Any, _context: Mapping[str, Any]) -> Any:
    return data


def _scalar(kinds: tuple[type, ...], wanted: str) -> Read:
    def read(data: Any, _context: Mapping[str, Any]) -> Any:
        if not isinstance(data, kinds) or (isinstance(data, bool) and bool not in kinds):
            raise _Misfit.of(wanted, data)
        if isinstance(data, int) and abs(data) > _LARGEST:
            raise _Misfit.of(f"{wanted} of usual size", data)
        return data

    return read


def _one_of(words: tuple[Any, ...]) -> Read:
    def read(data: Any, _context: Mapping[str, Any]) -> Any:
        if data not in words:
            raise _Misfit.of(f"one of {', '.join(map(str, words))}", data)
        return data

    return read


def _own(read: Read) -> Read:
    """A field's own reader, which needn't look at the shape of what it is context."""

    def read_own(data: Any, context: Mapping[str, Any]) -> Any:
        try:
            return read(data, context)
        except (AttributeError, LookupError, TypeError, ValueError) as exc:
            raise _Misfit(f"can't be read ({exc!r})") from exc

    return read_own


def _time(data: Any, _context: Mapping[str, Any]) -> datetime:
    """A time that can be compared with now, and told in another zone."""
    wanted = "a time such as 2026-03-01T12:00:00+00:00"
    try:
        time = datetime.fromisoformat(data)
        time.astimezone(timezone.utc)
    except (TypeError, ValueError, OverflowError) as exc:
        raise _Misfit.of(wanted, data) from exc
    if time.tzinfo is None:
        raise _Misfit.of(wanted, data)
    return time


def _brief(data: Any) -> str:
    """What a value is, for an error: a huge number or text is not written out first."""
    if isinstance(data, str):
        return repr(data[:100])
    if isinstance(data, int) and abs(data) > _LARGEST:
        return "a number of hundreds of digits"
    return repr(data)


def _optional(write: Write, read: Read) -> tuple[Write, Read]:
    return (
        lambda value: None if value is None else write(value),
        lambda data, context: None if data is None else read(data, context),
    )


def _tuple(codecs: list[tuple[Write, Read]], *, any_length: bool) -> tuple[Write, Read]:
    def each(values: Sequence[Any]) -> Iterable[tuple[Any, tuple[Write, Read]]]:
        return zip(values, codecs * len(values) if any_length else codecs, strict=True)

    def read(data: Any, context: Mapping[str, Any]) -> tuple[Any, ...]:
        if not isinstance(data, list | tuple) or not (any_length or len(data) == len(codecs)):
            raise _Misfit.of("a list" if any_length else f"a list of {len(codecs)}", data)
        return tuple(_inside(f"[{index}]", codec[1], value, context) for index, (value, codec) in enumerate(each(data)))

    return lambda values: [codec[0](value) for value, codec in each(values)], read


def _mapping(write: Write, read: Read) -> tuple[Write, Read]:
    def read_all(data: Any, context: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise _Misfit.of("an object", data)
        if read is _raw:
            return dict(data)
        return {key: _inside(f".{key}", read, value, context) for key, value in data.items()}

    return dict if write is _same else lambda values: {key: write(value) for key, value in values.items()}, read_all
