"""What the commands share: the group, the usual options, and how a result is printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_istio.cli.output import echo
from mlflow_istio.errors import InvalidInput, MlflowIstioError
from mlflow_istio.showing.interruption import INTERRUPTED, LAST_LINE, ended_as_by_ctrl_c

if TYPE_CHECKING:
    from mlflow_istio.adapters.local.mesh import LocalMesh
    from mlflow_istio.verbs import Result, Verbs

Command = TypeVar("Command", bound=Callable[..., Any])


class Group(click.Group):
    """Prints our errors as one line (and its detail), and the nearest command for a misspelt one."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; our errors become click's, and whoever is interrupted says how to go on."""
        try:
            with ended_as_by_ctrl_c():
                return super().invoke(ctx)
        except MlflowIstioError as exc:
            raise click.ClickException(str(exc)) from exc
        except KeyboardInterrupt:
            echo(f"\n{LAST_LINE}", err=True)
            raise SystemExit(INTERRUPTED) from None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command, or name the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            from mlflow_istio.core.basics.names import nearest

            known = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"no such command '{args[0]}': {known}", ctx) from exc


def target_option(command: Command) -> Command:
    """Which target."""
    return click.option(
        "--target",
        "-t",
        default="istio-local",
        envvar=["MLFLOW_ISTIO_TARGET", "MLFLOW_DEPLOYMENTS_TARGET"],
        show_default=True,
        help="Target URI: istio-local[:/MESH], istio[:/NAMESPACE], istio://CONTEXT/NAMESPACE.",
    )(command)


def config_option(command: Command) -> Command:
    """Any number of ``-C NAME=VALUE``."""
    return click.option(
        "--config", "-C", multiple=True, metavar="NAME=VALUE", help="Option, as for 'mlflow deployments'."
    )(command)


def json_option(command: Command) -> Command:
    """JSON instead of a table."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def verbs_on(target: str) -> Verbs:
    """The verbs on a target, telling progress and warnings on stderr."""
    from mlflow_istio.verbs import Verbs

    return Verbs(
        target,
        tell=lambda line: echo(line, err=True, dim=True),
        warn=lambda line: echo(f"warning: {line}", err=True, fg="yellow"),
    )


def mesh_of(target: str) -> LocalMesh:
    """The local mesh of a target.

    Raises:
        InvalidInput: The target is on a cluster.
    """
    from mlflow_istio.core.basics.target import parse_target
    from mlflow_istio.wiring.connection import local_mesh

    parsed = parse_target(target)
    if parsed.kind != "istio-local":
        raise InvalidInput(f"target '{target}' is no local mesh: use istio-local or istio-local:/MESH")
    return local_mesh(parsed)


def read_options(pairs: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` pairs as a dict.

    Raises:
        InvalidInput: A pair without ``=``, or a name given twice.
    """
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInput(f"option '{pair}' is not of the form NAME=VALUE")
        if name in options:
            raise InvalidInput(f"option '{name}' is given twice")
        options[name] = value
    return options


def given_options(config: Sequence[str], **flags: Any) -> dict[str, Any]:
    """The options that a command was given: ``-C NAME=VALUE``, and flags; what it wasn't given is left to the environment."""
    return {**read_options(config), **{name: value for name, value in flags.items() if value not in (None, False)}}


def report(result: Result, what: str) -> None:
    """One line for what was done; the difference after a dry run."""
    if result.difference is not None:
        echo(result.difference or "nothing would change")
        echo("dry run: nothing was changed")
        return
    view = result.view
    traffic = ", ".join(f"{name} {weight}%" for name, weight in view.get("traffic", {}).items())
    proved = f" (confirmed by {', '.join(result.proxies)})" if result.proxies else ""
    if result.pending:
        echo(f"{what}: {result.pending}")
    elif not result.changed:
        echo(f"{what}: nothing to do" + (f"; traffic: {traffic}" if traffic else ""))
    else:
        echo(f"{what}: done{proved}" + (f"; traffic: {traffic}" if traffic else ""))
