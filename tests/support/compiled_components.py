"""Write kfp_components/compiled/NAME.yaml, for pipelines that load a component from a file: ``make components``.

With them goes docs/components.md, which says what each component takes and gives.
The files are made, never edited: ``tests/unit/kfp_components/test_compiled.py`` fails when they are behind the components.
"""

import inspect
import tempfile
from pathlib import Path
from typing import Any

import kfp_components

FOLDER = Path(kfp_components.__file__).parent / "compiled"
PAGE = Path(__file__).parents[2] / "docs" / "components.md"
HEAD = """\
# Components

Made by `make components` from the components themselves; how to use them is in [kfp.md](kfp.md). A parameter without a default
must be given; an empty text and -1 mean "not given". What goes into `options` is in [options.md](options.md).
"""


def compiled() -> dict[str, str]:
    """File name to the component's YAML."""
    from kfp import compiler

    texts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in kfp_components.__all__:
            file = Path(folder) / f"{name}.yaml"
            compiler.Compiler().compile(getattr(kfp_components, name), str(file))
            texts[file.name] = _uncached(file.read_text(encoding="utf-8"))
    return texts


def _uncached(text: str) -> str:
    """The component's YAML, so that no pipeline that loads it is served from a cache.

    A task of a pipeline has its flag from the pipeline, never from the file that a component was loaded from
    (``PipelineTask.__init__``). Only a component that is a pipeline of its own brings flags with it, those of its steps
    (``Implementation.from_pipeline_spec_dict``: one without an executor of its own name), and runners cache steps, not pipelines
    (``driver/container.go``, ``local/orchestrator/task_executor.py``). An exit handler gets its status as a step of its own alone;
    no two runs give it the same one.
    """
    import yaml

    comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    spec = yaml.safe_load(text)
    name = spec["pipelineInfo"]["name"]
    (task,) = spec["root"]["dag"]["tasks"].values()
    task["cachingOptions"] = {"enableCache": False}
    inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if all(parameter["parameterType"] != "TASK_FINAL_STATUS" for parameter in inputs.values()):
        for part, start in ((spec["components"], "comp-"), (spec["deploymentSpec"]["executors"], "exec-")):
            part[f"{start}run"] = part.pop(f"{start}{name}")
        spec["components"]["comp-run"]["executorLabel"] = "exec-run"
        task["componentRef"]["name"] = "comp-run"
        task["taskInfo"]["name"] = "run"
        spec["root"]["dag"]["tasks"] = {"run": task}
        for outputs in spec["root"]["dag"].get("outputs", {}).values():
            for output in outputs.values():
                for selector in output.get("artifactSelectors", [output.get("valueFromParameter")]):
                    selector["producerSubtask"] = "run"
    return comments + yaml.dump(spec, sort_keys=True)


def page() -> str:
    """Every component with its parameters and outputs, as Markdown."""
    return HEAD + "".join(_section(name, getattr(kfp_components, name)) for name in kfp_components.__all__)


def _section(name: str, component: Any) -> str:
    about, _, rest = inspect.getdoc(component.python_func).partition("\n\nArgs:\n")
    arguments, returned = (_meanings(part) for part in rest.partition("\n\nReturns:\n")[::2])
    rows = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for key, value in component.component_spec.inputs.items():
        if value.type != "PipelineTaskFinalStatus":  # KFP gives it
            default = f"`{value.default!r}`" if value.optional else ""
            rows.append(f"| `{key}` | {value.type} | {default} | {arguments[key]} |")
    rows += ["", "| output | type | meaning |", "|---|---|---|"]
    for key, value in component.component_spec.outputs.items():
        kind = value.type.removeprefix("system.").partition("@")[0]
        rows.append(f"| `{key}` | {kind} | {returned[key] if key in returned else arguments[key]} |")
    return f"\n## {name}\n\n{about}\n\n" + "\n".join(rows) + "\n"


def _meanings(text: str) -> dict[str, str]:
    """What a part of a Google docstring says of each name; a single returned value is called ``Output``."""
    named: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        key, colon, said = line.partition(": ")
        named.update({key: said} if colon and key.isidentifier() else {"Output": line})
    return named


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in compiled().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{FOLDER.name}/{name}: {len(text.splitlines())} lines")
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name}: {len(kfp_components.__all__)} components")


if __name__ == "__main__":
    main()
