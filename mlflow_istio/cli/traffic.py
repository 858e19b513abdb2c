"""An endpoint and its traffic: status, history, create-endpoint, delete-endpoint, promote, rollback, abort, pause, predict."""

from __future__ import annotations

import json
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
from mlflow_istio.errors import InvalidInput

_CONTENT_TYPES = ("json", "csv", "parquet")
"""The keys of ``calls.request_body.CONTENT_TYPES``, which the command's start does not wait for."""


@click.command()
@click.argument("endpoint", required=False)
@target_option
@json_option
def status(endpoint: str | None, target: str, as_json: bool) -> None:
    """Show the split, the release and the health of an endpoint (or of all)."""
    verbs = verbs_on(target)
    views = [verbs.endpoint(endpoint)] if endpoint else verbs.endpoints()
    if as_json:
        echo(json.dumps(views[0] if endpoint else views, indent=2))
        return
    from mlflow_istio.showing.tables import print_status

    print_status(views, verbs.target_uri)


@click.command()
@click.argument("endpoint")
@target_option
@json_option
@click.option("--plot", default=None, metavar="FILE", help="Draw the weights over time into an .svg or .png file.")
@config_option
def history(endpoint: str, target: str, as_json: bool, plot: str | None, config: tuple[str, ...]) -> None:
    """Show every routing change of an endpoint, from the registry."""
    if plot is not None:
        from mlflow_istio.showing.plots import check_plot

        check_plot(plot)  # before anything is asked of the registry
    changes = verbs_on(target).history(endpoint, read_options(config))
    if plot is not None:
        from mlflow_istio.showing.plots import plot_history

        echo(f"history of {endpoint}: {plot_history(endpoint, changes).save(plot)}", err=as_json)
    if as_json:
        echo(json.dumps(changes, indent=2))
    if as_json or plot is not None:
        return
    from mlflow_istio.showing.tables import print_history

    print_history(endpoint, changes)


@click.command("create-endpoint")
@click.argument("endpoint")
@click.option("--name", required=True, help="Name of the endpoint's first deployment.")
@click.option("--model-uri", "-m", required=True, help="models:/NAME/VERSION or models:/NAME@ALIAS.")
@target_option
@config_option
def create_endpoint(endpoint: str, name: str, model_uri: str, target: str, config: tuple[str, ...]) -> None:
    """Create an endpoint with its first deployment."""
    report(verbs_on(target).create(name, model_uri, None, endpoint, read_options(config)), f"endpoint {endpoint}")


@click.command("delete-endpoint", cls=VerbCommand)
@click.argument("endpoint")
@options_of("base:DeleteEndpointOptions", "force", "reason", "dry_run")
@target_option
@config_option
def delete_endpoint(endpoint: str, target: str, config: tuple[str, ...], **flags: Any) -> None:
    """Take an endpoint away with its deployments; MLflow's own command takes no options."""
    report(verbs_on(target).delete_endpoint(endpoint, given_options(config, **flags)), f"delete {endpoint}")


def _traffic_verb(action: str, text: str, *, candidate: bool = False, to: bool = False) -> click.Command:
    """One command per action of ``update-endpoint``."""

    @click.command(action, cls=VerbCommand, help=text)
    @click.argument("endpoint")
    @target_option
    @options_of("base:UpdateEndpointOptions", "reason", "force", "dry_run")
    @options_of("base:UpdateEndpointOptions", "candidate", hidden=not candidate)
    @options_of("base:UpdateEndpointOptions", "to", "redeploy", hidden=not to)
    def command(endpoint: str, target: str, **flags: Any) -> None:
        options = {"action": action, **given_options((), **flags)}
        report(verbs_on(target).update_endpoint(endpoint, options), f"{action} of {endpoint}")

    return command


@click.command()
@click.option("--name", default=None, help="Deployment to reach whatever the split says.")
@click.option("--endpoint", default=None, help="Endpoint to go through as users do.")
@click.option(
    "--input-path",
    "-I",
    required=True,
    type=click.Path(dir_okay=False),
    help="JSON: a body of MLflow's scoring server, records, a frame in split form, or any list or dict; or CSV or Parquet.",
)
@click.option(
    "--content-type",
    type=click.Choice(_CONTENT_TYPES),
    default=None,
    help="What the input file holds.  [default: what its name ends in, else json]",
)
@click.option("--user", default=None, help="User id: go to the arm this user is assigned to.")
@click.option("--stream", is_flag=True, help="Ask for the answer in chunks, and print each on a line as it comes.")
@target_option
def predict(
    name: str | None,
    endpoint: str | None,
    input_path: str,
    content_type: str | None,
    user: str | None,
    stream: bool,
    target: str,
) -> None:
    """Send an input to be scored and print the answer."""
    if (name is None) == (endpoint is None):
        raise InvalidInput("give exactly one of --name and --endpoint")
    from mlflow_istio.calls.request_body import read_body

    body = read_body(input_path, content_type)
    verbs = verbs_on(target)
    headers = verbs.assign(endpoint, user) if user and endpoint else {}
    if stream:
        for chunk in verbs.predict_stream(body, name=name, endpoint=endpoint, headers=headers):
            click.echo(json.dumps(chunk))
        return
    click.echo(
        json.dumps(verbs.predict(body, name=name, endpoint=endpoint, headers=headers))
    )  # ASCII, and the model's own words


COMMANDS = (
    status,
    history,
    create_endpoint,
    delete_endpoint,
    _traffic_verb("promote", "Make the candidate stable with all the traffic, in one edit.", candidate=True),
    _traffic_verb(
        "rollback", "Return to what users had before the release, in one edit; also after a promotion.", to=True
    ),
    _traffic_verb("abort", "Return all traffic to stable and close the release."),
    _traffic_verb("pause", "Stop the release from advancing by itself."),
    predict,
)
