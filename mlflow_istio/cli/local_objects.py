"""A user's own objects in the mesh on this machine, as kubectl would have them: local apply, get, delete."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from mlflow_istio.cli.options import mesh_of, target_option
from mlflow_istio.cli.output import echo
from mlflow_istio.errors import InvalidInput, NotFound

_SUFFIXES = (".yaml", ".yml", ".json")
_READY_SECONDS = 60.0


@click.command()
@click.option(
    "--file",
    "-f",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="YAML or JSON with any number of objects, a folder of such files, or '-'; as often as needed.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and print the difference; change nothing.")
@click.option(
    "--timeout",
    default=_READY_SECONDS,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that a changed Deployment may take to become ready.",
)
@target_option
def apply(files: tuple[str, ...], dry_run: bool, timeout: float, target: str) -> None:
    """Create or change objects of yours, all of them or none; what a mesh can't carry out is refused by its field."""
    from mlflow_istio.core.mesh.user_documents import read_objects

    objects = [obj for text, source in _texts(files) for obj in read_objects(text, source)]
    mesh = mesh_of(target)
    applied = mesh.apply_by_user(objects, dry_run=dry_run)
    if dry_run:
        _print_differences([tuple(entry) for entry in applied])
        return
    for entry in applied:
        echo(f"{entry.kind.lower()}/{entry.name} {entry.what}{_where(mesh, entry.kind, entry.name)}")
    for entry in applied:
        if entry.kind == "Deployment" and entry.what != "unchanged" and entry.after["spec"].get("replicas", 1):
            mesh.wait_ready(entry.name, timeout)


@click.command()
@click.argument("kind", required=False)
@click.argument("name", required=False)
@click.option(
    "--output", "-o", default="table", show_default=True, type=click.Choice(["table", "yaml", "json", "name"])
)
@target_option
def get(kind: str | None, name: str | None, output: str, target: str) -> None:
    """Show objects of the mesh: all, those of a kind (vs, dr, svc, deploy), or one (vs NAME, vs/NAME)."""
    from mlflow_istio.core.basics.objects import API_VERSIONS
    from mlflow_istio.core.basics.yaml_text import as_yaml

    mesh = mesh_of(target)
    kinds, name = _named(kind, name)
    if name is not None:
        objects = [_existing(mesh, kinds[0], name)]
    else:
        objects = [obj for chosen in kinds or API_VERSIONS for obj in mesh.list(chosen, {})]
    if output == "name":
        for obj in objects:
            echo(f"{obj['kind'].lower()}/{obj['metadata']['name']}")
    elif output != "table":
        document = objects[0] if name is not None else {"apiVersion": "v1", "kind": "List", "items": objects}
        echo(as_yaml(document) if output == "yaml" else json.dumps(document, indent=2), nl=output == "json")
    elif objects:
        from mlflow_istio.showing.object_tables import print_objects

        print_objects(objects, {obj["metadata"]["name"]: _url(mesh, obj) for obj in objects})
    else:
        echo(f"mesh {mesh.name} holds no {' or '.join(kinds or API_VERSIONS)}")


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="Print the difference; change nothing.")
@target_option
def delete(kind: str, name: str | None, dry_run: bool, target: str) -> None:
    """Delete one object, whoever wrote it; whatever else names it stays as it is."""
    mesh = mesh_of(target)
    kinds, name = _named(kind, name)
    if name is None:
        raise InvalidInput(f"which {kinds[0]} is to be deleted is not said: give its name")
    before = _existing(mesh, kinds[0], name)
    if dry_run:
        _print_differences([(kinds[0], name, before, None)])
        return
    mesh.delete(kinds[0], name)
    echo(f"{kinds[0].lower()}/{name} deleted")


def _named(kind: str | None, name: str | None) -> tuple[list[str], str | None]:
    """The kind in our spelling (none: all) and the name; ``vs/shop`` says both."""
    from mlflow_istio.core.mesh.user_documents import kind_of

    if kind is None or kind == "all":
        if name is not None:
            raise InvalidInput(f"'{name}' can't be looked for in all kinds: say which, such as vs")
        return [], None
    word, slash, inside = kind.partition("/")
    if slash and name is not None:
        raise InvalidInput(f"'{kind}' and '{name}' name two objects: give one")
    return [kind_of(word)], inside if slash else name


def _existing(mesh: Any, kind: str, name: str) -> Any:
    obj = mesh.get(kind, name)
    if obj is None:
        raise NotFound(f"there is no {kind} '{name}' in mesh '{mesh.name}'")
    return obj


def _texts(files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each file's text and what it is called."""
    for name in files:
        if name == "-":
            yield sys.stdin.read(), "standard input"
            continue
        path = Path(name)
        inside = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise InvalidInput(f"folder '{name}' holds no file that ends with {', '.join(_SUFFIXES)}")
        for file in inside:
            try:
                yield file.read_text(encoding="utf-8"), f"file '{file}'"
            except OSError as exc:
                raise InvalidInput(f"file '{file}' can't be read: {exc.strerror}") from exc
            except UnicodeDecodeError as exc:
                raise InvalidInput(f"file '{file}' is no text in UTF-8") from exc


def _print_differences(changes: Sequence[Any]) -> None:
    from mlflow_istio.core.inspection.difference import difference

    parts = [part for change in changes if (part := difference(*change))]
    echo("\n".join(parts) or "nothing would change")
    echo("dry run: nothing was changed")


def _where(mesh: Any, kind: str, name: str) -> str:
    url = _url(mesh, mesh.get(kind, name) or {})
    return f": {url}" if url else ""


def _url(mesh: Any, obj: Any) -> str:
    """Where a VirtualService with hosts of its own takes requests."""
    if obj.get("kind") != "VirtualService" or not obj["spec"].get("hosts"):
        return ""
    return str(mesh.address(obj["metadata"]["name"]).url)
