"""Reading a raw object field by field: every message names the field, and nothing is skipped silently.

A reader asks a ``Field`` for its ``members`` and says which it knows; one that it does not know is refused by its
path. So the list of what the local mesh carries out stands in the code that carries it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mlflow_istio.errors import InvalidInput, Unsupported

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


class Field(NamedTuple):
    """A JSON value and where it stands. False when the value is absent.

    Its path is worked out when somebody asks: a change of traffic reads hundreds of fields and complains of none.

    Attributes:
        value: The JSON value; None when it is absent.
        key: Its name or index in the parent; at the root, kind and name of the object.
        parent: The field that holds it; None at the root.
    """

    value: Any
    key: str | int
    parent: Field | None

    def __str__(self) -> str:
        return f"{self.owner}: {self.path}"

    def __bool__(self) -> bool:
        return self.value is not None

    @property
    def owner(self) -> str:
        """Kind and name of the object, such as ``VirtualService churn``."""
        return str(self.key) if self.parent is None else self.parent.owner

    @property
    def path(self) -> str:
        """Path inside the object, such as ``spec.http[2].timeout``."""
        if self.parent is None:
            return ""
        step = f"[{self.key}]"
        if isinstance(self.key, str):
            if _PLAIN_KEY.fullmatch(self.key):
                step = f".{self.key}"
            elif not self.key.isprintable():
                step = f"[{self.key!r}]"
        return f"{self.parent.path}{step}".removeprefix(".")

    def member(self, key: str) -> Field:
        """The member of that name, absent or not."""
        return Field(self._mapping().get(key), key, self)

    def members(self, *known: str) -> Members:
        """All known members, absent ones included.

        Raises:
            Unsupported: There is another member; names its path.
            InvalidInput: This is no object.
        """
        mapping = self._mapping()
        for key in mapping:
            if key not in known and mapping[key] is not None:
                raise self.member(key).unsupported()
        return Members(self, mapping, known)

    def each(self) -> list[Field]:
        """The members of an object of free names, or the elements of a list, in their order; empty when absent."""
        if self.value is None:
            return []
        if isinstance(self.value, list):
            return [Field(value, index, self) for index, value in enumerate(self.value)]
        raise self.invalid("must be a list")

    def pairs(self) -> list[tuple[str, Field]]:
        """Name and field of each member of an object of free names; empty when absent."""
        return [(key, Field(value, key, self)) for key, value in self._mapping().items()]

    def text(self) -> str:
        """A string, as it stands."""
        if not isinstance(self.value, str):
            raise self.invalid("must be a string")
        return self.value

    def name(self) -> str:
        """A string that is not empty."""
        if not self.text():
            raise self.invalid("must not be empty")
        return self.text()

    def flag(self) -> bool:
        """A boolean; False when absent."""
        if self.value is None:
            return False
        if not isinstance(self.value, bool):
            raise self.invalid("must be true or false")
        return self.value

    def integer(self, *, low: int, high: int) -> int:
        """An integer between two bounds, both included."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.invalid(f"must be an integer, not {self.value!r}")
        if not low <= self.value <= high:
            raise self.invalid(f"must be between {low} and {high}, not {self.value}")
        return self.value

    def number(self, *, low: float, high: float) -> float:
        """A number between two bounds, both included."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.invalid(f"must be a number, not {self.value!r}")
        if not low <= self.value <= high:
            raise self.invalid(f"must be between {low:g} and {high:g}, not {self.value}")
        return float(self.value)

    def texts(self) -> dict[str, str]:
        """An object whose members are strings; empty when absent."""
        return {key: field.text() for key, field in self.pairs()}

    def duration(self, *, low: float = 0.001) -> str:
        """A duration such as ``1m30s`` or ``250ms``, in Envoy's form: seconds followed by ``s``.

        Args:
            low: The shortest allowed, in seconds; a millisecond is that of nearly all fields of Istio.
        """
        text = self.text()
        parts = _DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise self.invalid(f"must be a duration such as 2s or 250ms, not {text!r}")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        if seconds < low:
            raise self.invalid(f"must be at least {low * 1000:g}ms, not {text!r}")
        return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"

    def invalid(self, problem: str) -> InvalidInput:
        """The error that this value can't be right."""
        return InvalidInput(f"{self} {problem}")

    def unsupported(self, hint: str = "") -> Unsupported:
        """The error that the local mesh can't carry this out."""
        reason = hint or "remove it, or use a cluster with Istio"
        return Unsupported(f"{self} can't be carried out by the local mesh: {reason}")

    def _mapping(self) -> dict[str, Any]:
        if self.value is None:
            return _NOTHING
        if not isinstance(self.value, dict):
            raise self.invalid("must be an object")
        return self.value


class Members(Mapping[str, Field]):
    """The known members of a field, each made when it is looked at."""

    __slots__ = ("_known", "_mapping", "_parent")

    def __init__(self, parent: Field, mapping: dict[str, Any], known: tuple[str, ...]) -> None:
        self._parent = parent
        self._mapping = mapping
        self._known = known

    def __getitem__(self, key: str) -> Field:
        if key not in self._known:
            raise KeyError(key)
        return Field(self._mapping.get(key), key, self._parent)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


_NOTHING: dict[str, Any] = {}


def read(obj: Mapping[str, Any]) -> Field:
    """The root of an object, for reading."""
    return Field(obj, f"{obj['kind']} {obj['metadata']['name']}", None)
