"""An append-only log of JSON lines, bounded in size and read by cursor.

The log is a run of segment files named after the position of their first byte, so that a position keeps its
meaning when old segments go. One process writes; a lock file in the folder keeps others out.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow_istio.errors import InvalidInput
from mlflow_istio.serving.configuration import PREFIX

_SEGMENT = re.compile(r"(?P<log>[0-9a-f]{8})-(?P<base>\d{20})\.jsonl")
_CURSOR = re.compile(r"(?P<log>[0-9a-f]{8})-(?P<position>\d{1,20})")
_SEGMENTS = 4
_MOST_SERVERS = 1000


class InvalidCursorError(ValueError):
    """A cursor that this log never gave out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A run of records.

    Attributes:
        lines: JSON texts in the order of writing, without line ends.
        cursor: Where the next page begins.
        lost_bytes: Bytes between the cursor asked for and the first record still kept; None when the cursor belongs to
            another log, as after the folder was emptied.
    """

    lines: tuple[bytes, ...]
    cursor: str
    lost_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    base: int
    size: int

    @property
    def end(self) -> int:
        return self.base + self.size


class RecordLog:
    """The record log of one server.

    Several servers may be given the same folder, as the replicas of one deployment are: each takes a numbered folder
    of its own in it, and takes it over again after a restart.

    Args:
        directory: Folder of the logs.
        max_bytes: Most bytes of records on disk; the oldest segment goes when it would be passed.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._parent = directory
        self._max_bytes = max_bytes
        self.max_line_bytes = max_bytes // _SEGMENTS
        self._lock = threading.Lock()
        self._lock_file = -1
        self._directory = directory
        self._log_id = ""
        self._segments: tuple[_Segment, ...] = ()
        self._file = -1

    def open(self) -> None:
        """Take a folder and go on after its last whole record. Does nothing when the log is open.

        Raises:
            OSError: The folder can't be made or written, or is somebody else's.
        """
        if self._file >= 0:
            return
        self._parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_parent(self._parent)
        if self._lock_file < 0:
            self._directory, self._lock_file = _take_folder(self._parent)
        log_id, segments = _found_segments(self._directory)
        if not segments:
            segments = (_Segment(base=0, size=0),)
        self._log_id = log_id
        self._file = _open_segment(self._path(segments[-1]), new=not segments[-1].size)
        with self._lock:
            self._segments = segments

    def append(self, line: bytes) -> None:
        """Write one record.

        Args:
            line: JSON text without line ends, at most ``max_line_bytes - 1`` bytes.

        Raises:
            OSError: It could not be written as a whole (a full disk); nothing of it is kept.
            ValueError: It is too long.
        """
        data = line + b"\n"
        if len(data) > self.max_line_bytes:
            raise ValueError(f"a record of {len(data)} bytes is over the limit of {self.max_line_bytes}")
        self.open()
        active = self._segments[-1]
        if active.size and active.size + len(data) > self.max_line_bytes:
            active = self._start_segment(active.end)
        self._make_room(len(data))
        _write_at(self._file, data, active.size)
        with self._lock:
            self._segments = (*self._segments[:-1], _Segment(base=active.base, size=active.size + len(data)))

    def read(self, cursor: str | None, limit: int) -> Page:
        """Read the records after a cursor.

        Args:
            cursor: Where an earlier page said the next begins; None for the first record still kept.
            limit: About the most bytes in the page, which holds at least one record if there is one.

        Raises:
            InvalidCursorError: The cursor is not one that a page gave.
            OSError: The folder can't be read.
        """
        while True:
            with self._lock:
                segments = self._segments
            if not segments:
                return Page(lines=(), cursor=cursor or "0", lost_bytes=0)
            position, lost_bytes = self._position(cursor, segments)
            segment = next((candidate for candidate in segments if candidate.end > position), None)
            if segment is None:
                return Page(lines=(), cursor=self._cursor(position), lost_bytes=lost_bytes)
            position = max(position, segment.base)
            try:
                data = _whole_lines(self._path(segment), position - segment.base, segment.size, limit)
            except FileNotFoundError:
                continue  # this segment went meanwhile; the next look starts at a later one
            return Page(
                lines=tuple(data.splitlines()), cursor=self._cursor(position + len(data)), lost_bytes=lost_bytes
            )

    def close(self) -> None:
        """Close the files and leave the folder to the next server."""
        for file in (self._file, self._lock_file):
            if file >= 0:
                os.close(file)
        self._file = self._lock_file = -1

    def _position(self, cursor: str | None, segments: tuple[_Segment, ...]) -> tuple[int, int | None]:
        first, end = segments[0].base, segments[-1].end
        if cursor is None or cursor == "0":
            return first, first
        if not (match := _CURSOR.fullmatch(cursor)):
            raise InvalidCursorError(cursor)
        if match["log"] != self._log_id:
            return first, None
        position = int(match["position"])
        if position > end:
            raise InvalidCursorError(cursor)
        return max(position, first), max(first - position, 0)

    def _cursor(self, position: int) -> str:
        return f"{self._log_id}-{position}"

    def _path(self, segment: _Segment) -> Path:
        return self._directory / f"{self._log_id}-{segment.base:020d}.jsonl"

    def _start_segment(self, base: int) -> _Segment:
        segment = _Segment(base=base, size=0)
        file = _open_segment(self._path(segment), new=True)
        os.close(self._file)
        self._file = file
        with self._lock:
            self._segments = (*self._segments, segment)
        return segment

    def _make_room(self, size: int) -> None:
        while len(self._segments) > 1 and self._segments[-1].end - self._segments[0].base + size > self._max_bytes:
            oldest = self._segments[0]
            with self._lock:
                self._segments = self._segments[1:]
            self._path(oldest).unlink(missing_ok=True)


