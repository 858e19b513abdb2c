"""What routes do besides splitting: policy, route, fault, pins, sweep."""

from __future__ import annotations

import json
from typing import Any

import click

from mlflow_istio.cli.flags import VerbCommand, options_of
from mlflow_istio.cli.options import config_option, given_options, json_option, report, target_option, verbs_on
from mlflow_istio.cli.output import echo
from mlflow_istio.showing.interruption import INTERRUPTED

_SETTINGS = (
    "timeout",
    "retries",
    "headers",
    "rewrite",
    "redirect",
    "maintenance",
    "connection_pool",
    "outlier_detection",
    "load_balancer",
    "tls",
)


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@options_of("routes:PolicyOptions", *_SETTINGS, "subset", "route", "replace")
@target_option
@options_of("routes:PolicyOptions", "reason", "dry_run")
@config_option
def policy(endpoint: str, target: str, config: tuple[str, ...], **flags: Any) -> None:
    """Set timeout, retries, headers, rewrites, limits and so on; 'none' takes a setting away."""
    report(verbs_on(target).policy(endpoint, given_options(config, **flags)), f"policy of {endpoint}")


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@options_of("routes:RouteOptions", "to", "match", "name", "remove")
@target_option
@options_of("routes:RouteOptions", "reason", "dry_run")
@config_option
def route(endpoint: str, target: str, config: tuple[str, ...], **flags: Any) -> None:
    """Send matching requests to one deployment, whatever the split says."""
    report(verbs_on(target).route(endpoint, given_options(config, **flags)), f"route of {endpoint}")


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@options_of("routes:FaultOptions", "delay", "abort", "percentage", "ttl", "match", "replace", "end")
@target_option
@options_of("routes:FaultOptions", "reason", "dry_run")
@config_option
def fault(endpoint: str, target: str, config: tuple[str, ...], **flags: Any) -> None:
    """Put delays or errors into live traffic for a time."""
    report(verbs_on(target).fault(endpoint, given_options(config, **flags)), f"fault of {endpoint}")


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@options_of("routes:PinsOptions", "pins", "show")
@target_option
@options_of("routes:PinsOptions", "reason", "dry_run")
@config_option
def pins(endpoint: str, target: str, config: tuple[str, ...], **flags: Any) -> None:
    """Say, or change, who reaches one version of an endpoint by the header x-mlflow-deployment."""
    given = given_options(config, **flags)
    result = verbs_on(target).pins(endpoint, given)
    if "pins" in given:
        report(result, f"pins of {endpoint}")
    else:
        click.echo(f"pins of {endpoint} are {result.view['pins']}")
    for deployment, headers in result.view.get("pin_headers", {}).items():
        click.echo(f"{deployment}: " + " ".join(f"-H '{name}: {value}'" for name, value in headers.items()))


@click.command(cls=VerbCommand)
@target_option
@json_option
@options_of("routes:SweepOptions", "dry_run")
@config_option
def sweep(target: str, as_json: bool, config: tuple[str, ...], **flags: Any) -> None:
    """End what is over: faults, kept versions, stale cookies. Exit status 1 if something could not be done."""
    done = verbs_on(target).sweep(given_options(config, **flags))
    if as_json:
        echo(json.dumps(done, indent=2))
    else:
        for swept in done:
            echo(f"{swept['endpoint']}: {swept['what']}" + (f" ({swept['problem']})" if swept["problem"] else ""))
        if not done:
            echo("nothing is over")
    if any(swept["problem"] for swept in done):
        raise click.exceptions.Exit(1)


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@options_of("routes:ChaosOptions", "delay", "abort", "percentage", "duration", "match", "replace", "reason")
@target_option
@json_option
@config_option
def chaos(endpoint: str, target: str, as_json: bool, config: tuple[str, ...], **flags: Any) -> None:
    """Inject delays or errors for a time, take them away again, and report what callers saw."""
    view = verbs_on(target).chaos(endpoint, given_options(config, **flags))
    if as_json:
        echo(json.dumps(view, indent=2))
    else:
        for line in _said(view):
            echo(line)
    if view["interrupted"]:
        raise click.exceptions.Exit(INTERRUPTED)


def _said(trial: dict[str, Any]) -> list[str]:
    """A report, line by line."""

    def answers(name: str, counts: dict[str, Any]) -> str:
        times = "" if counts["median_ms"] is None else f", median {counts['median_ms']} ms, p99 {counts['p99_ms']} ms"
        return f"{name}: {counts['requests']} answers, {counts['errors']} errors{times}"

    lines = [f"fault on for {trial['seconds']} s" + (", interrupted" if trial["interrupted"] else "")]
    if trial["callers"]:
        lines.append(answers("callers", trial["callers"]))
        lines.append(f"of these the fault aborted {trial['aborted']} and delayed {trial['delayed']}")
    lines += [answers(name, counts) for name, counts in trial["deployments"].items()]
    if not trial["callers"] and not trial["deployments"]:
        lines.append("nobody counted what callers saw: give a source of metrics with -C prometheus_url=...")
    return lines + ([f"not all could be read: {trial['problem']}"] if trial["problem"] else [])


COMMANDS = (policy, route, fault, chaos, pins, sweep)
