"""``make test`` goes on after a failed suite and tells all of it at the end: shown with a real make and a real pytest."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.run_suites import STAGES, Outcome, Runner, Suite, cases_of, closing_line, summary

MAKEFILE = """
good bad empty:
\t"{python}" -m pytest -p no:cacheprovider -p no:randomly --junitxml="$(RESULTS)" test_$@.py
lint:
\t@echo all is tidy
broken:
\t@echo no such machine; exit 3
polite:
\t@for i in $$(seq 100); do [ "$$(nice)" -ge 10 ] && exit; sleep 0.1; done; exit 1
endless:
\t@touch started; exec sleep 600
"""
TESTS = {
    "good": "class TestIt:\n    def test_holds(self): pass\n",
    "bad": "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_odd(n): assert n % 2\n",
    "empty": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with a Makefile and small suites, in a path with a space."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    (folder / "Makefile").write_text(MAKEFILE.format(python=sys.executable), encoding="utf-8")
    for name, source in TESTS.items():
        (folder / f"test_{name}.py").write_text(source, encoding="utf-8")
    return folder


def run(folder: Path, *stages: str, places: int = 2) -> tuple[dict[str, Outcome], list[str]]:
    """The outcomes by suite, and all that was said, for stages such as ``good bad``; a dot marks a suite without tests."""
    said: list[str] = []
    runner = Runner("make", folder, folder / "results", places=places, say=said.append)
    suites = [
        [Suite(name=word.rstrip("."), has_tests=not word.endswith(".")) for word in stage.split()] for stage in stages
    ]
    outcomes = runner.run(suites)
    return {outcome.suite.name: outcome for outcome in outcomes}, said


def test_make_test_runs_every_suite_of_the_makefile() -> None:
    suites, target = set(), ""
    for line in (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8").splitlines():
        target = line.partition(":")[0] if re.match(r"[a-z0-9-]+:", line) else target
        if line.startswith("\t") and ("$(PYTEST)" in line or "$(RESULTS)" in line):
            suites.add(target)
    rewriting = {"golden-update", "corpus-update"}
    assert suites - rewriting == {suite.name for stage in STAGES for suite in stage if suite.has_tests}


def test_a_suite_that_only_computes_leaves_the_processors_to_the_others(folder: Path) -> None:
    runner = Runner("make", folder, folder / "results", places=1, say=lambda _: None)
    (outcome,) = runner.run([[Suite(name="polite", has_tests=False, yields=True)]])
    assert outcome.verdict == "passed"


def test_it_goes_on_after_a_failed_suite_and_names_every_failed_test(folder: Path) -> None:
    outcomes, said = run(folder, "broken.", "bad good", places=1)

    assert {name: outcome.verdict for name, outcome in outcomes.items()} == {
        "broken": "failed",
        "bad": "failed",
        "good": "passed",
    }
    lines = summary(list(outcomes.values()))
    assert "FAILED  bad  test_bad.py::test_odd[2]" in lines
    assert not any("test_odd[1]" in line for line in lines if line.startswith("FAILED"))
    assert "FAILED  broken  see its output above" in lines
    assert lines[-1] == "make test: not passed: broken (failed), bad (failed)"


def test_the_closing_line_of_every_suite_is_in_the_output_and_in_the_summary(folder: Path) -> None:
    outcomes, said = run(folder, "lint. good bad")

    lines = "\n".join(summary(list(outcomes.values())))
    for words in ("1 passed in", "1 failed, 1 passed in", "all is tidy"):
        assert words in "\n".join(said)
        assert words in lines


def test_a_suite_none_of_whose_tests_ran_is_said(folder: Path) -> None:
    outcomes, _ = run(folder, "broken empty good")

    assert outcomes["broken"].verdict == outcomes["empty"].verdict == "never ran"
    assert summary(list(outcomes.values()))[-1] == "make test: not passed: broken (never ran), empty (never ran)"


def test_a_suite_that_the_machine_cannot_have_is_said_and_fails_nothing(folder: Path) -> None:
    def outcome_of(suite: Suite) -> Outcome:
        said: list[str] = []
        (outcome,) = Runner("make", folder, folder / "results", places=1, say=said.append).run([[suite]])
        assert (outcome.verdict == "left out") == any("good LEFT OUT: " in line for line in said)
        return outcome

    def command(code: int) -> tuple[str, ...]:
        return (sys.executable, "-c", f"print('first'); print('no cgroups here'); raise SystemExit({code})")

    lacking, late = outcome_of(Suite(name="good", unless=command(2))), outcome_of(Suite(name="good", within=-1))
    assert lacking.left_out == "no cgroups here"
    assert late.left_out is not None
    assert summary([lacking])[-2:] == [
        "NOT RUN  good  no cgroups here",
        "make test: all suites passed but good, NOT RUN",
    ]
    assert outcome_of(Suite(name="good", unless=command(0), within=600)).verdict == "passed"


def test_the_slowest_tests_come_first_by_names_that_pytest_takes(folder: Path) -> None:
    outcomes, _ = run(folder, "good bad")

    table = summary(list(outcomes.values()))
    assert table[0].startswith("The 10 slowest tests")
    seconds = [float(line.split()[0]) for line in table[1:4]]
    assert seconds == sorted(seconds, reverse=True)
    names = {case.name for outcome in outcomes.values() for case in outcome.cases or ()}
    assert names == {"test_good.py::TestIt::test_holds", "test_bad.py::test_odd[1]", "test_bad.py::test_odd[2]"}


def test_an_interrupt_ends_what_runs_and_says_what_never_ran(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.support import run_suites as r\n"
        "r.ROOT = Path(sys.argv[1])\n"
        "r.STAGES = ((r.Suite(name='endless'),), (r.Suite(name='good'),))\n"
        "sys.exit(r.main([]))\n"
    )
    root = Path(__file__).parents[2]
    # As a shell starts what it runs in the background: with SIGINT ignored.
    command = ["sh", "-c", 'trap \'\' INT; exec "$0" "$@"', sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not (folder / "started").exists():
                assert time.monotonic() < deadline, "the suite never started"
                time.sleep(0.05)

            process.send_signal(signal.SIGTERM)

            output = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert process.returncode == 1
    assert "make test: not passed: endless (interrupted), good (never ran)" in output


def test_results_that_were_cut_off_count_as_none(tmp_path: Path) -> None:
    (tmp_path / "cut.xml").write_text("<testsuites><testsuite><testcase ", encoding="utf-8")

    assert cases_of(tmp_path / "cut.xml") is None
    assert cases_of(tmp_path / "missing.xml") is None


def test_what_make_says_last_is_not_the_closing_line() -> None:
    assert closing_line("2 failed in 3 s\nmake: *** [Makefile:50: e2e] Error 1\n\n") == "2 failed in 3 s"
