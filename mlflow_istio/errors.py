"""Every error this package raises on purpose, as one tree.

::

    MlflowIstioError
    ├── InvalidInput          an option, name, weight or document that can't be right; nothing was applied
    ├── NotFound              the named endpoint, deployment, model version or file does not exist
    ├── StateConflict         the request is well formed but the endpoint's state forbids it
    ├── Unsupported           a field the local mesh can't carry out, by name
    ├── ClusterError          the cluster refused or could not be reached
    │   ├── EditConflict      others kept changing the same object; nothing was applied
    │   ├── Forbidden         a right is missing; names it
    │   ├── NotReady          a deployment or proxy did not come up in time; carries its last log lines
    │   └── NotRouted         the change is stored, but no proxy answered with it in time
    ├── RegistryError         the MLflow registry or tracking server refused or could not be reached
    └── MetricsError          a source of metrics could not be reached, refused, or gave what can't be read

Each message is one line that names the thing and says what to do; ``detail`` may carry more lines
(the end of a log, a webhook's words). Passwords in addresses are masked in both. Foreign exceptions are mapped once, in
the adapter that met them, with ``raise ... from exc``.
"""

from __future__ import annotations

import re

_USERINFO = re.compile(
    r"""(?P<scheme>\b(?!models:)[a-z][a-z0-9+.-]*://)          # an address that can have a user ...
        (?:(?<=http://)[^\s/?#'"]*|(?<=https://)[^\s/?#'"]*    # ... whose password ends where the host does
        |(?<!http://)(?<!https://)[^\s/:'"]+:[^\s'"]*)@         # ... or, for databases, may hold a slash""",
    re.VERBOSE | re.IGNORECASE,
)


def masked(text: str) -> str:
    """The text with ``***`` for user and password in each address: ``http://***@host``.

    Addresses of MLflow's servers and databases may carry both (``http://ada:secret@host``), and many libraries quote them.
    """
    return _USERINFO.sub(r"\g<scheme>***@", text)


class MlflowIstioError(Exception):
    """Base of all errors of this package.

    Args:
        message: One line: what is wrong with which thing, and what to do.
        detail: Further lines, such as the end of a log.
    """

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(masked(message))
        self.message = masked(message)
        self.detail = masked(detail)

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


class MetricsError(MlflowIstioError):
    """A source of metrics could not be reached, refused, or gave what can't be read."""
