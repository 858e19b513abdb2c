"""`python -m tests.node build` and `python -m tests.node run -- COMMAND`; `check` says what is missing."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.node import cgroups, debian, machine, store
from tests.node.programs import NODE
from tests.testbed import bed, builder, launcher
from tests.testbed.errors import TestbedError

_CANNOT = 2
_NOT_BUILT = "not everything is built that `python -m tests.node build` builds, which takes half an hour and more"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "inside":
            command = _command(options)
            return launcher.run_as_first_process(lambda: _bed(options, command))
        complaint = machine.complaint()
        if complaint:
            raise TestbedError(complaint)
        if options.verb == "check":
            missing = None if is_built() or (options.warm and is_warm()) else _NOT_BUILT
            print(missing or "built")
            return _CANNOT if missing else 0
        if options.verb == "build":
            print(build())
            return 0
        _command(options)
        build()
        cgroup = cgroups.watch(os.getpid())
        inside = [sys.executable, "-m", "tests.node", "inside", "--cgroup", cgroup, *arguments[1:]]
        return launcher.run_in_namespaces(inside)
    except TestbedError as error:
        print(f"node: {error}", file=sys.stderr)
        return _CANNOT


def build() -> Path:
    """Builds what is missing, says how long all of it took, and returns the folder of the images."""
    began = time.monotonic()
    was_built = is_built()
    # Downloads first: without the mirror the long builds would be in vain.
    debian.build(_report)
    builder.build(_report)
    builder.build(_report, NODE)
    folder = store.make(_report)
    if not was_built:
        _report(f"node: all is built after {time.monotonic() - began:.0f} s")
    return folder


def is_built() -> bool:
    """Whether a node can start without building anything."""
    return _has_programs() and store.is_made()


def is_warm() -> bool:
    """Whether a node needs no more than a change of our own sources takes: the last layers of some images, in minutes."""
    return _has_programs() and store.has_former()


def _has_programs() -> bool:
    return (
        debian.is_built()
        and builder.is_built(builder.cache_folder())
        and builder.is_built(builder.cache_folder(NODE), NODE)
    )


def _command(options: argparse.Namespace) -> list[str]:
    command: list[str] = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise TestbedError("no command to run: python -m tests.node run -- COMMAND")
    return command


def _bed(options: argparse.Namespace, command: Sequence[str]) -> int:
    # Only this process needs it; PID 1 stays small.
    from tests.node import node

    return bed.run_in("node", lambda: node.bring_up(options.cgroup, logs=options.logs), command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.node", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build programs, tools and images into the cache folder, where they aren't there")
    check = verbs.add_parser("check", help="end with 0 when a node can start here without building anything")
    check.add_argument("--warm", action="store_true", help="allow for the images' last layers, which take minutes")
    # `inside` is `run` after it got its namespaces.
    for verb, text in (("run", "bring a node up, run COMMAND on it, take it down"), ("inside", argparse.SUPPRESS)):
        run = verbs.add_parser(verb, help=text)
        run.add_argument("--logs", type=Path, help="keep the programs' logs in this folder")
        run.add_argument("--cgroup", help=argparse.SUPPRESS)
        run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
