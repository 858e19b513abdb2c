"""Equal versions for real: ``make bench-aa``.

``python -m benchmarks.aa [--minutes M] [--resamples N] [--releases N] [--release-minutes M] [--file FILE] ...``

1. Three deployments of one version on a local mesh, under load, are recorded second by second as the product reads them, with
   foreign work on every processor now and then. The recording is a file: a run that died goes on where it stopped, and one that
   is complete is not made again.
2. Releases of an equal version are made of it: two deployments in random blocks of three minutes, who plays whom drawn for each,
   thinned to the weights, decided by the engine (`mlflow_istio.testing.replay`) with every default: false alarms, intervals that
   exclude the truth, times.
3. The same version is released over itself for real, again and again, and then one that takes 30% longer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.aa_recording import (
    LOOK_SECONDS,
    Recording,
    Tally,
    appended,
    read_seconds,
    recording_of,
    resampled,
)
from benchmarks.decisions_promise import Share

NAMES = ("m-a", "m-b", "m-c")
LIMIT = 0.05
SLOWER = 1.3
MODEL_MILLISECONDS = 8.0
"""What the model computes for; the rest of an answer's time is the server's and the proxy's."""


def main(arguments: Sequence[str]) -> int:
    """Record, replay, release, and print what came of it. Returns the exit code: 1 where the limits are exceeded."""
    options = _parser().parse_args(arguments)
    path = Path(options.file).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = round(60 * options.minutes)
    recorded = len(read_seconds(path))
    mesh = None
    try:
        if recorded < wanted or options.releases:
            from benchmarks.aa_mesh import Mesh

            rounds = rounds_of(MODEL_MILLISECONDS)
            mesh = Mesh(Path(tempfile.mkdtemp(prefix="mlflow-istio-aa-")))
            version = mesh.register(rounds)
            mesh.deploy(NAMES, version)
        if recorded < wanted:
            print(f"recording {wanted - recorded} s after {recorded} s that are there: {path}", flush=True)
            record(mesh, path, wanted - recorded, options.rate, options.seed + recorded)
        recording = recording_of(read_seconds(path)[:wanted])
        print(described(recording), flush=True)
        good, lines = replays(recording, options)
        print("\n".join(lines), flush=True)
        if options.releases and mesh is not None:
            print(
                f"\nFor real, {options.rate:g} requests a second, at most {options.release_minutes:g} min each:",
                flush=True,
            )
            median = statistics.mean(recording.quantiles(0.5))
            real_releases(mesh, version, rounds, median, options)
    finally:
        if mesh is not None:
            mesh.down()
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long to record (default 120)")
    parser.add_argument("--resamples", type=int, default=500, help="releases made of the recording (default 500)")
    parser.add_argument("--hours", type=float, default=1.0, help="how long each of them may take (default 1)")
    parser.add_argument("--releases", type=int, default=10, help="releases for real (default 10); 0: none")
    parser.add_argument("--release-minutes", type=float, default=60.0, help="deadline of each (default 60)")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second (default 40)")
    parser.add_argument(
        "--config", type=json.loads, default={}, help="options of all releases, as JSON (default: none)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of everything random (default 1)")
    parser.add_argument("--processes", type=int, default=2, help="processes that replay (default 2)")
    parser.add_argument("--file", default="build/bench-aa.jsonl", help="the recording (default build/bench-aa.jsonl)")
    return parser


def rounds_of(milliseconds: float) -> int:
    """Return how many rounds the model computes in so many milliseconds on this machine."""
    from benchmarks.aa_model import computed

    times = []
    for _ in range(5):
        started = time.perf_counter()
        computed(200)
        times.append(time.perf_counter() - started)
    return max(1, round(200 * milliseconds / 1000 / min(times)))


def slower_rounds(rounds: int, median: float) -> int:
    """Return the rounds of a version whose answers take 30% longer, where the median is so many milliseconds."""
    return round(rounds * (1 + (SLOWER - 1) * median / MODEL_MILLISECONDS))


