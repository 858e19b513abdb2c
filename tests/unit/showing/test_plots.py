"""A history drawn: one line for each deployment that had traffic, in a file that is what its name says."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_istio.cli import main
from mlflow_istio.errors import InvalidInput, Unsupported
from mlflow_istio.releases.reading.views import history_views
from mlflow_istio.showing.plots import check_plot, plot_history, plot_rehearsal
from tests.support.report_data import HOSTILE, a_change, promoted, traffic

CHANGES = history_views(promoted(20).changes)


def _text(svg: bytes) -> str:
    return "".join(ET.fromstring(svg).itertext())


def test_every_deployment_has_a_line_that_ends_where_it_stands() -> None:
    axes = plot_history("churn", CHANGES).figure.axes[0]
    assert [line.get_label() for line in axes.get_lines()[:2]] == ["churn-v1 (0%)", "churn-v2 (100%)"]
    assert [list(line.get_ydata()) for line in axes.get_lines()[:2]] == [[95, 75, 50, 0, 0], [5, 25, 50, 100, 100]]


def test_a_value_holds_until_the_next_change() -> None:
    assert all(
        line.get_drawstyle() == "steps-post" for line in plot_history("churn", CHANGES).figure.axes[0].get_lines()[:2]
    )


def test_lines_differ_by_dashes_too_not_only_by_colour() -> None:
    weights = {f"v{number}": weight for number, weight in enumerate((20, 20, 20, 20, 10, 10))}
    changes = history_views([a_change(1, 0, "shift", 0, 0, after=traffic(weights))])
    axes = plot_history("churn", changes).figure.axes[0]
    assert len({str(line._dash_pattern) for line in axes.get_lines()[:6]}) == 6


def test_what_was_done_is_written_into_the_plot(tmp_path: Path) -> None:
    text = _text(plot_history("churn", CHANGES).save(tmp_path / "h.svg").read_bytes())
    assert all(word in text for word in ("start", "shift", "promote", "churn-v2 (100%)", "Traffic of endpoint churn"))


@pytest.mark.parametrize(("file", "start"), [("h.png", b"\x89PNG"), ("h.SVG", b"<?xml")])
def test_a_file_is_what_its_name_says(tmp_path: Path, file: str, start: bytes) -> None:
    assert plot_history("churn", CHANGES).save(tmp_path / file).read_bytes().startswith(start)


def test_names_of_others_stay_text(tmp_path: Path) -> None:
    odd = f"$x^2$ _{HOSTILE}"
    changes = history_views([a_change(1, 0, odd, 0, 0, after=traffic({"_hidden": 60, odd: 40}))])
    text = _text(plot_history(odd, changes).save(tmp_path / "h.svg").read_bytes())
    assert "_hidden (60%)" in text
    assert f"{odd} (40%)" in text


def test_a_deleted_endpoint_and_a_long_history_are_drawn() -> None:
    gone = a_change(8, 90, "delete", 0, 0, after=None)
    many = [a_change(n, n, "shift", 0, n % 100) for n in range(1, 300)]
    for changes in ([*promoted(20).changes, gone], many):
        assert plot_history("churn", history_views(changes)).image("svg")


def test_a_plot_shows_itself_in_a_notebook() -> None:
    plot = plot_history("churn", CHANGES)
    assert plot._repr_svg_().lstrip().startswith("<?xml")
    assert plot._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("file", ["h.gif", "h", ".svg"])
def test_another_kind_of_file_is_refused_before_anything_is_read(file: str) -> None:
    with pytest.raises(InvalidInput, match=r"must end with \.svg or \.png"):
        check_plot(file)
    answer = CliRunner().invoke(main, ["history", "churn", "--plot", file])
    assert answer.exit_code == 1
    assert answer.output.strip().endswith("must end with .svg or .png")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.dates", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(Unsupported, match=r"pip install 'mlflow-istio\[plot\]'"):
        plot_history("churn", CHANGES)
    with pytest.raises(Unsupported, match=r"pip install 'mlflow-istio\[plot\]'"):
        plot_rehearsal({})


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no history to plot"):
        plot_history("churn", [])


def test_a_file_that_cant_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none/h\.svg"):
        plot_history("churn", CHANGES).save(tmp_path / "none" / "h.svg")


def test_a_rehearsal_draws_when_releases_end() -> None:
    cases = [
        {"odds": 1.0, "runs": 4, "seconds": [600.0, 900.0, 1200.0], "rolled_back": {"share": 0.25, "error": 0.2}},
        {"odds": 4.0, "runs": 4, "seconds": [], "rolled_back": {"share": 0.0, "error": 0.0}},
    ]
    axes = plot_rehearsal({"endpoint": "churn$", "horizon": 3600.0, "cases": cases}).figure.axes[0]
    equal, worse = axes.get_lines()
    assert list(equal.get_xdata()) == [0, 10, 15, 20, 60]
    assert list(equal.get_ydata()) == [0, 25, 50, 75, 75]
    assert list(worse.get_ydata()) == [0, 0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "the same version: promoted",
        "errors, odds x4: rolled back",
    ]
    assert "25.0% of equal versions rolled back" in axes.get_title(loc="left")


def test_a_folder_that_is_not_there_is_said_before_anything_is_reckoned(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="can't be written to '.*/none/h.svg': there is no folder '.*/none'"):
        check_plot(str(tmp_path / "none" / "h.svg"))
    (tmp_path / "h.svg").mkdir()
    with pytest.raises(InvalidInput, match="it is a folder"):
        check_plot(str(tmp_path / "h.svg"))
    check_plot(str(tmp_path / "new.svg"))
