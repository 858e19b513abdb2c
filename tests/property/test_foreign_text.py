"""Foreign text is data in every output: terminal, tables, HTML, Markdown, YAML, PromQL and the environment of pods.

The strings come from public reports of markup and escape injection: rich's ``[/x]``, ANSI and OSC 8 sequences, Trojan Source's
signs of direction (CVE-2021-42574), Markdown links and raw HTML, spreadsheet formulas, Kubernetes' ``$(VAR)``.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from kfp_components.texts import as_cell, as_markdown
from mlflow_istio.adapters.local.workloads import resolved
from mlflow_istio.adapters.prometheus.series import envoy_families, istio_families
from mlflow_istio.cli import main
from mlflow_istio.client.display import EndpointList, History
from mlflow_istio.core.basics.yaml_text import as_yaml
from mlflow_istio.core.mesh.pods import plain_variables
from mlflow_istio.errors import InvalidInput, visible
from mlflow_istio.showing import object_tables, tables
from tests.support.in_memory import World, with_canary
from tests.support.in_memory_verbs import InMemoryVerbs

HOSTILE = (
    "[/INST]",
    "[bold red]x[/bold red]",
    "[link=https://evil.example]x[/link]",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07",
    "\x9b2J",
    "\u202edrowssap\u202c",
    "\u2066x\u2069",
    "\u200bzero\u200dwidth",
    "a\nb\rc\td\x00e\x08f",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "&lt;b&gt;",
    "{{ 7 * 7 }} {% raw %}",
    "| a | b |\n|---|---|",
    "[x](javascript:alert(1)) ![x](http://evil.example/a.png) `x` **x** ~~x~~",
    '=HYPERLINK("http://evil.example")',
    "$(AWS_SECRET) $$(X) ${Y} $Z",
    "a: b\n- c #d &e *f !!python/object:os.system",
    '"} or vector(1) #',
    "' or '1'='1",
    "%s %d {0} {x!r}",
    "é漢字😀",
)


def a_view(text: str) -> dict[str, Any]:
    """An endpoint's view, all of whose words are foreign."""
    deployment = {"name": text, "model_version": text, "role": text, "weight": 10, "ready": 0, "replicas": 1}
    return {
        "name": text,
        "url": text,
        "unreachable": text,
        "release": {
            **dict.fromkeys(("id", "strategy", "state", "opened", "who"), text),
            "candidates": [text],
        },
        "last_release": None,
        "deployments": [deployment],
        "mirrors": {text: 5.0},
        "traffic": {text: 10, text + "2": 90},
        "change": {"id": text, "sequence": 1},
        "unrecorded": 1,
    }


def a_change(text: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(("id", "action", "who", "reason", "release", "run"), text),
        "sequence": 1,
        "time": "2026-01-01T00:00:00+00:00",
        "before": None,
        "after": {text: 100},
        "mirrors": {text: 5.0},
        "added": [text],
        "removed": [text],
        "forged": False,
    }


def printed(show: Any, *arguments: Any) -> str:
    """What a terminal with colours would get."""
    out = Console(file=io.StringIO(), width=3000, force_terminal=True, color_system="truecolor", legacy_windows=False)
    show(*arguments, out)
    return str(out.file.getvalue())  # type: ignore[attr-defined]


OWN_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def check_terminal(shown: str, text: str) -> None:
    """Nothing but our own colours is left to obey, and the text stands there as it reads."""
    plain = OWN_COLOURS.sub("", shown)
    assert visible(plain, lines=True) == plain
    assert visible(text) in plain


def comparison(text: str) -> dict[str, Any]:
    names = ("pairs", "compared", "candidate_failed", "stable_failed", "both_failed", "unmatched_share")
    row = {"request_id": text, "difference": 0.5, "note": text, "stable_output": [text], "candidate_output": text}
    return {
        "verdict": {"word": text, "reason": text},
        "figures": {f"shadow/{name}": 1.0 for name in names},
        "partial": False,
        "terms": text,
        "stable": text,
        "candidate": text,
        "dropped": {text: {text: 1}},
        "most_different": [row],
    }


def arms(text: str) -> dict[str, Any]:
    arm = {"name": text, "role": text, "weight": 1, "requests": 1, "estimate": 0.5, "lower": None, "upper": None}
    return {"kpi": text, "arms": [arm], "outcome": text, "winner": text, "looks": 1, "reason": text}


def an_object(text: str) -> dict[str, Any]:
    http = [{"name": text}]
    return {"kind": "VirtualService", "metadata": {"name": text}, "spec": {"hosts": [text], "http": http}}


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_show_foreign_text_as_it_reads(text: str) -> None:
    check_terminal(printed(tables.print_status, [a_view(text), {"name": text, "problem": text}], text), text)
    check_terminal(printed(tables.print_status, [], text), text)
    check_terminal(printed(tables.print_history, text, [a_change(text)]), text)
    check_terminal(printed(tables.print_arms, arms(text)), text)
    check_terminal(printed(tables.print_comparison, comparison(text)), text)
    check_terminal(printed(object_tables.print_objects, [an_object(text)], {text: text}), text)


