"""What holds for every module, and that docs/architecture.md draws the house as it stands."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import FrameType

import pytest

from mlflow_istio.client.plugin import IstioDeploymentClient
from tests.support.in_memory import with_canary
from tests.unit.verbs.test_verbs import verbs_in

if sys.version_info >= (3, 11):
    import tomllib
else:  # the lock has it for the tools that need it there
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mlflow_istio"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MOST_LINES = 600
MOST_LINES_OF_A_FUNCTION = 80
ROOMS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]

ONE_THING_ON_SEVERAL_FLOORS = {
    "__main__.py": "python -m",
    "adoption.py": "taking over a route: the use-case, the pure function",
    "analysis.py": "options, verb and command of an analysis",
    "arms.py": "the arms of an A/B/n: the use-case, the statistics",
    "base.py": "what a room's other modules build on",
    "capacity.py": "replicas that follow the traffic: the use-case, the pure function",
    "clock.py": "the port, its in-memory twin",
    "cluster.py": "the port and its implementations",
    "comparison.py": "a shadow's comparison: the use-case, the pure function",
    "deployments.py": "verb and use-case",
    "doctor.py": "command, use-case",
    "errors.py": "the tree, and the tree as MLflow's exceptions",
    "explain.py": "command, use-case",
    "export.py": "use-case, pure function",
    "history.py": "what a version has answered: the use-case, the value",
    "kpi.py": "a KPI as an option and as a value",
    "ledger.py": "the use-case, the pipeline's step that reads it",
    "metrics.py": "the port and its implementations",
    "models.py": "the port and its implementation",
    "policy.py": "command, verb, use-case",
    "records.py": "the port and its implementation",
    "registry.py": "the port and its implementations",
    "rehearsal.py": "use-case, pure function",
    "release.py": "options, command, verb and pipeline step",
    "routes.py": "routes of one's own as an option and as a value",
    "runs.py": "the port and its implementation",
    "runtimes.py": "the kinds of model servers: command and verb",
    "scoring.py": "the port and its implementation",
    "traffic.py": "command, pipeline step, value",
}


NAMES_NOTHING = {"found", "one", "ones", "it", "its", "said", "this", "that", "these", "those"}
"""Pronouns and participles that read like names and say nothing of what they hold (CONTRIBUTING, names)."""


def bound_names(tree: ast.AST) -> set[str]:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def drawn() -> list[tuple[str, str]]:
    """The arrows of the page's drawings."""
    blocks = re.findall(r"^```mermaid\n(.*?)^```", PAGE, re.S | re.M)
    return [(left, right) for block in blocks for left, right in re.findall(r"^\s*([\w.]+) --> ([\w.]+)$", block, re.M)]


def floors() -> dict[str, dict[str, int]]:
    """Container to the floor of each of its parts, counted from the top."""
    levels: dict[str, dict[str, int]] = {}
    for contract in CONTRACTS:
        if contract["type"] == "layers":
            container = contract.get("containers", [""])[0].removeprefix("mlflow_istio.")
            levels[container] = {
                part.strip().removeprefix("mlflow_istio."): floor
                for floor, layer in enumerate(contract["layers"])
                for part in re.split(r"[:|]", layer)
            }
    return levels


