"""A package that is installed beside ours brings a source of figures; nothing of ours names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_istio.core.analysis.measures import is_series
from mlflow_istio.core.analysis.source_names import GROUP
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.errors import InvalidInput, MetricsError
from mlflow_istio.options.release import ReleaseOptions
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.testing import InMemoryCluster
from mlflow_istio.wiring.sources import metrics_source
from tests.unit.adapters.figures import toy_source

HERE = "tests.unit.adapters.figures.toy_source"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves behind of such a package."""
    info = tmp_path / "toy_source-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-source\nVersion: 1.0\n")
    points = {
        "toy": f"{HERE}:make_toy",
        "nothing": f"{HERE}:make_nothing",
        "trouble": f"{HERE}:make_trouble",
        "text": f"{HERE}:NOT_A_FACTORY",
        "gone": f"{HERE}:no_such",
        "broken": "no_such_module:make",
        "leaving": f"{HERE}:make_leaving",
        "prometheus": f"{HERE}:make_toy",
    }
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    toy_source.SAYS.clear()
    toy_source.ASKED.clear()


def source(name: str, **how: Any) -> Metrics:
    made = metrics_source("istio", InMemoryCluster(), name, **how)
    assert made is not None
    return made


def test_it_is_asked_for_what_the_release_wants_and_counts_as_any_other() -> None:
    toy_source.SAYS["v1"] = {"api": {"requests": 10, "errors": 1, "le/250": 9, "le/+Inf": 10}}
    toy = source("toy", errors="4xx+5xx", chosen=True)
    (asked,) = toy_source.ASKED
    assert (asked.target, asked.errors, asked.chosen) == ("istio", "4xx+5xx", True)
    assert toy.name == "Toy at https://toy.example"
    assert toy.read("churn", ("v1", "v2")) == {
        "v1": {"api": {"requests": 10.0, "errors": 1.0, "le/250": 9.0, "le/+Inf": 10.0}}
    }
    assert toy.history("churn", "v1", 60, 10) == [toy.read("churn", ("v1",))["v1"]] * 3  # type: ignore[attr-defined]


def test_numpys_counters_are_counters() -> None:
    toy_source.SAYS["v1"] = {"api": {"requests": np.int64(10), "le/+Inf": np.float32(10)}}
    assert source("toy").read("churn", ("v1",)) == {"v1": {"api": {"requests": 10.0, "le/+Inf": 10.0}}}


def test_deployments_that_nobody_asked_for_are_left_out_and_kpis_stand_beside() -> None:
    toy_source.SAYS.update(v1={"api": {"requests": 10}}, v9={"api": {"requests": 99}})
    bought = Kpi(name="bought", better="higher", call=lambda name: (4, 1))
    assert source("toy", kpis=(bought,)).read("churn", ("v1",)) == {
        "v1": {"api": {"requests": 10.0}, "kpi bought": {"kpi/bought/n": 4.0, "kpi/bought/events": 1.0}}
    }


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (
            RuntimeError("429 Too Many\nRequests"),
            "Toy at https://toy.example failed: RuntimeError: 429 Too Many Requests",
        ),
        (None, "can't be read: it must be {source: {series: counter}}"),
        ({"api": 7}, "can't be read: it must be {source: {series: counter}}"),
        ({"api": {"request": 1}}, "there is no series 'request'"),
        ({"api": {"requests": -1}}, "requests is -1, no finite counter >= 0"),
        ({"api": {"requests": float("nan")}}, "requests is nan, no finite counter"),
        ({"api": {"requests": "10"}}, "requests is '10', no finite counter"),
        ({"api": {"errors": True}}, "errors is True, no finite counter"),
        ({"api": {"requests": 10**400}}, "requests is 1000"),
    ],
)
def test_what_it_says_is_foreign(said: Any, complaint: str) -> None:
    toy_source.SAYS["v1"] = said
    with pytest.raises(MetricsError) as refused:
        source("toy").read("churn", ("v1",))
    assert complaint in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("toyy", "unknown metrics 'toyy': did you mean 'toy'?"),
        ("nothing", "makes a str, which has no name, counts_chosen or read"),
        ("trouble", "makes no source: KeyError: 'TOY_API_KEY'"),
        ("text", "makes no source: TypeError"),
        ("gone", "can't be loaded: AttributeError"),
        ("broken", "can't be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("leaving", "makes no source: SystemExit: no licence"),
    ],
)
def test_what_can_not_be_used_is_named(name: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        source(name)
    assert complaint in refused.value.message


def test_options_take_its_name_and_refuse_one_that_nobody_brings() -> None:
    assert ReleaseOptions(metrics="toy").metrics == "toy"
    with pytest.raises(ValueError, match="unknown metrics 'datadgo'"):
        ReleaseOptions(metrics="datadgo")


def test_nobody_takes_the_place_of_a_source_of_ours() -> None:
    with pytest.raises(InvalidInput, match="no source of metrics: set prometheus_url"):
        source("prometheus")


def test_the_names_of_series_are_those_of_the_table() -> None:
    known = ("requests", "le/0.5", "le/+Inf", "ttft/100", "streams/n", "kpi/a.b-c/sum_squares")
    assert all(map(is_series, known))
    assert not any(map(is_series, ("Requests", "le/", "le/-1", "le/1e3", "kpi/a/b", "kpi//n", "streams/m", 5, None)))