class Page(HTMLParser):
    """The elements of a page, and the text in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Mapping[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_html_holds_no_element_of_foreign_text(text: str) -> None:
    for make in (lambda words: History([a_change(words)], words), lambda words: EndpointList([a_view(words)])):
        page, harmless = Page(make(text)._repr_html_()), Page(make("x")._repr_html_())
        assert page.elements == harmless.elements
        shown = page.text.replace("\xa0", " ")  # ours, between name and address
        assert visible(shown, lines=True) == shown
        assert visible(text, lines=True) in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_stays_on_its_line_and_means_nothing(text: str) -> None:
    cell = as_cell(text)
    assert "\n" not in cell
    assert "<" not in cell
    assert not re.search(r"(?<!\\)[`*_\[\]|~]", cell.replace("\\\\", ""))
    table = as_markdown(text, [a_change(text)]).splitlines()
    assert len(table) == len(as_markdown("x", [a_change("x")]).splitlines())
    assert [len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in table[2:]] == [7, 7, 7]


@pytest.mark.parametrize("text", HOSTILE)
def test_yaml_is_read_back_as_it_was_and_is_harmless_on_a_terminal(text: str) -> None:
    written = as_yaml({text: [text, {"a": text}]}, {"b": text})
    assert list(yaml.safe_load_all(written)) == [{text: [text, {"a": text}]}, {"b": text}]
    assert visible(written, lines=True) == written


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\x00" not in text])
def test_a_pods_environment_arrives_as_it_was_given(text: str) -> None:
    (entry,) = plain_variables({"A": text})
    _, environment = resolved((), [("AWS_SECRET", "s3cret"), ("X", "y"), ("A", entry["value"])], {})
    assert environment["A"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_label_of_promql_stays_a_label(text: str) -> None:
    families = (*istio_families(text, [text], text, "destination_workload", "5"), *envoy_families(text, [text], "5"))
    for family in families:
        strings = re.findall(r'"(?:[^"\\]|\\.)*"', family.selector)
        outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", family.selector)
        assert re.fullmatch(r"[a-z_{}=~,]+", outside)
        assert any(text in json.loads(string) for string in strings)


def commands(text: str) -> list[list[str]]:
    """Commands that are told the text in every place where one may stand."""
    return [
        ["status", text],
        ["history", "churn"],
        ["history", text],
        ["status"],
        ["doctor"],
        ["doctor", text],
        ["promote", text],
        ["promote", "churn", "--reason", text],
        ["rollback", "churn", "--to", text],
        ["rollback", "churn", "--reason", text, "--dry-run"],
        ["delete-endpoint", text],
        ["export", "churn"],
        ["export", text],
        ["explain-route", "churn", "--path", f"/{text}", "--header", f"x-a={text}", "--host", text],
        ["explain-route", "churn", "--user", text],
        ["create-endpoint", text, "--name", text, "--model-uri", text],
        ["release", "churn", f"models:/{text}/1"],
        ["release", "churn", "-C", f"{text}={text}"],
        ["policy", "churn", "-C", f"headers={text}"],
        ["route", "churn", "--to", text],
        ["analyse", "churn", "-C", f"kpi={text}"],
        ["declare", "churn", "--winner", text],
        ["report", "churn", "--release", text],
        ["sweep", "-C", f"scope={text}"],
        ["approve", text],
        ["plan", text, "-C", f"candidate={text}"],
    ]


def told(text: str) -> World:
    """A canary that was opened by somebody of that name for that reason."""
    world = with_canary()
    InMemoryVerbs(world).update_endpoint("churn", {"weight": 20, "reason": text})
    return world


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\x00" not in text])
def test_commands_say_foreign_text_as_it_reads(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = told(text)
    for module in ("traffic", "release", "analysis", "gitops", "doctor", "explain", "policy", "report"):
        monkeypatch.setattr(
            f"mlflow_istio.cli.{module}.verbs_on",
            lambda _target: InMemoryVerbs(world),
        )
    for arguments in commands(text):
        result = CliRunner().invoke(main, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
        assert visible(result.output, lines=True) == result.output, arguments
        if result.exit_code == 1:
            assert len(result.output.strip().splitlines()) == 1, arguments


@pytest.mark.parametrize("text", ["\udcff", "a\ud800b"])
def test_half_a_character_is_refused_before_anything_is_done(text: str) -> None:
    world = with_canary()
    world.cluster.writes.clear()
    for options in ({"weight": 50, "reason": text}, {"action": "promote", "reason": text}):
        with pytest.raises(InvalidInput, match="reason"):
            InMemoryVerbs(world).update_endpoint("churn", options)
    assert world.cluster.writes == []
