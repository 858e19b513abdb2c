"""Processes of pods, which on the testbed and on the node are processes of this machine, to end them as a crash would."""

from __future__ import annotations

from pathlib import Path


def process_of(pod: str, word: bytes) -> int:
    """The pid of the one process of a pod whose command line has the word."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if word in command and f"HOSTNAME={pod}\0".encode() in environment + b"\0":
            found.append(int(process.name))
    (pid,) = found
    return pid
