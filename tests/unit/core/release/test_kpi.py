"""A KPI says what it is, or is refused by name."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest

from mlflow_istio.core.analysis.measures import KpiCounts
from mlflow_istio.core.release.kpi import Kpi, check_placeholders, counts_from, filled_query
from mlflow_istio.errors import InvalidInput

N = 'visits_total{version="$deployment"}'


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ({}, "needs queries"),
        ({"n": N}, "give n and events"),
        ({"n": N, "events": N, "sum": N}, "give n and events"),
        ({"n": N, "events": "sold_total"}, "does not hold \\$deployment"),
        ({"n": N, "events": 'sold{v="$deploment"}'}, "unknown placeholder '\\$deploment'.*deployment"),
    ],
)
def test_queries_that_can_tell_nothing_are_refused(queries: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Kpi(name="sold", queries=queries)


def test_queries_and_a_callable_are_one_too_many() -> None:
    with pytest.raises(InvalidInput, match="give one of them"):
        Kpi(name="sold", queries={"n": N, "events": N}, call=lambda _deployment: None)


def test_placeholders_are_filled_and_other_dollars_stay() -> None:
    query = 'label_replace(sold{v="$deployment",e="${endpoint}",p=~"a$"}, "x", "$1", "y", "(.*)")'
    assert check_placeholders(query, "it") == {"deployment", "endpoint"}
    filled = filled_query(query, {"deployment": "m-v1", "endpoint": "m", "namespace": "models"})
    assert filled == 'label_replace(sold{v="m-v1",e="m",p=~"a$"}, "x", "$1", "y", "(.*)")'


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (None, None),
        ((10, 3), KpiCounts(n=10.0, events=3.0)),
        ([10, 3.0], KpiCounts(n=10.0, events=3.0)),
        ((2, 5.0, 13.0), KpiCounts(n=2.0, total=5.0, squares=13.0)),
        ((np.int64(10), np.uint8(3)), KpiCounts(n=10.0, events=3.0)),
        ((np.float32(10), Decimal(3)), KpiCounts(n=10.0, events=3.0)),
    ],
)
def test_what_a_callable_may_give(answer: object, counts: KpiCounts | None) -> None:
    assert counts_from("sold", answer) == counts


@pytest.mark.parametrize(
    "answer",
    [
        3,
        "10",
        (1,),
        (1, 2, 3, 4),
        ("a", "b"),
        (True, False),
        (3, 5),
        (-1, 0),
        (2, math.nan),
        (2, -5.0, 13.0),
        (10**400, 1),
        np.array([1, 2]),
    ],
)
def test_what_it_may_not_give_is_refused_by_the_kpis_name(answer: object) -> None:
    with pytest.raises(InvalidInput, match="KPI 'sold'"):
        counts_from("sold", answer)