def record(mesh: Any, path: Path, seconds: int, rate: float, seed: int) -> None:
    """Add so many seconds to the recording."""
    from benchmarks.aa_mesh import traffic

    with traffic(mesh.port(), rate, seed=seed):
        for number, second in enumerate(mesh.seconds(NAMES), start=1):
            appended(path, second)
            if number % 600 == 0:
                print(f"  {number} of {seconds} s", flush=True)
            if number >= seconds:
                break


def described(recording: Recording) -> str:
    """Say what was recorded."""
    requests = recording.answers.sum(axis=(0, 2))
    busiest = recording.answers.sum(axis=(1, 2))
    quantiles = "; ".join(
        f"{100 * quantile:g}% within {'/'.join(f'{edge:g}' for edge in recording.quantiles(quantile))} ms"
        for quantile in (0.5, 0.9, 0.99)
    )
    odds = "/".join(f"{odds:.2f}" for odds in recording.odds(0.9))
    return (
        f"{recording.seconds} s of {len(requests)} equal deployments: {'/'.join(f'{n:,}' for n in requests)} answers "
        f"({busiest.mean():.1f} a second, {busiest.min()} to {busiest.max()}), {recording.errors.sum():,} errors; {quantiles}; "
        f"odds of an answer among the slowest tenth, relative to all: {odds}"
    )


def replays(recording: Recording, options: argparse.Namespace) -> tuple[bool, list[str]]:
    """Replay releases of the recording; whether both limits are kept, and what to print."""
    work = partial(
        resampled, recording, looks=round(3600 * options.hours / LOOK_SECONDS), seed=options.seed, config=options.config
    )
    tally = Tally()
    started = time.perf_counter()
    if options.processes == 1:
        for number in range(options.resamples):
            tally.add(work(number))
    else:
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            for release in pool.imap_unordered(work, range(options.resamples)):
                tally.add(release)
    return reported(tally, recording.block, time.perf_counter() - started)


def reported(tally: Tally, block: int, seconds: float) -> tuple[bool, list[str]]:
    """Say how the replayed releases ended; whether the limits are kept, within twice the standard error."""
    alarms = Share(hits=tally.ended.get("rolled-back", 0), runs=tally.total)
    excluded = Share(hits=tally.excluded, runs=tally.total)
    minutes = sorted(look * LOOK_SECONDS / 60 for look in tally.looks)
    promoted = f", in the median after {statistics.median(minutes):.0f} min" if minutes else ""
    lines = [
        f"{tally.total} releases of an equal version made of it, in blocks of {block} s ({seconds:.0f} s):",
        f"  rolled back:                     {alarms} (at most {100 * LIMIT:g}%)",
        f"  proven intervals that exclude 1: {excluded} (at most {100 * LIMIT:g}%)",
        f"  promoted:                        {len(tally.looks)} of {tally.total}{promoted}",
        *(f"  {reason}" for reason in tally.reasons[:5]),
    ]
    return all(share.rate <= LIMIT + 2 * share.error for share in (alarms, excluded)), lines


def real_releases(mesh: Any, version: int, rounds: int, median: float, options: argparse.Namespace) -> None:
    """Release the version over itself, then one that is slower, and print each."""
    from benchmarks.aa_mesh import released, traffic

    mesh.keep(NAMES[0], NAMES[1:])
    config: Mapping[str, Any] = {"deadline": 60 * options.release_minutes, **options.config}
    ended: list[dict[str, Any]] = []
    with traffic(mesh.port(), options.rate, seed=options.seed + 1):
        for number in range(options.releases):
            ended.append(released(mesh, version, f"m-equal-{number}", config))
            print(f"  equal: {json.dumps(ended[-1])}", flush=True)
        slower = mesh.register(slower_rounds(rounds, median))
        print(f"  30% slower: {json.dumps(released(mesh, slower, 'm-slower', config))}", flush=True)
    outcomes = [release["outcome"] for release in ended]
    print(f"  equal versions: {', '.join(f'{outcomes.count(word)} {word}' for word in sorted(set(outcomes)))}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the mesh goes down with it
    sys.exit(main(sys.argv[1:]))
