"""How hard a checkout of this repository is to enter, in figures: ``python -m benchmarks.code_figures [CHECKOUT ...]``.

One column for each checkout (this one where none is named), so that a change of shape can be seen beside the state before. It reads
sources and imports the package in processes of their own; radon, for complexity, is fetched by uv.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LONG_FUNCTION = 80
"""Lines beyond which a function counts as long."""

JSON_NAME = re.compile(r"(^|_)(to|as|from)_(json|text|tag|dict)$|^_?(write|read)_fields$")
"""Functions that turn a value into what is stored, or back, by their names."""

PRONOUNS = """
one ones its it this that these those other others another each own ours theirs both some none nobody who what whom which whose
rest same such everything nothing somebody all_ any_
"""
PARTICIPLES = """
found said told given taken gone done known kept held sent left seen made written got begun brought shown chosen drawn meant
built bound lost paid hidden broken forgotten stolen spoken worn thrown grown come become understood
"""
"""The irregular ones; whatever else ends in -ed or -ing counts, too, but for the nouns below."""
NOUNS = """
string ring ping thing king setting warning mapping encoding heading reading padding rating meaning beginning listing meeting
spelling timing ending finding routing binding opening embedding seed need feed speed bed embed shed
"""

IMPORTS = {
    "import of mlflow_istio.cli, ms": "import mlflow_istio.cli",
    "import of what one sweep needs, ms": "import mlflow_istio.cli, mlflow_istio.verbs",
    "start of the mesh's sweeper, ms": (
        "import runpy; runpy.run_path('mlflow_istio/adapters/local/sweeper.py', run_name='sweeper')"
    ),
    "import of the model server, ms": "import mlflow_istio.serving.app",
}
TIMES = 10

_IN_CHECKOUT = """
import os, sys
sys.path.insert(0, os.getcwd())
for finder in sys.meta_path:
    if "Editable" in getattr(finder, "__name__", ""):
        places = sys.modules[finder.__module__].MAPPING
        places.update({package: os.getcwd() + "/" + package.split(".")[-1] for package in places})
"""
"""The checkout, not what an editable install would fill in for it."""

_OPTIONS = """
import importlib, json, pkgutil, re
import click, pydantic
import mlflow_istio
from mlflow_istio.cli import main

for module in pkgutil.walk_packages(mlflow_istio.__path__, "mlflow_istio."):
    if module.name.split(".")[1] not in ("serving", "templates", "testing") and not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError:
            pass

def below(kind):
    for child in kind.__subclasses__():
        yield child
        yield from below(child)

models = {kind for kind in below(pydantic.BaseModel) if kind.__module__.startswith("mlflow_istio")}
fields, texts = [], {}
for model in models:
    fields += [name for name in model.__dict__.get("__annotations__", {}) if name in model.model_fields]
    for name, field in model.model_fields.items():
        if field.description:
            texts.setdefault(name, set()).add(field.description)

def plain(text):
    return re.sub(r"\\W+", " ", re.sub(r"\\[default.*", "", text or "")).strip().lower()

repeated, other = 0, 0
commands = [main]
while commands:
    command = commands.pop()
    commands += command.commands.values() if isinstance(command, click.Group) else ()
    for flag in command.params:
        if isinstance(flag, click.Option) and flag.name in texts:
            repeated += 1
            other += plain(flag.help) not in {plain(text) for text in texts[flag.name]}
print(json.dumps([len(fields), len(set(fields)), repeated, other]))
"""

_WEIGHT = """
import importlib, json

def first_of(*names):
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            pass
    raise SystemExit("none of " + ", ".join(names))

worlds = first_of("tests.support.in_memory", "tests.desks")
verbs_in = first_of("tests.unit.verbs.test_verbs", "tests.unit.test_verbs").verbs_in
client = first_of("mlflow_istio.client.plugin", "mlflow_istio.plugin").IstioDeploymentClient("istio-local:/never-made")
verbs = verbs_in(worlds.with_canary(5))
client._verbs = verbs
client.update_endpoint("churn", {"weight": 20})
prefix, modules, functions = os.getcwd() + "/mlflow_istio/", set(), set()

def in_memory(frame):
    if frame.f_code.co_filename.startswith(prefix + "testing/"):
        return True
    while frame is not None and frame.f_code.co_filename != prefix + "testing/routing.py":
        frame = frame.f_back
    return frame is not None

def note(frame, event, argument):
    file = frame.f_code.co_filename
    if event == "call" and file.startswith(prefix) and not in_memory(frame):
        modules.add(file)
        functions.add((file, frame.f_code.co_firstlineno))

sys.setprofile(note)
client.update_endpoint("churn", {"weight": 10})
sys.setprofile(None)
print(json.dumps([len(modules), len(functions)]))
"""


def sources(checkout: Path) -> dict[Path, str]:
    """Every module of the package, and its text."""
    return {path: path.read_text(encoding="utf-8") for path in sorted((checkout / "mlflow_istio").rglob("*.py"))}


def bindings(tree: ast.AST) -> Iterator[str]:
    """Every name that a module binds to a value: assigned, counted in a loop, or taken as an argument."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
            yield node.arg


