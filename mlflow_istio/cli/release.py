"""A release that goes on by itself: release, rehearse, resume, approve, reject."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mlflow_istio.cli.flags import VerbCommand, options_of
from mlflow_istio.cli.options import (
    config_option,
    given_options,
    json_option,
    read_options,
    report,
    target_option,
    verbs_on,
)
from mlflow_istio.cli.output import echo
from mlflow_istio.showing.interruption import INTERRUPTED

if TYPE_CHECKING:
    from mlflow_istio.verbs import Result

EXIT = {"promoted": 0, "open": 0, "rolled-back": 3, "aborted": 3, "superseded": 3, "inconclusive": 4, "held": 4}
"""Outcome to the command's exit status."""

_OF_RELEASE = (
    "name",
    "candidate",
    "strategy",
    "steps",
    "analysis",
    "interval",
    "hold",
    "min_requests",
    "deadline",
    "warmup",
    "phase",
    "control",
    "metrics",
    "prometheus_url",
    "kpi",
    "approval",
    "webhooks",
    "watch",
    "holdback",
    "keep_old",
    "reason",
)


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@click.argument("model_uri", required=False)
@target_option
@options_of("release:ReleaseOptions", *_OF_RELEASE)
@click.option("--no-promote", is_flag=True, help="Stop before promotion and leave it to a person.")
@options_of("release:ReleaseOptions", "supersede", "force", "detach", "dry_run")
@json_option
@config_option
def release(
    endpoint: str,
    model_uri: str | None,
    target: str,
    no_promote: bool,
    as_json: bool,
    config: tuple[str, ...],
    **flags: Any,
) -> None:
    """Release a version step by step: it is promoted when proven good enough, and rolled back when it is worse.

    Exit status: 0 promoted, 3 rolled back, 4 inconclusive or held, 1 error. Further options, such as alpha, margin and
    allowed, go into -C.
    """
    options = given_options(config, **flags)
    if no_promote:
        options["promote"] = "false"
    verbs = verbs_on(target)
    with _interruptible(endpoint, target), _watch(as_json) as watch:
        result = verbs.release(endpoint, model_uri, options, watch=watch)
    _finish(result, endpoint, as_json)


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@target_option
@options_of("release:ResumeOptions", "metrics", "prometheus_url", "kpi", "force", defaults=False)
@click.option("--unpause", is_flag=True, help="Only end a pause; another process drives the release.")
@json_option
@config_option
def resume(endpoint: str, target: str, unpause: bool, as_json: bool, config: tuple[str, ...], **flags: Any) -> None:
    """Go on with a release: drive one whose process is gone, or let a paused one go on.

    Exit status as for 'release'.
    """
    options = given_options(config, **flags)
    verbs = verbs_on(target)
    if unpause or not verbs.goes_on_by_itself(endpoint):
        report(verbs.unpause(endpoint, read_options(config)), f"resume of {endpoint}")
        return
    with _interruptible(endpoint, target), _watch(as_json) as watch:
        result = verbs.resume_release(endpoint, options, watch=watch)
    _finish(result, endpoint, as_json)


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@target_option
@options_of(
    "release:RehearseOptions",
    "steps",
    "strategy",
    "analysis",
    "interval",
    "hold",
    "min_requests",
    "phase",
    "prometheus_url",
    "history",
    "horizon",
    "runs",
    "seed",
)
@click.option("--plot", default=None, metavar="FILE", help="Draw when releases end into an .svg or .png file.")
@json_option
@config_option
def rehearse(
    endpoint: str, target: str, plot: str | None, as_json: bool, config: tuple[str, ...], **flags: Any
) -> None:
    """Rehearse a release on the endpoint's own recorded traffic: how often would this plan cry wolf, and how long does it take?

    The counts of the stable are dealt out again as if the same version were released, and versions with two and four times its
    odds of an error. Further options of a release, such as alpha, margin and allowed, go into -C.
    """
    if plot is not None:
        from mlflow_istio.showing.plots import check_plot

        check_plot(plot)  # before anything is rehearsed
    from mlflow_istio.showing.live import counting

    with counting("releases rehearsed") as told:
        view = verbs_on(target).rehearse(endpoint, given_options(config, **flags), told=told)
    if plot is not None:
        from mlflow_istio.showing.plots import plot_rehearsal

        echo(f"rehearsal of {endpoint}: {plot_rehearsal(view).save(plot)}", err=as_json)
    if as_json:
        echo(json.dumps(view, indent=2))
        return
    from mlflow_istio.showing.tables import print_rehearsal

    print_rehearsal(view)


@click.command()
@click.argument("endpoint")
@target_option
@config_option
def approve(endpoint: str, target: str, config: tuple[str, ...]) -> None:
    """Let a release past the gate it waits at."""
    gate = verbs_on(target).approve(endpoint, read_options(config))
    echo(f"approved '{gate}' of {endpoint}")


@click.command()
@click.argument("endpoint")
@target_option
@config_option
def reject(endpoint: str, target: str, config: tuple[str, ...]) -> None:
    """Refuse the gate a release waits at: its traffic returns to the stable."""
    gate = verbs_on(target).reject(endpoint, read_options(config))
    echo(f"rejected '{gate}' of {endpoint}: the traffic returns to the stable")


@contextmanager
def _watch(as_json: bool) -> Iterator[Callable[[Any], None]]:
    from rich.console import Console

    from mlflow_istio.showing.live import watching

    with watching(Console(stderr=as_json)) as watch:
        yield watch


@contextmanager
def _interruptible(endpoint: str, target: str) -> Iterator[None]:
    """Say on an interrupt that the release stands where it is."""
    try:
        yield
    except KeyboardInterrupt:
        echo(
            f"\nstopped driving; the release stands where it is. Go on with: mlflow-istio resume {endpoint} -t {target}",
            err=True,
        )
        raise SystemExit(INTERRUPTED) from None


def _finish(result: Result, endpoint: str, as_json: bool) -> None:
    view = result.view
    if result.difference is not None:
        if as_json:
            echo(json.dumps({**view, "difference": result.difference}, indent=2))
            return
        for line in view["plan"]:
            echo(line)
        echo(result.difference or "nothing would change")
        echo("dry run: nothing was changed")
        return
    if as_json:
        echo(json.dumps(view, indent=2))
    else:
        traffic = ", ".join(f"{name} {weight}%" for name, weight in view.get("traffic", {}).items())
        echo(f"release {view['release_id']} of {endpoint}: {view['outcome']}. {view['verdict']['reason']}")
        echo(f"traffic: {traffic}")
    raise SystemExit(EXIT[view["outcome"]])


COMMANDS = (release, rehearse, resume, approve, reject)
