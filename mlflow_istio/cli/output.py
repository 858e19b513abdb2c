"""What commands print: the one way to the terminal."""

from __future__ import annotations

from typing import Any

import click

from mlflow_istio.errors import masked, visible


def echo(text: str, *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print lines, with nothing from outside in them that a terminal would obey or that would turn its direction, and no passwords.

    Args:
        text: The lines.
        err: Whether they go to standard error.
        nl: Whether a line ends after them.
        style: Colours, as for ``click.style``.
    """
    click.secho(visible(masked(text), lines=True), err=err, nl=nl, **style)