def names_nothing(name: str) -> bool:
    """Whether a name is a pronoun, begins with one (``its_kind``), or is a bare participle."""
    words = name.strip("_").lower().split("_")
    if words[0] in PRONOUNS.split():
        return True
    bare = words[0]
    ends = bare.endswith(("ed", "ing")) and bare not in NOUNS.split()
    return len(words) == 1 and (bare in PARTICIPLES.split() or ends)


def read_figures(checkout: Path) -> dict[str, str]:
    """What the sources alone tell."""
    modules = {path: (text, ast.parse(text)) for path, text in sources(checkout).items()}
    lines = sum(len(text.splitlines()) for text, _ in modules.values())
    functions = [
        node
        for _, tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    length = {id(node): (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    writers = [node for node in functions if JSON_NAME.search(node.name)]
    names = [name for _, tree in modules.values() for name in bindings(tree)]
    anys = sum(
        isinstance(node, ast.Name) and node.id == "Any" for _, tree in modules.values() for node in ast.walk(tree)
    )
    return {
        "modules": f"{len(modules)}",
        "lines": f"{lines}",
        "longest module, lines": f"{max(len(text.splitlines()) for text, _ in modules.values())}",
        "functions": f"{len(functions)}",
        f"functions over {LONG_FUNCTION} lines": f"{sum(count > LONG_FUNCTION for count in length.values())}",
        "functions between values and JSON": f"{len(writers)} ({sum(length[id(node)] for node in writers)} lines)",
        "names bound": f"{len(names)}",
        "of them pronouns or participles, %": f"{100 * sum(map(names_nothing, names)) / len(names):.1f}",
        "Any per 1,000 lines": f"{1000 * anys / lines:.1f}",
    }


def answer(checkout: Path, program: str) -> Any:
    """The JSON that a program prints which runs in a process of its own, in a checkout."""
    command = [sys.executable, "-W", "ignore", "-c", _IN_CHECKOUT + program]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def asked_figures(checkout: Path) -> dict[str, str]:
    """What the package tells when it is imported: its options, and the way of a weight."""
    options, weight = answer(checkout, _OPTIONS), answer(checkout, _WEIGHT)
    if isinstance(options, str) or isinstance(weight, str):
        raise SystemExit(f"{checkout}: {options if isinstance(options, str) else weight}")
    return {
        "option fields (names)": f"{options[0]} ({options[1]})",
        "flags that repeat a field": f"{options[2]}",
        "of them with another help text": f"{options[3]}",
        "modules on the way of a weight": f"{weight[0]}",
        "functions on it": f"{weight[1]}",
    }


def complexity(checkout: Path) -> dict[str, str]:
    """Radon's cyclomatic complexity of functions and methods."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "tool", "run", "--quiet", "radon", "cc", "--json", "mlflow_istio"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    ranked = sorted(
        (block["complexity"], f"{path.removeprefix('mlflow_istio/')}:{block['name']}")
        for path, blocks in json.loads(done.stdout).items()
        for block in blocks
        if block["type"] != "class"
    )
    worst = ", ".join(f"{name} {value}" for value, name in reversed(ranked[-3:]))
    return {
        "complexity, mean": f"{sum(value for value, _ in ranked) / len(ranked):.2f}",
        "over 20": f"{sum(value > 20 for value, _ in ranked)}",
        "worst": worst,
    }


def import_times(checkouts: Sequence[Path]) -> list[dict[str, str]]:
    """The best of ten starts in each checkout, taken in turns, in time of the processor, which a busy machine changes little."""
    for checkout in checkouts:
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(checkout / "mlflow_istio")], check=True)
    best: list[dict[str, float]] = [{} for _ in checkouts]
    for label, statement in IMPORTS.items():
        program = f"import time; start = time.process_time(); {statement}; print((time.process_time() - start) * 1000)"
        for _ in range(TIMES):
            for figures, checkout in zip(best, checkouts, strict=True):
                figures[label] = min(figures.get(label, float("inf")), float(answer(checkout, program)))
    return [{label: f"{value:.1f}" for label, value in figures.items()} for figures in best]


def main(folders: Sequence[str]) -> None:
    """Print a table with a column for each checkout."""
    checkouts = [Path(folder).resolve() for folder in folders or ["."]]
    times = import_times(checkouts)
    columns = [
        {**read_figures(checkout), **complexity(checkout), **asked_figures(checkout), **figures}
        for checkout, figures in zip(checkouts, times, strict=True)
    ]
    print("| figure |", " | ".join(checkout.name for checkout in checkouts), "|")
    print("|---|" + "---|" * len(checkouts))
    for label in columns[0]:
        print(f"| {label} |", " | ".join(column[label] for column in columns), "|")


if __name__ == "__main__":
    main(sys.argv[1:])
