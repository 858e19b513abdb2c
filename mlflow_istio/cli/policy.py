"""What routes do besides splitting: policy, route, fault, sweep."""

from __future__ import annotations

import json
from typing import Any

import click

from mlflow_istio.cli.options import Command, config_option, json_option, read_options, report, target_option, verbs_on

_SETTINGS = (
    ("timeout", "How long an answer may take, such as 2s."),
    ("retries", 'JSON, such as {"attempts": 2, "perTryTimeout": "500ms", "retryOn": "5xx"}.'),
    ("headers", 'JSON, such as {"response": {"set": {"x-team": "risk"}}}.'),
    ("rewrite", "Path, or JSON with uri, uriRegexRewrite, authority."),
    ("redirect", "Path, or JSON with uri, authority, scheme, port, redirectCode."),
    ("maintenance", "Status that answers instead of the models, or JSON with status and body."),
    ("connection-pool", 'JSON, such as {"http": {"http1MaxPendingRequests": 10}}.'),
    ("outlier-detection", 'JSON, such as {"consecutive5xxErrors": 5}.'),
    ("load-balancer", "least-request, round-robin, random, or JSON with consistentHash."),
    ("tls", "disable, simple, istio-mutual, or JSON."),
)


def _shared(command: Command) -> Command:
    """What every command here takes."""
    for option in (
        config_option,
        click.option("--dry-run", is_flag=True, help="Print the difference and change nothing."),
        click.option("--reason", default=None, help="Why, for the ledger."),
        target_option,
    ):
        command = option(command)
    return command


def _given(config: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """The options that were given, those of ``-C`` included."""
    return {**read_options(config), **{name: value for name, value in options.items() if value not in (None, False)}}


def _settings(command: Command) -> Command:
    for name, text in reversed(_SETTINGS):
        command = click.option(f"--{name}", default=None, help=text)(command)
    return command


@click.command()
@click.argument("endpoint")
@_settings
@click.option("--subset", default=None, help="The only deployment that the settings are for.")
@click.option("--route", default=None, help="The only route of its own that the settings are for.")
@click.option("--replace", is_flag=True, help="Even over fields that the object's owner wrote.")
@_shared
def policy(endpoint: str, target: str, config: tuple[str, ...], **options: Any) -> None:
    """Set timeout, retries, headers, rewrites, limits and so on; 'none' takes a setting away."""
    report(verbs_on(target).policy(endpoint, _given(config, **options)), f"policy of {endpoint}")


@click.command()
@click.argument("endpoint")
@click.option("--to", default=None, help="Deployment that answers the matching requests.")
@click.option("--match", default=None, help="JSON, a rule or a list of rules.")
@click.option("--name", default=None, help="Name of the route; the deployment's unless given.")
@click.option("--remove", default=None, metavar="NAME", help="Take a route away.")
@_shared
def route(endpoint: str, target: str, config: tuple[str, ...], **options: Any) -> None:
    """Send matching requests to one deployment, whatever the split says."""
    report(verbs_on(target).route(endpoint, _given(config, **options)), f"route of {endpoint}")


@click.command()
@click.argument("endpoint")
@click.option("--delay", default=None, help="How long answers are held back, such as 2s.")
@click.option("--abort", default=None, help="HTTP status that answers instead of the model.")
@click.option("--percentage", default=None, help="Share of the requests; 100 unless given.")
@click.option("--ttl", default=None, help="When it ends by itself; 5m unless given.")
@click.option("--match", default=None, help="JSON, only these requests.")
@click.option("--replace", is_flag=True, help="Even where the route has a fault that its owner wrote.")
@click.option("--end", is_flag=True, help="Take the fault away now.")
@_shared
def fault(endpoint: str, target: str, config: tuple[str, ...], **options: Any) -> None:
    """Put delays or errors into live traffic for a time."""
    report(verbs_on(target).fault(endpoint, _given(config, **options)), f"fault of {endpoint}")


@click.command()
@target_option
@json_option
@click.option("--dry-run", is_flag=True, help="Print what would be done and change nothing.")
@config_option
def sweep(target: str, as_json: bool, dry_run: bool, config: tuple[str, ...]) -> None:
    """End what is over: faults, kept versions, stale cookies. Exit status 1 if something could not be done."""
    done = verbs_on(target).sweep(_given(config, dry_run=dry_run))
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        for one in done:
            click.echo(f"{one['endpoint']}: {one['what']}" + (f" ({one['problem']})" if one["problem"] else ""))
        if not done:
            click.echo("nothing is over")
    if any(one["problem"] for one in done):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("endpoint")
@click.option("--delay", default=None, help="How long answers are held back, such as 2s.")
@click.option("--abort", default=None, help="HTTP status that answers instead of the model.")
@click.option("--percentage", default=None, help="Share of the requests; 10 unless given.")
@click.option("--duration", default=None, help="How long it lasts; 30s unless given.")
@click.option("--match", default=None, help="JSON, only these requests.")
@click.option("--replace", is_flag=True, help="Even where the route has a fault that its owner wrote.")
@click.option("--reason", default=None, help="Why, for the ledger.")
@target_option
@json_option
@config_option
def chaos(endpoint: str, target: str, as_json: bool, config: tuple[str, ...], **options: Any) -> None:
    """Inject delays or errors for a time, take them away again, and report what callers saw."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us wants the traffic back, too
    found = verbs_on(target).chaos(endpoint, _given(config, **options))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for line in _said(found):
            click.echo(line)
    if found["interrupted"]:
        raise click.exceptions.Exit(130)


def _said(found: dict[str, Any]) -> list[str]:
    """A report, line by line."""

    def answers(name: str, one: dict[str, Any]) -> str:
        times = "" if one["median_ms"] is None else f", median {one['median_ms']} ms, p99 {one['p99_ms']} ms"
        return f"{name}: {one['requests']} answers, {one['errors']} errors{times}"

    lines = [f"fault on for {found['seconds']} s" + (", interrupted" if found["interrupted"] else "")]
    if found["callers"]:
        lines.append(answers("callers", found["callers"]))
        lines.append(f"of these the fault aborted {found['aborted']} and delayed {found['delayed']}")
    lines += [answers(name, one) for name, one in found["deployments"].items()]
    if not found["callers"] and not found["deployments"]:
        lines.append("nobody counted what callers saw: give a source of metrics with -C prometheus_url=...")
    return lines + ([f"not all could be read: {found['problem']}"] if found["problem"] else [])


COMMANDS = (policy, route, fault, chaos, sweep)
