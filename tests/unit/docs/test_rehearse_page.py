"""What docs/rehearse.md shows is so: its commands run on a world in memory, its code as it stands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_istio.cli import main
from mlflow_istio.cli import release as commands
from tests.support.in_memory import a_world
from tests.support.in_memory_verbs import InMemoryVerbs, Surroundings, everything
from tests.unit.verbs.test_every_verb import answered

PAGE = (Path(__file__).parents[3] / "docs" / "rehearse.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


def test_its_commands_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    around = Surroundings(world=a_world("churn-v1"))
    around.metrics.past["churn-v1"] = answered(720)
    monkeypatch.setattr(commands, "verbs_on", lambda _target: InMemoryVerbs(around))
    monkeypatch.setenv("MLFLOW_ISTIO_RUNS", "2")
    monkeypatch.chdir(tmp_path)
    before = everything(around.world)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        program, *arguments = shlex.split(
            re.sub(r"--runs \d+", "--runs 2", line.replace("--horizon 7200", "--horizon 900"))
        )
        assert program == "mlflow-istio"
        result = CliRunner().invoke(main, [*arguments, *(() if "--horizon" in line else ("--horizon", "900"))])
        assert result.exit_code == 0, result.output
        if "--json" in line:
            assert json.loads(result.output)["cases"][0]["runs"] == 2
        else:
            assert "errors, odds x4" in result.output
    assert (tmp_path / "rehearsal.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert everything(around.world) == before


def test_its_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "docs/rehearse.md", "exec"), {})
    assert capsys.readouterr().out.startswith("rolled-back ")
