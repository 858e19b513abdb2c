"""Regular expressions as Envoy reads them (RE2): what it takes, and what of that Python's expressions can say offline.

The syntax is https://github.com/google/re2/wiki/Syntax; where that leaves a doubt, the real Envoy was asked
(``tests/support/re2_patterns.py`` holds its answers). RE2's bound on a program's size is left to Envoy.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass

from mlflow_istio.errors import InvalidInput

_TOKEN = re.compile(
    r"""
    (?P<quoted>\\Q(?P<text>.*?)(?:\\E|\Z))
    | (?P<property>\\[pP](?:[A-Z]|\{\^?[A-Za-z_]+\}))
    | (?P<code>\\x\{(?P<hex>[0-9A-Fa-f]{1,6})\}|\\x[0-9A-Fa-f]{2}|\\0[0-7]{0,2}|\\(?P<octal>[1-7][0-7]{1,2}))
    | (?P<escape>\\.)
    | (?P<set>\[\^?\]?(?:\[:\^?\w*:\]|\\.|(?!\[:\^?\w*:\])[^]\\])*\])
    | (?P<group>\(\?P?<(?P<name>[A-Za-z0-9_]+)>)
    | (?P<flags>\(\?(?P<on>[imsU]*)(?:-(?P<off>[imsU]+))?(?P<end>[:)]))
    | (?P<extension>\(\?(?:P[=>]|<[=!]|.)?)
    | (?P<repeat>(?:[*+?]|\{(?P<least>\d+)(?P<comma>,(?P<most>\d*))?\})\??)
    | (?P<plain>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_SET = re.compile(
    r"""
    \[:(?P<negated>\^?)(?P<posix>\w*):\]
    | \\[pP](?:[A-Z]|\{\^?[A-Za-z_]+\})
    | \\x\{(?P<hex>[0-9A-Fa-f]{1,6})\}
    | \\(?P<octal>[1-7][0-7]{1,2})
    | \\.
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = frozenset("AbBdDsSwWzafnrtv")
_IN_SET_ESCAPES = _ESCAPES - frozenset("AbBz")
_MANY = 1000
"""The most that RE2 repeats a part."""
_MOST_WAYS = 2 * 10**8
"""Most ways to share a text among repeated parts that Python may have to try: about a second."""
_FEW = 10
"""Up to so many repetitions a part counts as bounded."""
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": r"0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """A regular expression that Envoy takes.

    Attributes:
        python: The same for Python's ``re``, as far as it can say it.
        exact: Whether Python's means the same.
        groups: How many groups it has.
        open_repeats: How many of its parts are repeated without a small bound.
        choices: In how many ways its other repeats and its alternatives can be taken.
        nested: Whether a part is repeated that may itself match one text in several ways.
    """

    python: str
    exact: bool
    groups: int
    open_repeats: int = 0
    choices: int = 1
    nested: bool = False

    def is_quick(self, value: str) -> bool:
        """Whether Python's is done with a value soon, as RE2 is with every one.

        Python tries all ways in which repeated parts can share the text: with nested ones their number doubles with each character.
        """
        return not self.nested and self.choices * (len(value) + 1) ** self.open_repeats <= _MOST_WAYS

    def matches(self, value: str) -> bool | None:
        """Whether it matches all of a value; None where only Envoy can say, or only it soon enough."""
        return re.fullmatch(self.python, value, re.ASCII) is not None if self.exact and self.is_quick(value) else None


def check_regex(pattern: object, what: str) -> str:
    """Return the pattern if Envoy takes it.

    Raises:
        InvalidInput: It is no regular expression, or uses what RE2 lacks (lookaround, back references).
    """
    if not isinstance(pattern, str) or not pattern:
        raise InvalidInput(f"{what} must be a regular expression, not {pattern!r}")
    try:
        read_regex(pattern)
    except InvalidInput as exc:
        raise InvalidInput(f"{what} {exc.message}") from exc
    return pattern


def read_regex(pattern: str) -> Expression:
    """A regular expression as Envoy reads it.

    Raises:
        InvalidInput: Envoy refuses it; says what in it.
    """
    parts: list[str] = []
    exact, repeated = True, False
    ways = _Ways()
    for token in _TOKEN.finditer(pattern):
        kind, text = str(token.lastgroup), token.group()
        python: str | None = text
        if kind == "quoted":
            python = re.escape(token["text"])
        elif kind == "property":
            python, exact = r"\w", False
        elif kind == "code":
            python = _code(token["hex"], token["octal"]) or text
        elif kind == "escape":
            python = _escaped(text, _ESCAPES, pattern)
        elif kind == "set":
            python, same = _set(text, pattern)
            exact = exact and same
        elif kind == "group":
            python = "("
        elif kind == "flags":
            python, same = _flags(token, first=token.start() == 0)
            exact = exact and same
        elif kind == "extension":
            raise _lacking(text, pattern)
        elif kind == "repeat":
            if repeated or int(token["least"] or 0) > _MANY or int(token["most"] or 0) > _MANY:
                raise _lacking(pattern[max(0, token.start() - 1) : token.end()], pattern)
        elif text == "[":
            raise InvalidInput(f"is no regular expression (a set without its end): {pattern!r}")
        elif text in "{}":
            python = re.escape(text)
        ways.take(kind, token)
        parts.append(str(python))
        repeated = kind == "repeat"
    return Expression(
        python="".join(parts),
        exact=exact,
        groups=_compiled("".join(parts), pattern).groups,
        open_repeats=ways.open_repeats,
        choices=ways.choices,
        nested=ways.nested,
    )


class _Ways:
    """In how many ways an expression may match one text, as far as its repeats tell."""

    def __init__(self) -> None:
        self.open_repeats = 0
        self.choices = 1
        self.nested = False
        self._groups = [False]  # for each open group, whether its text may be matched in several ways
        self._last = False  # the same for what a repeat would repeat

    def take(self, kind: str, token: re.Match[str]) -> None:
        """Note one more token."""
        text = token.group()
        if kind == "repeat":
            most = _most(token)
            if most is None or most > _FEW:
                self.open_repeats += 1
            else:
                self.choices *= most + 1
            self.nested = self.nested or (self._last and (most is None or most > 1))
            self._groups[-1] = True
        elif kind == "group" or text == "(" or (kind == "flags" and token["end"] == ":"):
            self._groups.append(False)
        elif text == ")" and len(self._groups) > 1:
            self._last = self._groups.pop()
            self._groups[-1] = self._groups[-1] or self._last
            return
        elif text == "|":
            self._groups[-1] = True
            self.choices *= 2
        self._last = False


def _most(token: re.Match[str]) -> int | None:
    """How often a part is repeated at most; None: without bound."""
    text = token.group()
    if text[0] in "*+":
        return None
    if text[0] == "?":
        return 1
    return int(token["most"]) if token["most"] else (None if token["comma"] else int(token["least"]))


def _compiled(python: str, pattern: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(python)
    except (re.error, OverflowError) as exc:
        raise InvalidInput(f"is no regular expression ({exc}): {pattern!r}") from exc


def _lacking(text: str, pattern: str) -> InvalidInput:
    return InvalidInput(f"has {text!r}, which Envoy's expressions (RE2) do not know: {pattern!r}")


def _code(hexadecimal: str | None, octal: str | None) -> str:
    """The character of a code that Python writes otherwise; empty where it does not."""
    if octal:
        return re.escape(chr(int(octal, 8)))
    if not hexadecimal:
        return ""
    number = int(hexadecimal, 16)
    if number > sys.maxunicode:
        raise InvalidInput(f"is no regular expression (there is no character {hexadecimal})")
    return re.escape(chr(number))


def _escaped(text: str, known: frozenset[str], pattern: str) -> str:
    letter = text[1]
    if letter == "z" and letter in known:
        return r"\Z"
    if letter in known or (letter.isascii() and not letter.isalnum()):
        return text
    raise _lacking(text, pattern)


def _set(text: str, pattern: str) -> tuple[str, bool]:
    """A set of characters for Python, and whether it means the same."""
    start = re.match(r"\[\^?\]?", text)
    assert start is not None
    opening = start.group().replace("]", r"\]")
    exact, parts, after_class = True, [], False
    for token in _IN_SET.finditer(text[start.end() : -1]):
        part = token.group()
        is_class = True
        if token["posix"] is not None:
            if token["posix"] not in _POSIX:
                raise _lacking(part, pattern)
            exact = exact and not token["negated"]
            part = _POSIX[token["posix"]]
        elif part[:2] in (r"\p", r"\P") and len(part) > 2:
            part, exact = r"\w", False
        elif token["hex"] or token["octal"]:
            part, is_class = _code(token["hex"], token["octal"]), False
        elif part.startswith("\\"):
            part = part if part[1] in "x0" else _escaped(part, _IN_SET_ESCAPES, pattern)
            is_class = part[1:] in "dDsSwW"
        elif part == "-" and after_class:
            part, is_class = r"\-", False
        else:
            part, is_class = (f"\\{part}" if part in "[&|~" else part), False
        parts.append(part)
        after_class = is_class
    return f"{opening}{''.join(parts)}]", exact


def _flags(token: re.Match[str], *, first: bool) -> tuple[str, bool]:
    """Flags for Python, which has no ``U`` and knows flags of the whole only at its start."""
    on, off = (token["on"] or "").replace("U", ""), (token["off"] or "").replace("U", "")
    exact = "U" not in token.group()
    if token["end"] == ")":
        whole = first and not off
        return (f"(?{on})" if on and whole else ""), exact and (whole or not (on or off))
    return f"(?{on}{f'-{off}' if off else ''}:", exact
