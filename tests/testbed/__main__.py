"""`python -m tests.testbed build` and `python -m tests.testbed run -- COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.testbed import builder, launcher
from tests.testbed.errors import TestbedError


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "build":
            print(builder.build(_report))
            return 0
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not command:
            raise TestbedError("no command to run: python -m tests.testbed run -- COMMAND")
        if options.verb == "run":
            builder.build(_report)
            return launcher.run_in_namespaces([sys.executable, "-m", "tests.testbed", "inside", *arguments[1:]])
        return launcher.run_as_first_process(lambda: _bed(options, command))
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _bed(options: argparse.Namespace, command: Sequence[str]) -> int:
    # Only this process needs it; PID 1 stays small.
    from tests.testbed import bed

    return bed.run(command, builder.cache_folder(), fast=options.fast, logs=options.logs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build the control plane into the cache folder, if it isn't there")
    # `inside` is `run` after it got its namespaces.
    for verb, text in (("run", "bring the testbed up, run COMMAND in it, take it down"), ("inside", argparse.SUPPRESS)):
        run = verbs.add_parser(verb, help=text)
        run.add_argument("--fast", action="store_true", help="shorten waits for tests; benchmarks use the defaults")
        run.add_argument("--logs", type=Path, help="keep the programs' logs in this folder")
        run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
