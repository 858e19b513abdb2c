"""Room for what Envoy watches: it takes an inotify instance for each file of routes, and aborts when it gets none."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from mlflow_istio.errors import ClusterError

ENVOY_OWN = 3
"""Instances that Envoy takes beside those for routes."""
_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")


def check_room(count: int) -> None:
    """Refuse what Envoy would not survive.

    Args:
        count: How many more instances this user's Envoy will take.

    Raises:
        ClusterError: The system gives this user not so many more.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    opened: list[int] = []
    try:
        while len(opened) < count:
            descriptor = libc.inotify_init1(os.O_CLOEXEC)
            if descriptor < 0:
                raise ClusterError(
                    f"Envoy can't watch the routes of another endpoint ({os.strerror(ctypes.get_errno())}): a user may have "
                    f"{_limit()} inotify instances, and each endpoint takes one; delete endpoints, end programs that watch "
                    "files, or raise it with 'sysctl fs.inotify.max_user_instances=1024'"
                )
            opened.append(descriptor)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _limit() -> str:
    try:
        return _LIMIT.read_text(encoding="utf-8").strip()
    except OSError:
        return "only so many"