def opened_log(directory: Path, max_bytes: int) -> RecordLog:
    """The record log of a server that starts.

    A full disk is no reason not to serve: the log is tried again with each record, and drops are counted.

    Raises:
        InvalidInput: The folder can't be used.
    """
    log = RecordLog(directory, max_bytes)
    try:
        log.open()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise InvalidInput(
                f"{PREFIX}RECORD_DIR={str(directory)!r} can't be written: {error.strerror or error}"
            ) from error
    return log


def _take_folder(parent: Path) -> tuple[Path, int]:
    """The first numbered folder that is ours and no running server holds, and the file descriptor of its lock."""
    for number in range(_MOST_SERVERS):
        directory = parent / f"server-{number}"
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if not _is_ours(directory):
            continue  # put there by somebody else: what it leads to is none of our affair
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return directory, lock
        os.close(lock)
    raise OSError(f"{parent} is in use by {_MOST_SERVERS} servers")


def _check_parent(parent: Path) -> None:
    """Refuse a folder whose owner could put another in the place of ours.

    Root's may be: a volume of Kubernetes is, whatever user a pod runs as.

    Raises:
        PermissionError: It is a link, or belongs to another user.
    """
    status = parent.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(errno.EPERM, "it is a link, which may lead anywhere: name the folder itself")
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionError(
            errno.EPERM, f"it belongs to another user (uid {status.st_uid}): name a folder of our own"
        )


def _is_ours(directory: Path) -> bool:
    """Whether it is a folder of our user, which it is alone to read from now on."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    if stat.S_IMODE(status.st_mode) & 0o077:
        directory.chmod(0o700)
    return True


def _open_segment(path: Path, *, new: bool) -> int:
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        if not new or (path.lstat().st_size == 0 and not path.is_symlink()):
            return os.open(path, flags, 0o600)  # an earlier process left it
    return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)


def _write_at(file: int, data: bytes, position: int) -> None:
    # By position: a record that a full disk cut short is not counted, and the next one is written over it.
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], position + written)


def _found_segments(directory: Path) -> tuple[str, tuple[_Segment, ...]]:
    """The segments an earlier process left, after cutting off a record that it did not finish."""
    names = sorted(match.groups() for path in directory.iterdir() if (match := _SEGMENT.fullmatch(path.name)))
    if not names:
        return secrets.token_hex(4), ()
    log_id = names[-1][0]
    paths = [directory / f"{log}-{base}.jsonl" for log, base in names if log == log_id]
    _cut_torn_line(paths[-1])
    return log_id, tuple(_Segment(base=int(path.stem.rpartition("-")[2]), size=path.stat().st_size) for path in paths)


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def _whole_lines(path: Path, start: int, end: int, limit: int) -> bytes:
    """Whole lines from ``start``, about ``limit`` bytes of them, none beyond ``end``."""
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            if file.read(1) != b"\n":
                raise InvalidCursorError(f"{path.name}: {start} is inside a record")
        data = file.read(min(limit, end - start))
        if not data.endswith(b"\n"):
            whole = data.rfind(b"\n") + 1
            data = data[:whole] if whole else data + file.readline()
    return data
