"""How a command ends that somebody interrupts: by Ctrl-C, a terminal that goes, or whoever ends its job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit status, whatever the signal was."""

LAST_LINE = (
    "interrupted: what is stored already stays, and the same command given again goes on from there; 'mlflow-istio doctor' says "
    "what was left"
)

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, too: by themselves they end a process with no word and no clean-up.

    A signal that is ignored (``nohup``) stays so, and so does whoever handles it already. Only the main thread may ask for it.
    """

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    ours = [number for number in _SIGNALS if here and signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
