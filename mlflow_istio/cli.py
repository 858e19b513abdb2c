"""The ``mlflow-istio`` command: releases beside what ``mlflow deployments`` can say. Parses, calls a verb, prints.

Start-up matters here: MLflow, pandas and kubernetes are imported by the verbs that need them, never by this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_istio.errors import InvalidInput, MlflowIstioError

if TYPE_CHECKING:
    from mlflow_istio.verbs import Result, Verbs

Command = TypeVar("Command", bound=Callable[..., Any])


class _Group(click.Group):
    """Prints our errors as one line (and its detail), and the nearest command for a misspelt one."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MlflowIstioError as exc:
            raise click.ClickException(str(exc)) from exc

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            from mlflow_istio.core.names import nearest

            known = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"no such command '{args[0]}': {known}", ctx) from exc


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlflow-istio")
def main() -> None:
    """Release MLflow model versions through Istio: canary, A/B/n, blue-green, shadow."""


def _target(command: Command) -> Command:
    return click.option(
        "--target",
        "-t",
        default="istio-local",
        envvar=["MLFLOW_ISTIO_TARGET", "MLFLOW_DEPLOYMENTS_TARGET"],
        show_default=True,
        help="Target URI: istio-local[:/MESH], istio[:/NAMESPACE], istio://CONTEXT/NAMESPACE.",
    )(command)


def _config(command: Command) -> Command:
    return click.option(
        "--config", "-C", multiple=True, metavar="NAME=VALUE", help="Option, as for 'mlflow deployments'."
    )(command)


def _as_json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _verbs(target: str) -> Verbs:
    from mlflow_istio.verbs import Verbs

    return Verbs(
        target,
        tell=lambda line: click.secho(line, err=True, dim=True),
        warn=lambda line: click.secho(f"warning: {line}", err=True, fg="yellow"),
    )


