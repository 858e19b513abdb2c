"""The report in a real browser, and in MLflow's own UI from its own server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.releases.deploying.deployments import deploy
from mlflow_istio.releases.moving import shifting
from mlflow_istio.report import ReportData, render
from tests.support import report_data
from tests.support.chromium import Browser, chromium
from tests.support.in_memory import World, a_request
from tests.support.mlflow_addresses import mlflow_at
from tests.support.mlflow_server import tracking_server
from tests.support.registered_models import register

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

WIDE, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def shown(browser: Browser, data: ReportData, folder: Path, *, phone: bool = False, dark: bool = False) -> str:
    """Open a report; its address."""
    file = folder / "report.html"
    file.write_text(render(data), encoding="utf-8")
    browser.resize(*(PHONE if phone else WIDE), phone=phone, dark=dark)
    browser.complaints.clear()
    browser.asked.clear()
    browser.open(file.as_uri())
    return file.as_uri()


def hostile() -> ReportData:
    """A report whose names and reasons try to break out."""
    bad = report_data.HOSTILE
    changes = [replace(change, reason=bad, who=bad) for change in report_data.rolled_back().changes]
    return replace(report_data.rolled_back(), endpoint=bad, candidates=(bad,), changes=changes, missing=(bad,))


PAGES = {
    "rolled back": report_data.rolled_back(),
    "promoted": report_data.promoted(60),
    "shadow": report_data.shadow(),
    "arms": report_data.arms(),
    "hostile": hostile(),
    "bare": ReportData(endpoint="churn", scope="models", release="r1", made=report_data.START),
    "long names": replace(
        report_data.rolled_back(),
        endpoint="e" * 63,
        candidates=("c" * 63,),
        changes=[replace(c, who="w" * 300, reason="r" * 300) for c in report_data.rolled_back().changes],
    ),
}


@pytest.mark.parametrize("phone", [False, True], ids=["wide", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_stands_alone_and_fits_its_window(browser: Browser, tmp_path: Path, page: str, phone: bool) -> None:
    address = shown(browser, PAGES[page], tmp_path, phone=phone)
    assert browser.complaints == []
    assert set(browser.asked) <= {address, "data:,"}
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.evaluate("document.querySelector('h1').getBoundingClientRect().height") > 20
    assert browser.evaluate("document.scripts.length") == 0


@pytest.mark.parametrize("phone", [False, True], ids=["wide", "phone"])
def test_every_chart_is_drawn_inside_its_frame_and_its_labels_do_not_cover_each_other(
    browser: Browser, tmp_path: Path, phone: bool
) -> None:
    shown(browser, PAGES["promoted"], tmp_path, phone=phone)
    charts = json.loads(browser.evaluate(_CHARTS))
    assert [chart["id"] for chart in charts] == [
        f"chart-{name}" for name in ("weights", "evidence", "rate-0", "ratio-0", "rate-1", "ratio-1")
    ]
    for chart in charts:
        assert chart["width"] >= 230, chart
        assert chart["height"] >= 150, chart
        assert chart["lines"], chart
        assert all(line["wide"] > 0.3 and line["inside"] for line in chart["lines"]), chart
        assert chart["overlaps"] == 0, chart
        assert len(chart["ticks"]) >= 4, chart


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", ["rolled back", "promoted", "shadow"])
def test_all_text_has_the_contrast_that_wcag_asks_for(browser: Browser, tmp_path: Path, page: str, dark: bool) -> None:
    shown(browser, PAGES[page], tmp_path, dark=dark)
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(16, 21, 27)") == dark
    assert json.loads(browser.evaluate(_FAINT)) == []


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """A tracking server with a release that was rolled back: its address, the experiment, the run."""
    import mlflow

    from mlflow_istio.adapters.mlflow.registry import MlflowRegistry
    from mlflow_istio.adapters.mlflow.runs import MlflowRuns

    with tracking_server(tmp_path_factory.mktemp("server")) as uri, mlflow_at(uri):
        for answer in (1.0, 2.0):
            register(uri, "churn", answer, None)
        world = World()
        context = replace(world.context, registry=MlflowRegistry(uri, uri), runs=MlflowRuns(uri, uri))
        deploy(context, a_request("churn-v1"))
        deploy(context, a_request("churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=10)))
        shifting.rollback(context, "churn", reason="seen <b>errors</b>")
        assert not world.warnings
        run = str(context.registry.history("prod", "churn")[-1].run)
        yield uri, mlflow.MlflowClient(uri, uri).get_run(run).info.experiment_id, run


def test_mlflows_own_ui_shows_the_report_of_the_release(browser: Browser, released: tuple[str, str, str]) -> None:
    uri, experiment, run = released
    browser.resize(*WIDE)
    browser.asked.clear()
    browser.open(f"{uri}/#/experiments/{experiment}/runs/{run}/artifacts/report.html")
    browser.wait("document.querySelector('iframe[src^=\"blob:\"]')?.clientHeight > 300")
    page = browser.evaluate("fetch(document.querySelector('iframe').src).then(answer => answer.text())")
    assert "churn-v2 was rolled back: users are back on churn-v1. It had reached 10% of the traffic." in page
    assert "seen &lt;b&gt;errors&lt;/b&gt;" in page
    assert any("get-artifact" in address and run in address for address in browser.asked)


def test_the_difference_of_a_real_object_is_in_the_report(released: tuple[str, str, str]) -> None:
    from mlflow_istio.adapters.mlflow.runs import MlflowRuns

    uri, _, run = released
    page = str(MlflowRuns(uri, uri).text(run, "report.html"))
    assert '<span class="del">-' in page
    assert '<span class="add">+' in page
    assert "What this report could not read" not in page


_CHARTS = """
JSON.stringify([...document.querySelectorAll('figure.chart')].map(figure => {
  const area = figure.querySelector('svg.area'), frame = area.getBoundingClientRect();
  const boxes = [...figure.querySelectorAll('.x span, .y span')]
    .filter(label => getComputedStyle(label).visibility !== 'hidden').map(label => label.getBoundingClientRect());
  const cover = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return {
    id: figure.id, width: frame.width, height: frame.height, ticks: boxes.map(box => box.left),
    overlaps: boxes.filter((a, i) => boxes.some((b, j) => j > i && cover(a, b))).length,
    lines: [...area.querySelectorAll('path.line')].map(path => {
      const box = path.getBBox();
      return {wide: box.width / 1000,
              inside: box.x >= -1 && box.y >= -1 && box.x + box.width <= 1001 && box.y + box.height <= 1001};
    }),
  };
}))
"""

_FAINT = """
(() => {
  const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll('main *')) {
    if (element.closest('svg') || !element.checkVisibility()) continue;
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const [a, b] = [light(channels(getComputedStyle(element).color)), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push([element.outerHTML.slice(0, 80), contrast]);
  }
  return JSON.stringify(faint);
})()
"""
