"""What a release leaves to look at: report."""

from __future__ import annotations

from pathlib import Path

import click

from mlflow_istio.cli.options import config_option, read_options, target_option, verbs_on
from mlflow_istio.cli.output import echo


@click.command()
@click.argument("endpoint")
@click.option("--release", "release", default=None, metavar="ID", help="Release; the open one, else the last.")
@click.option(
    "--output",
    "-o",
    default=None,
    metavar="FILE",
    help="HTML file to write, or - for standard output.  [default: ENDPOINT-RELEASE.html]",
)
@target_option
@config_option
def report(endpoint: str, release: str | None, output: str | None, target: str, config: tuple[str, ...]) -> None:
    """Write a release's report as one HTML page, and keep it with its MLflow run."""
    from mlflow_istio.verbs.reading import file_name, write_report

    made = verbs_on(target).report(endpoint, release, read_options(config))
    if output == "-":
        click.echo(made.page)  # HTML, in which nothing is a control character
        return
    file = Path(output or file_name(endpoint, made.release))
    write_report(made, file)
    echo(f"report of release {made.release} of {endpoint}: {file}")


COMMANDS = (report,)
