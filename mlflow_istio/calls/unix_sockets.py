"""Calls over a unix socket of this user's own: whoever answers there is believed, so it is looked at before.

Other users of the machine reach every loopback port, but no socket in a folder that only its owner may enter.
"""

from __future__ import annotations

import http.client
import os
import socket
import stat
from pathlib import Path

from mlflow_istio.errors import ClusterError

_PATH_LIMIT = 100


class UnixConnection(http.client.HTTPConnection):
    """A connection for HTTP over a unix socket.

    Args:
        path: The socket.
        timeout: Seconds.
    """

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect, if the socket is ours.

        Raises:
            ClusterError: It is another's; says what to do.
            OSError: Nobody listens there.
        """
        check_socket(self._path)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        self.sock = connection


def get(path: Path, target: str, *, timeout: float) -> tuple[int, str]:
    """Status and body of the answer to a GET.

    Args:
        path: The socket.
        target: Path and query.
        timeout: Seconds.

    Raises:
        ClusterError: The socket is another's.
        OSError: Nobody listens there, or there was no answer in time.
        http.client.HTTPException: What came is no answer.
    """
    connection = UnixConnection(path, timeout=timeout)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def socket_path(preferred: Path) -> Path:
    """Where to listen: where it is preferred if the system's limit for such paths allows it.

    Otherwise in a folder of the user's own in the system's temporary folder, named after the preferred path.
    """
    if len(os.fsencode(preferred)) < _PATH_LIMIT:
        return preferred
    import hashlib
    import tempfile

    digest = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mlflow-istio-{os.getuid()}" / f"{digest}.sock"


def check_socket(path: Path) -> None:
    """Refuse a socket that another user may have put there. One that is not there is no matter.

    Raises:
        ClusterError: It is another's, a symlink, or in a folder that others can enter; says what to do.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ClusterError(f"can't look at {path}: {exc.strerror}") from exc
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.getuid():
        raise ClusterError(
            f"{path} is no socket of yours: somebody else put it there; remove it, then run the command again"
        )
    check_owner(path.parent)


def check_owner(folder: Path) -> None:
    """Refuse a folder that is another's, a symlink, or one that others may enter.

    Raises:
        ClusterError: It is such; says what to do.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ClusterError(f"{folder} must be a folder that only you can enter: remove it, or set TMPDIR to another")
