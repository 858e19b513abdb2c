"""Runs one program inside a pod: on its network host, with its volumes mounted.

A volume must not hide the interpreter, its packages and the code, which would be in an image: see `Kept`.

Started as a script by `python -I -S` with one JSON argument: it imports the standard library only and nothing of ours.
Its own process becomes the program, and keeps its pid.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Sequence

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 0x1
_SYS_MOUNT_SETATTR = 442
# What container runtimes report when a program can't be started at all.
_CANNOT_START = 128

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def main() -> None:
    task = json.loads(sys.argv[1])
    try:
        namespace = os.open(task["network"], os.O_RDONLY)
        _check(_libc.setns(namespace, _CLONE_NEWNET), "setns")
        os.close(namespace)
        if task["mounts"] or task["read_only"]:
            _check(_libc.unshare(_CLONE_NEWNS), "unshare")
            _mount(None, "/", _MS_REC | _MS_PRIVATE)
            _lay_volumes(task["mounts"], task["kept"], task["scratch"], read_only=task["read_only"])
        os.chdir(task["directory"])
        os.execvp(task["argv"][0], task["argv"])
    except OSError as error:
        sys.stderr.write(f"cannot start {task['argv'][0]!r}: {error}\n")
        os._exit(_CANNOT_START)


def _lay_volumes(mounts: list[dict[str, object]], kept: list[str], scratch: str, *, read_only: bool) -> None:
    own = _OwnFolders(scratch)
    paths = [own.ensure(str(mount["path"]), is_folder=os.path.isdir(str(mount["source"]))) for mount in mounts]
    # Held open, since an outer volume may hide where an inner one comes from.
    sources = [os.open(str(mount["source"]), os.O_PATH) for mount in mounts]
    before = Kept(kept)
    if read_only:
        _set_read_only("/", True)
    for mount, path, source in zip(mounts, paths, sources, strict=True):
        # In an outer volume its place isn't made yet.
        _bind(source, path)
        # A bind mount takes the flag over from where it comes from, which may just have got it.
        _set_read_only(path, False)
        before.show_again(under=path, read_only=True)
        if mount["read_only"]:
            _set_read_only(path, True)


class Kept:
    """Files and folders that stay where they are when something is mounted over a folder that they lie in.

    Made before the mount, it holds them open; `show_again` binds them to their paths in what was mounted, and makes the
    symbolic links again that lead there.

    Args:
        paths: absolute paths, through symbolic links or not; what doesn't exist is left out.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._links: dict[str, str] = {}
        ends = {self._follow(path) for path in paths if os.path.exists(path)}
        outermost = {end for end in ends if not any(is_within(end, other) and end != other for other in ends)}
        self._open = {end: os.open(end, os.O_PATH) for end in sorted(outermost)}

    def show_again(self, *, under: str, read_only: bool) -> None:
        """Shows what the mount at the real path `under` hides; what it is mounted inside of is left as it is."""
        for end, descriptor in self._open.items():
            if is_within(end, under):
                _bind(descriptor, end)
                _set_read_only(end, read_only)
        for link, target in self._links.items():
            if is_within(link, under):
                os.makedirs(os.path.dirname(link), exist_ok=True)
                # Another container of the pod may have made it in the volume that they share.
                with contextlib.suppress(FileExistsError):
                    os.symlink(target, link)

    def _follow(self, path: str) -> str:
        """Where the path really leads; notes every symbolic link on the way, by its own real path."""
        left, reached = path.split("/"), "/"
        while left:
            word = left.pop(0)
            if word == "..":
                reached = os.path.dirname(reached)
            elif word not in ("", "."):
                step = os.path.join(reached, word)
                if not os.path.islink(step):
                    reached = step
                    continue
                self._links[step] = os.readlink(step)
                left = self._links[step].split("/") + left
                if self._links[step].startswith("/"):
                    reached = "/"
        return reached


def is_within(path: str, folder: str) -> bool:
    """Whether a path is the folder or lies in it, by their names alone."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class _OwnFolders:
    """Makes mount points that the machine doesn't have, without writing to the machine.

    The nearest folder that exists is covered with a small file system holding the same entries, and the mount point is
    made in there: only this container sees it.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        # /run is the testbed's own already.
        self._own = [os.path.realpath("/run")]

    def ensure(self, path: str, *, is_folder: bool) -> str:
        real = os.path.realpath(path)
        if not os.path.exists(real):
            parent = self.ensure(os.path.dirname(real), is_folder=True)
            if not any(is_within(parent, own) for own in self._own):
                self._cover(parent)
            _make_entry(real, is_folder=is_folder)
        return real

    def _cover(self, folder: str) -> None:
        covered = tempfile.mkdtemp(dir=self._scratch)
        if folder == "/":
            # The root can't be covered where it stands: build its double elsewhere and move there.
            _mount("tmpfs", covered, 0, "tmpfs")
            _double_entries("/", covered)
            os.chroot(covered)
            os.chdir("/")
        else:
            _mount(folder, covered, _MS_BIND | _MS_REC)
            _mount("tmpfs", folder, 0, "tmpfs")
            _double_entries(covered, folder)
        self._own.append(folder)


def _double_entries(source: str, target: str) -> None:
    for entry in os.scandir(source):
        double = os.path.join(target, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), double)
        elif entry.is_dir() or entry.is_file():
            _make_entry(double, is_folder=entry.is_dir())
            _mount(entry.path, double, _MS_BIND | _MS_REC)


def _make_entry(path: str, *, is_folder: bool) -> None:
    if is_folder:
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def _bind(descriptor: int, path: str) -> None:
    """Binds what is open to a path, which is made if need be."""
    source = f"/proc/self/fd/{descriptor}"
    if not os.path.exists(path):
        is_folder = os.path.isdir(source)
        os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
        if not is_folder:
            _make_entry(path, is_folder=False)
    _mount(source, path, _MS_BIND | _MS_REC)


def _set_read_only(path: str, wanted: bool) -> None:
    attributes = _MountAttributes(**{"attr_set" if wanted else "attr_clr": _MOUNT_ATTR_RDONLY})
    size = ctypes.sizeof(attributes)
    done = _libc.syscall(
        _SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, ctypes.byref(attributes), ctypes.c_size_t(size)
    )
    _check(done, f"mount_setattr {path}")


def _mount(source: str | None, target: str, flags: int, kind: str | None = None) -> None:
    done = _libc.mount(
        source.encode() if source else None, target.encode(), kind.encode() if kind else None, flags, None
    )
    _check(done, f"mount {source} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
