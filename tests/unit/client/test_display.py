"""What the client returns is plain data that a notebook can show, whatever its names hold."""

from __future__ import annotations

import json
import pickle
from html.parser import HTMLParser
from typing import Any

import pytest

from mlflow_istio.client.display import (
    DeploymentList,
    DeploymentView,
    EndpointList,
    EndpointView,
    History,
    ReleaseView,
    ReportPage,
    view_of,
)
from mlflow_istio.releases.reading.views import deployment_view, endpoint_view, history_views
from mlflow_istio.report import render
from tests.support.in_memory import with_canary
from tests.support.report_data import HOSTILE, a_change, promoted, rolled_back

WORLD = with_canary()
ENDPOINT = endpoint_view(WORLD.cluster, "churn")
DEPLOYMENT = deployment_view(WORLD.cluster, "churn-v2")
ENDED = {**ENDPOINT, "outcome": "promoted", "verdict": {"word": "advance", "reason": "As good as stable."}}
CHANGES = history_views(promoted(20).changes)

SHOWN: list[tuple[Any, Any]] = [
    (EndpointView(ENDPOINT), ENDPOINT),
    (ReleaseView(ENDED), ENDED),
    (DeploymentView(DEPLOYMENT), DEPLOYMENT),
    (EndpointList([ENDPOINT]), [ENDPOINT]),
    (DeploymentList([DEPLOYMENT]), [DEPLOYMENT]),
    (History(CHANGES, "churn"), CHANGES),
]
by_type = pytest.mark.parametrize(("shown", "plain"), SHOWN, ids=[type(shown).__name__ for shown, _ in SHOWN])


class Tags(HTMLParser):
    """Every element and all text of a fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@by_type
def test_it_equals_serialises_and_pickles_as_what_it_is(shown: Any, plain: Any) -> None:
    assert shown == plain
    assert plain == shown
    assert json.dumps(shown) == json.dumps(plain)
    again = pickle.loads(pickle.dumps(shown))
    assert again == plain
    assert type(again) is type(shown)
    assert again._repr_html_() == shown._repr_html_()


@by_type
def test_it_shows_itself_as_a_table_and_as_text(shown: Any, plain: Any) -> None:
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "table" in Tags(bundle["text/html"]).names
    assert "churn-v2" in bundle["text/plain"]
    assert "churn-v2" in Tags(bundle["text/html"]).text
    assert "\x1b" not in bundle["text/plain"]


def test_an_endpoint_shows_its_split_and_its_release() -> None:
    text = Tags(EndpointView(ENDPOINT)._repr_html_()).text
    assert "90%" in text
    assert "10%" in text
    assert f"release {ENDPOINT['release']['id']}: canary of churn-v2, open" in text


def test_a_release_that_ended_says_how_first() -> None:
    assert Tags(ReleaseView(ENDED)._repr_html_()).text.startswith("✓ promoted: As good as stable.")
    assert ReleaseView(ENDED)._repr_mimebundle_()["text/plain"].startswith("✓ promoted: As good as stable.")


def test_an_endpoint_that_cant_be_read_says_why() -> None:
    assert "damaged" in EndpointList([{"name": "churn", "problem": "its state is damaged"}])._repr_html_()


@pytest.mark.parametrize(
    "empty", [EndpointView(), ReleaseView(), DeploymentView(), EndpointList(), DeploymentList(), History()]
)
def test_nothing_is_shown_as_nothing(empty: Any) -> None:
    assert isinstance(empty._repr_mimebundle_()["text/html"], str)


def test_names_of_others_stay_text() -> None:
    deployment = {**DEPLOYMENT, "name": HOSTILE, "model_version": HOSTILE}
    endpoint = {**ENDPOINT, "name": HOSTILE, "url": HOSTILE, "deployments": [deployment]}
    changes = history_views([a_change(1, 0, HOSTILE, 0, 5, who=HOSTILE, reason=HOSTILE)])
    ended = {**endpoint, "outcome": HOSTILE, "verdict": {"reason": HOSTILE}}
    for shown in (EndpointView(endpoint), ReleaseView(ended), DeploymentView(deployment), History(changes, HOSTILE)):
        tags = Tags(shown._repr_html_())
        assert tags.names.isdisjoint({"script", "img", "title"})
        assert HOSTILE in tags.text
        assert not [name for name in tags.attributes if name.startswith("on")]
    page = ReportPage(render(rolled_back()), HOSTILE)._repr_html_()
    assert Tags(page).names == {"iframe"}


def test_a_report_is_its_page_in_a_frame_without_scripts() -> None:
    page = ReportPage('<p>it\'s & "so"</p>', "r1")
    assert page == '<p>it\'s & "so"</p>'
    assert "sandbox srcdoc=" in page._repr_html_()


@pytest.mark.parametrize(
    ("view", "kind"),
    [(ENDPOINT, EndpointView), (ENDED, ReleaseView), (DEPLOYMENT, DeploymentView), ({}, dict), ({"x": 1}, dict)],
)
def test_each_view_is_shown_as_what_it_is(view: dict[str, Any], kind: type) -> None:
    assert type(view_of(view)) is kind
