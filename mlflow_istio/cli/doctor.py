"""What is wrong and what mends it: doctor."""

from __future__ import annotations

import json
from typing import Any

import click

from mlflow_istio.cli.options import config_option, json_option, read_options, target_option, verbs_on
from mlflow_istio.cli.output import echo

_COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}


@click.command()
@click.argument("endpoint", required=False)
@click.option("--fix", is_flag=True, help="Mend what can be mended without changing what users get.")
@target_option
@json_option
@config_option
def doctor(endpoint: str | None, fix: bool, target: str, as_json: bool, config: tuple[str, ...]) -> None:
    """Look an endpoint (or all) over; exit status 2 when something is wrong."""
    view = verbs_on(target).doctor(endpoint, fix=fix, config=read_options(config))
    if as_json:
        echo(json.dumps(view, indent=2))
    else:
        _print(view)
    if not view["healthy"]:
        raise click.exceptions.Exit(2)


def _print(view: dict[str, Any]) -> None:
    for mended in view["mended"]:
        what = f"not mended ({mended['problem']})" if mended["problem"] else "mended"
        echo(f"{what}: {mended['endpoint']}: {mended['text']}")
    for finding in view["findings"]:
        where = f"{finding['endpoint']}: " if finding["endpoint"] else ""
        echo(finding["severity"], nl=False, fg=_COLOURS[finding["severity"]])
        echo(f": {where}{finding['text']}\n  {finding['command']}")
    if view["healthy"]:
        echo("nothing is wrong")


COMMANDS = (doctor,)
