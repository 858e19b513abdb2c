"""The mesh on this machine: demo, and local up, down, status, logs, apply, get, delete."""

from __future__ import annotations

import json

import click

from mlflow_istio.cli import local_objects
from mlflow_istio.cli.options import json_option, mesh_of, target_option
from mlflow_istio.cli.output import echo


@click.command()
@click.option("--keep", is_flag=True, help="Leave the mesh running.")
@click.option(
    "--requests", "count", default=300, show_default=True, type=click.IntRange(20, 5000), help="Requests per round."
)
def demo(keep: bool, count: int) -> None:
    """Train two models and release one over the other on this machine: the whole job in a minute."""
    from mlflow_istio.cli.demo import run

    run(keep=keep, count=count)


@click.group()
def local() -> None:
    """The mesh on this machine."""


@local.command()
@target_option
@click.option("--new-ports", is_flag=True, help="Choose ports anew where somebody else took them meanwhile.")
def up(target: str, new_ports: bool) -> None:
    """Start the mesh with everything it ran before."""
    mesh = mesh_of(target)
    before = mesh.status().statistics_url
    after = mesh.up(new_ports=new_ports)
    from mlflow_istio.showing.tables import print_mesh

    if before not in ("", after.statistics_url):
        echo(f"another program has taken the port of {before}: Envoy's statistics are at {after.statistics_url} now")
    print_mesh(after)


@local.command()
@target_option
@click.option("--purge", is_flag=True, help="Forget all deployments and endpoints, too.")
def down(target: str, purge: bool) -> None:
    """End every process of the mesh; 'up' brings them back."""
    mesh_of(target).down(purge=purge)
    echo("down" + (", and forgotten" if purge else ""))


@local.command("status")
@target_option
@json_option
def local_status(target: str, as_json: bool) -> None:
    """Show processes, ports and logs."""
    state = mesh_of(target).status()
    if as_json:
        from dataclasses import asdict

        echo(json.dumps(asdict(state), indent=2, default=str))
        return
    from mlflow_istio.showing.tables import print_mesh

    print_mesh(state)


@local.command()
@click.argument("name")
@click.option("--lines", "-n", default=50, show_default=True, type=click.IntRange(1, 100000))
@target_option
def logs(name: str, lines: int, target: str) -> None:
    """Print the last log lines of a deployment, or of 'envoy'."""
    echo(mesh_of(target).logs(name, lines))


for _command in (local_objects.apply, local_objects.get, local_objects.delete):
    local.add_command(_command)

COMMANDS = (demo, local)
