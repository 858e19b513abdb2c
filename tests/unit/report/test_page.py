"""The report is one page that stands alone, whatever is missing from the data or hostile in them."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from mlflow_istio.ports.runs import Figure
from mlflow_istio.report import Comparison, ReportData, render
from mlflow_istio.report.words import percent
from tests.support.report_data import (
    HOSTILE,
    START,
    a_change,
    a_virtual_service,
    arms,
    looks,
    promoted,
    rolled_back,
    shadow,
    traffic,
)

_VOID = {"meta", "link", "br", "img", "path"}


class Page(HTMLParser):
    """Reads a page strictly: every element that is opened must be closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data

    def charts(self) -> list[str]:
        """Ids of the charts."""
        return [str(attrs["id"]) for tag, attrs in self.tags if tag == "figure"]


def bare(**more: object) -> ReportData:
    """As little as a report can be made of."""
    values: dict[str, object] = {"endpoint": "churn", "scope": "models", "release": "r1", "made": START}
    return ReportData(**{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (promoted(20), "churn-v2 was promoted and answers users instead of churn-v1."),
        (rolled_back(), "churn-v2 was rolled back: users are back on churn-v1. It had reached 25% of the traffic."),
        (replace(rolled_back(), outcome="aborted"), "The release of churn-v2 was aborted by a person."),
        (replace(rolled_back(), outcome="superseded"), "The release of churn-v2 was superseded by another release."),
        (replace(rolled_back(), outcome="inconclusive"), "Time ran out before churn-v2 was proved good or bad"),
        (
            replace(promoted(20), outcome="", changes=promoted(20).changes[:2]),
            "is open: churn-v2 gets 25% of the traffic.",
        ),
        (shadow(), "is open: churn-v2 gets a copy of 100% of the requests."),
        (replace(shadow(), outcome="aborted"), "It only ever got copies of requests."),
        (bare(candidates=("churn-v2",)), "The release of churn-v2 is open."),
        (bare(outcome="rolled-back"), "The candidate was rolled back: users are back on the version they had before."),
    ],
)
def test_the_first_sentence_says_how_it_went(data: ReportData, sentence: str) -> None:
    assert sentence in Page(render(data)).text


def test_a_rollback_after_a_promotion_is_told_as_one() -> None:
    data = promoted(20)
    back = a_change(8, 60, "rollback", 100, 0, reason="customers complained")
    text = Page(render(replace(data, outcome="rolled-back", changes=[*data.changes, back], verdict={}))).text
    assert "churn-v2 was rolled back after its promotion: users are back on churn-v1." in text
    assert "customers complained" in text
    assert "Decided by ada." in text


def test_the_deciding_look_is_quoted_with_who_drove() -> None:
    data = rolled_back()
    text = Page(render(data)).text
    assert data.verdict["reason"] in text
    assert "Decided by the analysis, driven by ada." in text


def test_every_guard_has_its_rate_and_its_ratio_drawn() -> None:
    page = Page(render(rolled_back()))
    assert page.charts() == [
        f"chart-{name}" for name in ("weights", "evidence", "rate-0", "ratio-0", "rate-1", "ratio-1")
    ]


def test_every_arm_of_a_test_has_its_line_with_its_confidence_sequence() -> None:
    html = render(arms())
    page = Page(html)
    assert page.charts() == ["chart-weights", "chart-arms-0"]
    figure = html[html.index('id="chart-arms-0"') : html.index("</figure>", html.index('id="chart-arms-0"'))]
    names = re.findall(r"</svg><span>(.*?)</span>", figure)
    assert names == ["churn-v1", "churn-v2", "churn-v3"], "the control first"
    assert figure.count('class="band') == 3
    assert "Error rate of each arm" in figure
    assert "No looks" not in page.text
    estimates = [points[-1].value for name, points in arms().figures.items() if name.startswith("arms/errors/")]
    assert all(f"<b>{percent(value)}</b>" in figure for value in estimates)


def test_every_chart_says_in_words_what_it_shows() -> None:
    page = Page(render(rolled_back()))
    drawn = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(drawn) == 6
    assert all(len(str(attrs["aria-label"])) > 40 for attrs in drawn)
    evidence = next(str(attrs["aria-label"]) for attrs in drawn if "evidence" in str(attrs["aria-label"]))
    assert "at or above the rollback line at 20" in evidence


def test_lines_differ_by_dashes_too_not_only_by_colour() -> None:
    style = re.search(r"<style>(.*?)</style>", render(rolled_back()), re.DOTALL)
    assert style
    dashes = re.findall(r"\.s\d\{stroke:[^}]*?\}", style.group(1))
    patterns = [re.sub(r"stroke:var\(--s\d\)", "", rule.split("{")[1]) for rule in dashes]
    assert len(patterns) == len(set(patterns)) == 6


