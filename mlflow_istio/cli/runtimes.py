"""Which kinds of model servers are known."""

from __future__ import annotations

import json

import click

from mlflow_istio.cli.options import json_option
from mlflow_istio.cli.output import echo


@click.command()
@click.argument("profile", required=False)
@json_option
def runtimes(profile: str | None, as_json: bool) -> None:
    """List the kinds of model servers that 'runtime' takes, or check a PROFILE of your own (a YAML file)."""
    from mlflow_istio.verbs.runtimes import runtime_views

    views = runtime_views(profile)
    if as_json:
        echo(json.dumps(views, indent=2))
        return
    from mlflow_istio.showing.tables import print_runtimes

    print_runtimes(views)


COMMANDS = (runtimes,)
