"""Every command and all Python of docs/routing.md runs as it stands, in the order in which it stands."""

from __future__ import annotations

import contextlib
import io
import re
import shlex

import pytest
from click.testing import CliRunner
from mlflow.deployments.cli import commands as mlflow_deployments

from mlflow_istio.cli import main as mlflow_istio
from mlflow_istio.options.shared import SETTINGS
from tests.support.pages import blocks, page

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

TEXT = page("docs/routing.md")


def test_each_setting_has_a_row_and_an_example() -> None:
    commands = "\n".join(blocks("bash", "docs/routing.md"))
    for name in SETTINGS:
        assert f"| `{name}` |" in TEXT
        assert re.search(rf"--{name.replace('_', '-')} |'?{name}=", commands), f"no example sets {name}"


def test_the_commands_and_the_python_of_the_routing_guide_run(own_mesh: str) -> None:
    said = ""
    for line in (line for block in blocks("bash", "docs/routing.md") for line in block.splitlines()):
        words = shlex.split(line)
        command = mlflow_deployments if words[:2] == ["mlflow", "deployments"] else mlflow_istio
        result = CliRunner().invoke(command, words[2 if command is mlflow_deployments else 1 :])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        said += result.output
    assert "dry run: nothing was changed" in said
    assert "of these the fault aborted" in said
    assert said.rstrip().endswith("nothing is over")

    (source,) = blocks("python", "docs/routing.md")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(source, "docs/routing.md", "exec"), {})
    assert "['policy', 'route', 'fault', 'fault-end', 'route', 'policy']" in output.getvalue()
