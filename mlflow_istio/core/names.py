"""Names that every object, subset, header and tag can carry, and help for the ones that can't."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from mlflow_istio.errors import InvalidInput

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_RELEASE_ID = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+^_`|~-][A-Za-z0-9!#$%&'*+.^_`|~-]*")

MAX_NAME = 52
"""A name becomes part of annotation keys (63 characters) and of pod names (suffixes of 11)."""


def check_name(name: str, what: str) -> str:
    """Return the name if it is a DNS label of at most 52 characters.

    Args:
        name: The name to check.
        what: What it names, for the message ("endpoint", "deployment").

    Raises:
        InvalidInput: It is not; the message suggests one that is.
    """
    if len(name) <= MAX_NAME and _DNS_LABEL.fullmatch(name):
        return name
    raise InvalidInput(
        f"{what} name {name!r} is not a DNS label: use at most {MAX_NAME} lower-case letters, digits and '-', "
        f"starting and ending with a letter or digit, such as {dns_name(name)!r}"
    )


def dns_name(text: str) -> str:
    """The nearest DNS label to a free text, such as a registered model's name."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_NAME].strip("-")
    return label or "model"


def check_release_id(release_id: str) -> str:
    """Return the release id if it can stand in a cookie, a tag and an annotation.

    Raises:
        InvalidInput: It can't.
    """
    if _RELEASE_ID.fullmatch(release_id):
        return release_id
    raise InvalidInput(f"release id {release_id!r} is not valid: use 1 to 63 letters, digits and '-'")


def check_header_name(name: str, what: str = "header") -> str:
    """Return the header or cookie name in the form Istio matches (headers: lower case).

    Raises:
        InvalidInput: It is no HTTP token.
    """
    if _HEADER.fullmatch(name):
        return name
    raise InvalidInput(f"{what} name {name!r} is not valid: use letters, digits and '-', without spaces or ':'")


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known name, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known: {', '.join(names) if names else 'none'}"
