"""Every error this package raises on purpose, as one tree.

::

    MlflowIstioError
    ├── InvalidInput          an option, name, weight or document that can't be right; nothing was applied
    ├── NotFound              the named endpoint, deployment, model version or file does not exist
    ├── StateConflict         the request is well formed but the endpoint's state forbids it
    ├── Unsupported           a field that this cluster, or the local mesh, can't carry out, by name
    ├── ClusterError          the cluster refused or could not be reached
    │   ├── EditConflict      others kept changing the same object; nothing was applied
    │   ├── Forbidden         a right is missing; names it
    │   ├── NotReady          a deployment or proxy did not come up in time; carries its last log lines
    │   └── NotRouted         the change is stored, but no proxy answered with it in time
    ├── RegistryError         the MLflow registry or tracking server refused or could not be reached
    └── MetricsError          a source of metrics could not be reached, refused, or gave what can't be read

Each message is one line that names the thing and says what to do; ``detail`` may carry more lines
(the end of a log, a webhook's words). Passwords in addresses are masked in both, and what a terminal would obey is written out.
Foreign exceptions are mapped once, in the adapter that met them, with ``raise ... from exc``.
"""

from __future__ import annotations

import re

_SCHEME = r"[a-z][a-z0-9+._-]{0,30}"
_INNER_QUOTE = r"""\\(?!['"])|\\?['"](?![\s\\,:;)\]}<>]|$)"""
"""A backslash or quote that belongs to a password: what follows would be a comma, a bracket or a blank if it ended a text."""

_SCHEME_BEFORE = re.compile(rf"{_SCHEME}\Z", re.IGNORECASE)
_AUTHORITY = re.compile(rf"""://(?P<authority>(?:[^\s/?#:'"\\]+|:(?!//)|{_INNER_QUOTE})*)""")
_DATABASE = re.compile(
    rf"""(?P<scheme>(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle|snowflake)(?:\+[a-z0-9._-]{{1,30}})?://)
         [^\s:/@]*:(?!\d{{1,5}}[/?])  # a user; a port ends the host
         (?P<rest>(?:(?!{_SCHEME}://)(?:[^\s'"\\]|{_INNER_QUOTE}))*)""",
    re.VERBOSE | re.IGNORECASE,
)
_KEY = re.compile(
    rf"""(?P<key>[?&;](?:sslpassword|password|passwd|pwd)=)(?:[^\s&;'"\\]+|{_INNER_QUOTE})+""", re.IGNORECASE
)
_NEVER_A_PASSWORD = ("models", "istio")
"""Schemes whose names may hold ``:`` and ``@``."""


GUARD_KEY = re.compile("mik_[0-9a-f]{32}")
"""The key that pinned requests carry (``core.matching.pin_guard``); its form is its own, so that it is found in any text."""


def masked(text: str) -> str:
    """The text with ``***`` for user and password in each address: ``http://***@host``, ``postgresql://host/db?password=***``.

    Addresses of MLflow's servers and databases may carry both (``http://ada:secret@host``), and many libraries quote them.
    A user without a password is masked for HTTP only, where it may be a token. What stands before an ``@`` belongs to an
    address as far as its first ``/``, ``?`` or ``#``; databases' drivers take these in a password, too.

    Keys of pinned routes are masked, too.

    The work grows with the length of the text: no pattern here goes back over what it has read.
    """
    if "@" in text:
        text = _DATABASE.sub(_without_slashed_password, _AUTHORITY.sub(_without_user, text))
    return GUARD_KEY.sub("mik_***", _KEY.sub(r"\g<key>***", text))


def _without_user(address: re.Match[str]) -> str:
    before = address.string[max(0, address.start() - 31) : address.start()]
    scheme = named[0].lower() if (named := _SCHEME_BEFORE.search(before)) else ""
    user, _, host = address["authority"].rpartition("@")
    secret = user and scheme and (":" in user or scheme.endswith(("http", "https"))) and scheme not in _NEVER_A_PASSWORD
    return f"://***@{host}" if secret else address[0]


def _without_slashed_password(address: re.Match[str]) -> str:
    _, at, host = address["rest"].rpartition("@")
    return f"{address['scheme']}***@{host}" if at else address[0]


LONGEST = 2_000
"""Characters of a message: what it quotes may be of any length."""


def visible(text: str, *, lines: bool = False) -> str:
    """The text with nothing in it that a terminal would obey, or that would turn its direction: such is written as an escape.

    Args:
        text: Foreign text.
        lines: Whether it may have lines and tabulators of its own.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text)


class MlflowIstioError(Exception):
    """Base of all errors of this package.

    Args:
        message: One line: what is wrong with which thing, and what to do.
        detail: Further lines, such as the end of a log.
    """

    def __init__(self, message: str, *, detail: str = "") -> None:
        told = visible(masked(message))
        self.message = told if len(told) <= LONGEST else f"{told[: LONGEST - 4]} ..."
        self.detail = visible(masked(detail), lines=True)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.detail}" if self.detail else self.message


class InvalidInput(MlflowIstioError):
    """An option, name, weight or document that can't be right."""


class NotFound(MlflowIstioError):
    """The named thing does not exist."""


class StateConflict(MlflowIstioError):
    """The endpoint's present state forbids the request."""


class Unsupported(MlflowIstioError):
    """A field or feature that this cluster can't carry out."""


class ClusterError(MlflowIstioError):
    """The cluster refused the request or could not be reached."""


class EditConflict(ClusterError):
    """Others kept changing the same object until the retries ran out."""


class Forbidden(ClusterError):
    """The user lacks a right."""


class NotReady(ClusterError):
    """A deployment or a proxy did not come up in time."""


class NotRouted(ClusterError):
    """A change is stored, but no proxy answered with it in time."""


class RegistryError(MlflowIstioError):
    """The MLflow registry or tracking server refused or could not be reached."""


class DamagedEntry(RegistryError):
    """An entry of the ledger is there, and can't be read any more."""


class MetricsError(MlflowIstioError):
    """A source of metrics could not be reached, refused, or gave what can't be read."""
