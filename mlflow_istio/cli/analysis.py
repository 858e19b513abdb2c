"""What an open release's data say: analyse, declare, compare."""

from __future__ import annotations

import json
import sys
from typing import Any

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

_EXIT = {"advance": 0, "rollback": 3, "hold": 4, "inconclusive": 4}


@click.command()
@click.argument("endpoint")
@target_option
@json_option
@config_option
def analyse(endpoint: str, target: str, as_json: bool, config: tuple[str, ...]) -> None:
    """Look once at an open A/B/n release: every arm with its interval, and the outcome so far.

    The first look is the base line; each one counts what happened since the one before.
    """
    view = verbs_on(target).analyse(endpoint, read_options(config))
    if as_json:
        echo(json.dumps(view, indent=2))
        return
    from mlflow_istio.showing.tables import print_arms

    print_arms(view)


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@target_option
@options_of("analysis:DeclareOptions", "winner", "reason", "force", "dry_run")
@config_option
def declare(endpoint: str, target: str, config: tuple[str, ...], **flags: Any) -> None:
    """Give the winner of an A/B/n release all the traffic."""
    report(verbs_on(target).declare(endpoint, given_options(config, **flags)), f"declare of {endpoint}")


@click.command()
@click.argument("endpoint")
@target_option
@json_option
@config_option
def compare(endpoint: str, target: str, as_json: bool, config: tuple[str, ...]) -> None:
    """Compare the answers of an open shadow release with stable's.

    Exits with 0 when the shadow answers like the stable, 3 when it does not, 4 when that is not known yet.
    """
    view = verbs_on(target).compare(endpoint, read_options(config))
    if as_json:
        echo(json.dumps(view, indent=2))
    else:
        from mlflow_istio.showing.tables import print_comparison

        print_comparison(view)
    sys.exit(_EXIT[view["verdict"]["word"]])


COMMANDS = (analyse, declare, compare)
