"""Endpoints beside what other tools own: adopt."""

from __future__ import annotations

import click

from mlflow_istio.cli.options import config_option, read_options, report, target_option, verbs_on


@click.command()
@click.argument("endpoint")
@click.option("--virtual-service", required=True, help="VirtualService of yours, in the target's namespace.")
@click.option("--route", required=True, help="Name of one of its routes (http[].name); its destination becomes stable.")
@click.option("--stable", default=None, help="Which of its destinations is stable, where several have weight.")
@click.option(
    "--gateway", default=None, help="NAMESPACE/NAME of the gateway to prove changes at, where it has several."
)
@click.option("--reason", default="", help="Why, for the ledger.")
@click.option("--dry-run", is_flag=True, help="Print the difference and change nothing.")
@target_option
@config_option
def adopt(endpoint: str, target: str, config: tuple[str, ...], **given: str | bool | None) -> None:
    """Take over one route of a VirtualService of yours; delete-endpoint gives it back."""
    options = {name: value for name, value in given.items() if value not in (None, "")}
    report(verbs_on(target).adopt(endpoint, {**read_options(config), **options}), f"adopt {endpoint}")


COMMANDS = (adopt,)