def test_no_module_is_longer_than_a_person_reads() -> None:
    folders = ("mlflow_istio", "kfp_components", "tests", "examples", "benchmarks")
    modules = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 300
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    modules = [path for folder in ("mlflow_istio", "kfp_components") for path in (ROOT / folder).rglob("*.py")]
    functions = {
        f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(functions) > 3000
    assert {name: lines for name, lines in functions.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


def test_a_variable_says_what_it_holds() -> None:
    modules = [path for folder in ("mlflow_istio", "kfp_components") for path in (ROOT / folder).rglob("*.py")]
    bound = {
        str(path.relative_to(ROOT)): bound_names(ast.parse(path.read_text(encoding="utf-8"))) & NAMES_NOTHING
        for path in modules
    }
    assert len(modules) > 300
    assert {module: names for module, names in bound.items() if names} == {}


def test_nothing_lies_outside_a_room() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {"__init__.py", "errors.py", "py.typed"}
    assert [path.name for path in (PACKAGE / "core").iterdir() if path.is_file()] == ["__init__.py"]
    shared = {"__init__.py", "context.py", "reporting.py", "ledger.py", "guarded.py", "dry_run.py"}
    assert {path.name for path in (PACKAGE / "releases").iterdir() if path.is_file()} == shared
    helpers = {path.name for path in (ROOT / "tests").iterdir() if path.suffix == ".py"}
    assert helpers == {"__init__.py", "conftest.py"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_introduces_itself(room: Path) -> None:
    """What is in it, what it may import, what never comes in."""
    text = (room / "__init__.py").read_text(encoding="utf-8")
    about = re.match(r'"""(.*?)"""', text, re.S)
    assert about is not None
    assert "May import " in about[1]
    assert "Never in here: " in about[1]


def test_one_file_name_means_one_thing() -> None:
    named = defaultdict(list)
    for folder in (PACKAGE, ROOT / "kfp_components"):
        for path in folder.rglob("*.py"):
            named[path.name].append(path.relative_to(ROOT).as_posix())
    twice = {name for name, paths in named.items() if len(paths) > 1} - {"__init__.py"}
    assert twice == set(ONE_THING_ON_SEVERAL_FLOORS)


def test_no_file_repeats_the_name_of_its_room() -> None:
    prefixed = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*_*.py")
        if not path.name.startswith("_") and path.stem.split("_")[0] == path.parent.name
    ]
    assert prefixed == []


def test_every_arrow_of_the_drawing_is_allowed_and_points_down() -> None:
    levels, arrows = floors(), drawn()
    assert len(arrows) > 30
    for left, right in arrows:
        if "." in left and "." in right:
            container, above = left.split(".", 1)
            below = right.removeprefix(f"{container}.")
            assert levels[container][above] < levels[container][below], f"{left} --> {right}"
        elif left != "serving":  # it stands alone, on errors
            assert levels[""][left] < levels[""][right], f"{left} --> {right}"


def test_every_room_is_in_the_drawing_and_in_the_table() -> None:
    nodes = {node for arrow in drawn() for node in arrow}
    top = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} | {"kfp_components", "errors"}
    inside = {f"{room}.{path.name}" for room in ("core", "releases") for path in (PACKAGE / room).glob("*/")}
    inside = {name for name in inside if "__pycache__" not in name}
    assert top <= nodes
    assert inside <= nodes
    table = PAGE.partition("| room | what is in it |")[2].partition("\n\n")[0]
    assert {room for room in top - {"errors"} if f"`{room}`" not in table} == set()


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", PAGE))
    assert len(named) > 40
    gone = [name for name in named if not any((base / name).exists() for base in (PACKAGE, ROOT, ROOT / "tests"))]
    assert gone == []


def test_the_page_walks_the_way_of_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module that ``update_endpoint`` passes through is named there, and no other; only the ports are in memory."""
    walk = PAGE.partition("## The life of a weight")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([\w/]+\.py)`", walk))
    client = IstioDeploymentClient("istio-local:/never-made")
    monkeypatch.setattr(client, "_verbs", verbs_in(with_canary(5)))
    client.update_endpoint("churn", {"weight": 20})
    passed: set[str] = set()
    prefix = f"{PACKAGE}/"

    def note(frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        if file.startswith(prefix) and file not in passed and not in_memory(frame):
            passed.add(file.removeprefix(prefix))

    def in_memory(frame: FrameType | None) -> bool:
        """Whether it is a port's own work, or what the in-memory proxies answer."""
        if frame is not None and frame.f_code.co_filename.startswith(f"{prefix}testing/"):
            return True
        while frame is not None and frame.f_code.co_filename != f"{prefix}testing/routing.py":
            frame = frame.f_back
        return frame is not None

    sys.setprofile(note)
    try:
        client.update_endpoint("churn", {"weight": 10})
    finally:
        sys.setprofile(None)
    assert passed == told