def _options(pairs: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInput(f"option '{pair}' is not of the form NAME=VALUE")
        if name in options:
            raise InvalidInput(f"option '{name}' is given twice")
        options[name] = value
    return options


@main.command()
@click.argument("endpoint", required=False)
@_target
@_as_json
def status(endpoint: str | None, target: str, as_json: bool) -> None:
    """Show the split, the release and the health of an endpoint (or of all)."""
    verbs = _verbs(target)
    views = [verbs.endpoint(endpoint)] if endpoint else verbs.endpoints()
    if as_json:
        click.echo(json.dumps(views[0] if endpoint else views, indent=2))
        return
    from mlflow_istio.tables import print_status

    print_status(views, verbs.target_uri)


@main.command()
@click.argument("endpoint")
@_target
@_as_json
@_config
def history(endpoint: str, target: str, as_json: bool, config: tuple[str, ...]) -> None:
    """Show every routing change of an endpoint, from the registry."""
    changes = _verbs(target).history(endpoint, _options(config))
    if as_json:
        click.echo(json.dumps(changes, indent=2))
        return
    from mlflow_istio.tables import print_history

    print_history(endpoint, changes)


@main.command("create-endpoint")
@click.argument("endpoint")
@click.option("--name", required=True, help="Name of the endpoint's first deployment.")
@click.option("--model-uri", "-m", required=True, help="models:/NAME/VERSION or models:/NAME@ALIAS.")
@_target
@_config
def create_endpoint(endpoint: str, name: str, model_uri: str, target: str, config: tuple[str, ...]) -> None:
    """Create an endpoint with its first deployment."""
    _report(_verbs(target).create(name, model_uri, None, endpoint, _options(config)), f"endpoint {endpoint}")


def _traffic_verb(action: str, text: str, *, candidate: bool = False) -> None:
    """One command per action of ``update-endpoint``."""

    @main.command(action, help=text)
    @click.argument("endpoint")
    @_target
    @click.option("--reason", default="", help="Why, for the ledger.")
    @click.option("--force", is_flag=True, help="Even if the target is not ready.")
    @click.option("--dry-run", is_flag=True, help="Print the difference and change nothing.")
    @click.option("--candidate", default=None, hidden=not candidate, help="Which candidate, where there are several.")
    def command(endpoint: str, target: str, reason: str, force: bool, dry_run: bool, candidate: str | None) -> None:
        options: dict[str, Any] = {"action": action, "reason": reason, "force": force, "dry_run": dry_run}
        if candidate is not None:
            options["candidate"] = candidate
        _report(_verbs(target).update_endpoint(endpoint, options), f"{action} of {endpoint}")


_traffic_verb("promote", "Make the candidate stable with all the traffic, in one edit.", candidate=True)
_traffic_verb("rollback", "Return to what users had before the release, in one edit; also after a promotion.")
_traffic_verb("abort", "Return all traffic to stable and close the release.")
_traffic_verb("pause", "Stop the release from advancing by itself.")
_traffic_verb("resume", "Let a paused release go on.")


@main.command()
@click.option("--name", default=None, help="Deployment to reach whatever the split says.")
@click.option("--endpoint", default=None, help="Endpoint to go through as users do.")
@click.option(
    "--input-path", "-I", required=True, type=click.Path(dir_okay=False), help="JSON file: records, or a scoring body."
)
@click.option("--user", default=None, help="User id: go to the arm this user is assigned to.")
@_target
def predict(name: str | None, endpoint: str | None, input_path: str, user: str | None, target: str) -> None:
    """Send an input to be scored and print the answer."""
    if (name is None) == (endpoint is None):
        raise InvalidInput("give exactly one of --name and --endpoint")
    payload = _read_input(input_path)
    verbs = _verbs(target)
    headers = verbs.assign(endpoint, user) if user and endpoint else {}
    click.echo(json.dumps(verbs.predict(payload, name=name, endpoint=endpoint, headers=headers)))


def _read_input(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            payload = json.load(file)
    except OSError as exc:
        raise InvalidInput(f"input file '{path}' can't be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise InvalidInput(f"input file '{path}' is not JSON: {exc}") from exc
    if isinstance(payload, list):
        return {"dataframe_records": payload}
    if isinstance(payload, dict):
        return payload
    raise InvalidInput(
        f"input file '{path}' must hold a list of records or a scoring body, not {type(payload).__name__}"
    )


@main.command()
@click.option("--keep", is_flag=True, help="Leave the mesh running.")
@click.option(
    "--requests", "count", default=300, show_default=True, type=click.IntRange(20, 5000), help="Requests per round."
)
def demo(keep: bool, count: int) -> None:
    """Train two models and release one over the other on this machine: the whole job in a minute."""
    from mlflow_istio.demo import run

    run(keep=keep, count=count)


@main.group()
def local() -> None:
    """The mesh on this machine."""


def _mesh(target: str) -> Any:
    from mlflow_istio.core.target import parse_target
    from mlflow_istio.wiring import local_mesh

    parsed = parse_target(target)
    if parsed.kind != "istio-local":
        raise InvalidInput(f"target '{target}' is no local mesh: use istio-local or istio-local:/MESH")
    return local_mesh(parsed)


@local.command()
@_target
@click.option("--new-ports", is_flag=True, help="Choose ports anew where somebody else took them meanwhile.")
def up(target: str, new_ports: bool) -> None:
    """Start the mesh with everything it ran before."""
    mesh = _mesh(target)
    mesh.up(new_ports=new_ports)
    from mlflow_istio.tables import print_mesh

    print_mesh(mesh.status())


@local.command()
@_target
@click.option("--purge", is_flag=True, help="Forget all deployments and endpoints, too.")
def down(target: str, purge: bool) -> None:
    """End every process of the mesh; 'up' brings them back."""
    _mesh(target).down(purge=purge)
    click.echo("down" + (", and forgotten" if purge else ""))


@local.command("status")
@_target
@_as_json
def local_status(target: str, as_json: bool) -> None:
    """Show processes, ports and logs."""
    state = _mesh(target).status()
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(state), indent=2, default=str))
        return
    from mlflow_istio.tables import print_mesh

    print_mesh(state)


@local.command()
@click.argument("name")
@click.option("--lines", "-n", default=50, show_default=True, type=click.IntRange(1, 100000))
@_target
def logs(name: str, lines: int, target: str) -> None:
    """Print the last log lines of a deployment, or of 'envoy'."""
    click.echo(_mesh(target).logs(name, lines))


def _report(result: Result, what: str) -> None:
    """One line for what was done; the difference after a dry run."""
    if result.difference is not None:
        click.echo(result.difference or "nothing would change")
        click.echo("dry run: nothing was changed")
        return
    view = result.view
    traffic = ", ".join(f"{name} {weight}%" for name, weight in view.get("traffic", {}).items())
    proved = f" (confirmed by {', '.join(result.proxies)})" if result.proxies else ""
    if not result.changed:
        click.echo(f"{what}: nothing to do" + (f"; traffic: {traffic}" if traffic else ""))
    else:
        click.echo(f"{what}: done{proved}" + (f"; traffic: {traffic}" if traffic else ""))


if __name__ == "__main__":
    main()