@pytest.mark.parametrize(
    "part", [field.name for field in fields(ReportData) if field.name not in ("endpoint", "scope", "release", "made")]
)
def test_any_part_may_be_missing(part: str) -> None:
    empty = {
        "strategy": "",
        "candidates": (),
        "outcome": "",
        "run": None,
        "opened": None,
        "changes": (),
        "figures": {},
        "verdict": {},
        "plan": {},
        "comparison": None,
        "before": None,
        "after": None,
        "missing": (),
    }[part]
    for data in (rolled_back(), shadow()):
        Page(render(replace(data, **{part: empty})))


def test_what_could_not_be_read_is_said() -> None:
    text = Page(render(bare(missing=("the metrics of run run1 can't be read",)))).text
    assert "the metrics of run run1 can't be read" in text
    assert "Nothing is recorded that could be drawn." in text
    assert "The registry holds no change of this release." in text


def test_a_release_moved_by_hand_says_that_there_were_no_looks() -> None:
    assert "moved by hand" in Page(render(replace(rolled_back(), figures={}, verdict={}))).text


def test_an_endpoint_that_was_deleted_is_drawn_to_its_end() -> None:
    data = rolled_back()
    gone = a_change(7, 9, "delete", 0, 0, after=None)
    page = Page(render(replace(data, outcome="aborted", changes=[*data.changes, gone])))
    assert "(no endpoint)" in page.text


def test_names_and_reasons_of_others_stay_text() -> None:
    hostile = a_change(1, 0, HOSTILE, 0, 5, who=HOSTILE, reason=HOSTILE, versions={"churn-v2": HOSTILE})
    renamed = replace(hostile, after=traffic({HOSTILE: 100}), evidence={"word": HOSTILE, "reason": HOSTILE})
    data = ReportData(
        endpoint=HOSTILE,
        scope=HOSTILE,
        release=HOSTILE,
        strategy=HOSTILE,
        candidates=(HOSTILE,),
        outcome=HOSTILE,
        run=HOSTILE,
        made=START,
        changes=[hostile, renamed],
        figures={
            f"look/{HOSTILE}/{part}": [Figure(time=START, step=1, value=0.5)]
            for part in ("candidate", "log_e", "ratio")
        },
        verdict={"word": HOSTILE, "reason": HOSTILE, "evidence": {HOSTILE: HOSTILE}},
        plan={HOSTILE: [HOSTILE]},
        comparison=Comparison(
            figures={f"shadow/{HOSTILE}": 1.0}, most_different=[(HOSTILE, 1.0, HOSTILE)], terms=HOSTILE
        ),
        before=None,
        after={**a_virtual_service(5), "spec": {"hosts": [HOSTILE]}},
        missing=(HOSTILE,),
    )
    page = Page(render(data))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "object"})
    assert HOSTILE in page.text
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    # Only text within attributes of ours may hold it.
    assert {key for _, attrs in page.tags for key, value in attrs.items() if value and HOSTILE in value} <= {
        "aria-label"
    }


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = render(rolled_back())
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_thousands_of_looks_and_changes_stay_under_500_kb() -> None:
    figures = {
        name: [
            Figure(time=START + timedelta(seconds=step), step=step, value=points[0].value + step % 7)
            for step in range(1, 5001)
        ]
        for name, points in looks(1, 0.5, 0.5).items()
    }
    for kpi in range(4):
        figures |= {name.replace("errors", f"kpi{kpi}"): points for name, points in figures.items() if "errors" in name}
    changes = [a_change(n, n, "shift", n % 100, (n + 1) % 100, reason="x" * 300) for n in range(1, 3001)]
    page = render(replace(rolled_back(), figures=figures, changes=changes))
    assert len(page.encode()) < 500_000
    assert "2800 changes in the middle are left out" in page


def test_a_look_that_a_resumed_release_wrote_again_counts_once() -> None:
    again = [
        Figure(time=START + timedelta(seconds=at), step=step, value=value)
        for at, step, value in ((1, 1, 5.0), (2, 2, 6.0), (9, 2, 7.0))
    ]
    data = bare(figures={"look/evidence": again})
    assert [(point.step, point.value) for point in data.series("look/evidence")] == [(1, 5.0), (2, 7.0)]


def test_what_is_not_finite_is_not_drawn() -> None:
    odd = [Figure(time=START, step=step, value=value) for step, value in enumerate((float("nan"), float("inf"), 0.5))]
    assert [point.value for point in bare(figures={"look/evidence": odd}).series("look/evidence")] == [0.5]


def test_the_difference_shows_the_routes_and_leaves_out_our_own_bookkeeping() -> None:
    html = render(promoted(20))
    assert (
        '<span class="del">-        subset: churn-v1</span><span class="add">+        subset: churn-v2</span>' in html
    )
    assert "mlflow-istio.org/state" not in html


def test_rendering_changes_none_of_its_data() -> None:
    data = rolled_back()
    before = repr(data)
    render(data)
    assert repr(data) == before
