"""Endpoints beside what other tools own: adopt, plan, apply, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mlflow_istio.cli.flags import VerbCommand, options_of
from mlflow_istio.cli.options import config_option, given_options, read_options, report, target_option, verbs_on
from mlflow_istio.cli.output import echo
from mlflow_istio.errors import InvalidInput


@click.command(cls=VerbCommand)
@click.argument("endpoint")
@options_of("base:AdoptOptions", "virtual_service", "route", "stable", "gateway", "reason", "dry_run")
@target_option
@config_option
def adopt(endpoint: str, target: str, config: tuple[str, ...], **flags: Any) -> None:
    """Take over one route of a VirtualService of yours; delete-endpoint gives it back."""
    report(verbs_on(target).adopt(endpoint, given_options(config, **flags)), f"adopt {endpoint}")


@click.command()
@click.argument("endpoint")
@click.option(
    "--verb",
    default=None,
    help="Which command, such as delete-endpoint; unless given, create with --name, else update-endpoint.",
)
@click.option("--name", default=None, help="Name of the deployment to create, or to delete.")
@click.option("--model-uri", "-m", default=None, help="Its model: models:/NAME/VERSION or models:/NAME@ALIAS.")
@click.option("--flavor", "-f", default=None, help="Its flavor.")
@click.option("--out", default=None, type=click.Path(dir_okay=False), help="File to write the plan to.")
@target_option
@config_option
def plan(endpoint: str, target: str, config: tuple[str, ...], out: str | None, **deployment: str | None) -> None:
    """Show the exact difference a command would make, and keep it for 'apply'."""
    made = verbs_on(target).plan(endpoint, read_options(config), **deployment)
    echo(made["difference"] or "nothing would change")
    where = f"written to {out}: carry it out with 'mlflow-istio apply {out}'" if out else "nothing was changed"
    if out is not None:
        _write(out, json.dumps(made, indent=2) + "\n")
    echo(f"plan {made['hash']} of endpoint {endpoint}: {where}")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--target", "-t", default=None, help="Another way to the same place than the plan's own target URI.")
def apply(file: str, target: str | None) -> None:
    """Carry out a plan, unless the endpoint has moved since it was made."""
    from mlflow_istio.verbs.plans import read_plan

    document = _read(file)
    made = read_plan(document)
    report(verbs_on(target or made.target).apply_plan(document), f"plan {made.hash} of {made.endpoint}")


@click.command()
@click.argument("endpoint")
@click.option("--without-traffic", is_flag=True, help="Only what releases don't change: no routes, no subsets.")
@click.option("--argocd", is_flag=True, help="Print what an Argo CD Application has to leave alone instead.")
@target_option
def export(endpoint: str, without_traffic: bool, argocd: bool, target: str) -> None:
    """Print an endpoint's objects as YAML for Git."""
    echo(verbs_on(target).export(endpoint, with_traffic=not without_traffic, argocd=argocd), nl=False)


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidInput(f"plan '{path}' can't be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise InvalidInput(f"plan '{path}' is not JSON: {exc}") from exc


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise InvalidInput(f"'{path}' can't be written: {exc.strerror}") from exc


COMMANDS = (adopt, plan, apply, export)
