"""Header rules of a route and of its destinations, which meet where they treat one header; its name has no upper and lower case.

Where a route has several destinations, Envoy carries out the rules of the one that is drawn first and the route's last
(``request_headers_to_add``: from the most specific level to the least; Istio leaves ``most_specific_header_mutations_wins`` off).
Where it has one, istiod writes that one's rules behind the route's (``processDestination`` in
``pilot/pkg/networking/core/route/route.go``), and both are one level. On each level Envoy first removes, then sets, then adds. So
whoever treats a header on both levels may get another value as soon as a second destination stands there; the corpus holds every
pair (``header-levels-of-one-destination``, ``header-levels-of-several-destinations``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_istio.core.basics.objects import Object

_SENT = (None, "(sent)")
"""What a header may be before any rule: not there, or as the other side sent it."""

_AUTHORITY = ("host", ":authority")

Rules = Sequence[tuple[str, str, str]]
"""Operation, name as it is written, and value ('' where it is removed)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """One header of which a route and one of its destinations say different things.

    Attributes:
        side: ``request`` or ``response``.
        header: Its name in lower case.
        route: What the route says.
        destination: What the destination says.
        name: The destination's name.
        by_number: Whether its value rests on how many destinations there are.
    """

    side: str
    header: str
    route: str
    destination: str
    name: str
    by_number: bool

    def __str__(self) -> str:
        counts = (
            "Envoy goes by the destination where it is the only one, and by the route where there are several"
            if self.by_number
            else "Envoy carries out both: it removes, then sets, then adds"
        )
        return (
            f"{self.side} header '{self.header}': the route says {self.route}, and its destination '{self.name}' "
            f"{self.destination}; {counts}"
        )


def meetings(route: Mapping[str, Any] | None, destination: Mapping[str, Any] | None, name: str) -> Iterator[Meeting]:
    """The headers of which a route and one of its destinations say different things.

    Args:
        route: The route's ``headers``.
        destination: The destination's.
        name: The destination's name.
    """
    for side in ("request", "response"):
        ours, theirs = _by_header(route, side), _by_header(destination, side)
        for header in [header for header in ours if header in theirs]:
            if not _agree(ours[header], theirs[header]):
                yield Meeting(
                    side=side,
                    header=header,
                    route=_said(ours[header]),
                    destination=_said(theirs[header]),
                    name=name,
                    by_number=_differ(ours[header], theirs[header]),
                )


def portable(headers: Mapping[str, Any] | None, *, sticky: bool) -> tuple[Object, tuple[str, ...]]:
    """Header rules of an owner's destination as a deployment of ours can have them, and the names of those that it can't.

    The host that a destination is asked by is its own, and answers have room for one cookie.

    Args:
        headers: The rules.
        sticky: Whether the deployment sets a cookie that brings browsers back.
    """
    kept: Object = {}
    left: list[str] = []
    for side, operations in (headers or {}).items():
        for operation, entries in (operations or {}).items():
            stay = [
                name
                for name in entries or ()
                if (side == "request" and str(name).lower() in _AUTHORITY)
                or (sticky and side == "response" and str(name).lower() == "set-cookie")
            ]
            left += [f"{side} {operation} {name}" for name in stay]
            rest: Any = (
                [name for name in entries or () if name not in stay]
                if operation == "remove"
                else {name: text for name, text in (entries or {}).items() if name not in stay}
            )
            if rest:
                kept.setdefault(side, {})[operation] = rest
    return kept, tuple(left)


def _by_header(headers: Mapping[str, Any] | None, side: str) -> dict[str, Rules]:
    by_header: dict[str, list[tuple[str, str, str]]] = {}
    for operation, entries in ((headers or {}).get(side) or {}).items():
        for name in entries or ():
            value = "" if operation == "remove" else str(entries[name])
            by_header.setdefault(str(name).lower(), []).append((operation, str(name), value))
    return {header: tuple(rules) for header, rules in by_header.items()}


def _agree(route: Rules, destination: Rules) -> bool:
    """Whether neither undoes what the other says: both do the same, or both only add."""
    same = {(operation, value) for operation, _, value in route} == {
        (operation, value) for operation, _, value in destination
    }
    return same or all(operation == "add" for operation, _, _ in (*route, *destination))


def _differ(route: Rules, destination: Rules) -> bool:
    """Whether a header's values are others for one destination than for several, whatever was sent."""
    return any(
        sorted(_carried_out([[*route, *destination]], sent)) != sorted(_carried_out([destination, route], sent))
        for sent in _SENT
    )


def _carried_out(levels: Sequence[Rules], sent: str | None) -> list[str]:
    values = [] if sent is None else [sent]
    for rules in levels:
        if any(operation == "remove" for operation, _, _ in rules):
            values = []
        put = [value for operation, _, value in rules if operation == "set"]
        values = [*(put[-1:] or values), *(value for operation, _, value in rules if operation == "add")]
    return values


def _said(rules: Rules) -> str:
    return " and ".join(
        f"{operation} {name}" + (f": {value!r}" if operation != "remove" else "") for operation, name, value in rules
    )
