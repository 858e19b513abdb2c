"""What docs/kfp.md shows compiles as it stands, and the errors are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp import compiler, dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.graph_component import GraphComponent

from kfp_components import set_traffic

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "kfp.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.S | re.M)


@pytest.mark.parametrize("snippet", blocks("python"))
def test_a_snippet_of_the_page_runs(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "snippet.py"
    script.write_text(snippet, encoding="utf-8")
    names: dict[str, object] = {"__name__": "snippet"}
    exec(compile(snippet, str(script), "exec", dont_inherit=True), names)
    made = [thing for thing in names.values() if isinstance(thing, GraphComponent)]
    for pipeline in made:
        compiler.Compiler().compile(pipeline, str(tmp_path / "pipeline.yaml"))
        assert yaml.safe_load((tmp_path / "pipeline.yaml").read_text(encoding="utf-8").partition("\n---\n")[0])["root"]
    assert made or isinstance(names["promote"], BaseComponent)


def test_every_pipeline_that_the_page_names_compiles(tmp_path: Path) -> None:
    (commands,) = blocks("bash")
    examples = sorted(path.name for path in (ROOT / "examples").glob("*_pipeline.py"))
    assert re.findall(r"python examples/(\S+) compile\n", commands) == examples, "none is left out"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line in commands.splitlines():
        subprocess.run([sys.executable, *line.split()[1:]], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert len(list(tmp_path.glob("*_pipeline.yaml"))) == len(examples)


def test_the_pages_error_is_what_a_wrong_constant_says() -> None:
    (said,) = blocks("text")

    with pytest.raises(ValueError, match="weight") as caught:

        @dsl.pipeline(name="wrong")
        def wrong():
            set_traffic(target="istio-local", endpoint="churn", weight=101)

    assert f"ValueError: {caught.value}" == said.strip()
