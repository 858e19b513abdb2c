"""What the real istiod and Envoy answer to every case is what the committed answers say: ``make corpus-update``."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from kubernetes import client

from tests.control_plane.namespaces import admin, fresh_namespace
from tests.corpus import answers, schema
from tests.corpus.cases import Case, load
from tests.corpus.found import Found, ask_all
from tests.corpus.sides import ControlPlaneSide
from tests.golden import OPTION

pytestmark = pytest.mark.control_plane
CASES = load()


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> Iterator[Found]:
    with fresh_namespace("corpus") as namespace, admin() as api:
        found = ask_all(ControlPlaneSide(api, namespace), CASES, install_at_once=8)
        if request.config.getoption(OPTION):
            for family in sorted({case.family for case in CASES}):
                asked = [case for case in CASES if case.family == family and case.name in found.answers]
                if asked:
                    answers.record(family, {case.name: found.of(case) for case in asked})
            schema.FILE.write_text(json.dumps(installed_fields(api), indent=1) + "\n", encoding="utf-8")
        yield found


def installed_fields(api: client.ApiClient) -> dict[str, list[str]]:
    """The fields of VirtualServices and DestinationRules that the API server knows."""
    names = [f"{plural}.networking.istio.io" for plural in ("virtualservices", "destinationrules")]
    extensions = client.ApiextensionsV1Api(api)
    replies = [extensions.read_custom_resource_definition(name, _preload_content=False) for name in names]
    return schema.from_definitions([json.loads(reply.data) for reply in replies])


def test_the_recorded_fields_are_those_that_istio_installs(real: Found) -> None:
    with admin() as api:
        assert json.loads(schema.FILE.read_text(encoding="utf-8")) == installed_fields(api)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.family}-{case.name}") for case in CASES if case.istiod == "same"]
)
def test_istiod_takes_it_and_answers_as_recorded(real: Found, case: Case) -> None:
    assert not real.refusals[case.name]
    if case.requests:
        assert real.of(case) == answers.recorded(case.family)[case.name]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.family}-{case.name}") for case in CASES if case.istiod != "same"]
)
def test_istiods_validator_or_the_schema_refuses_it(real: Found, case: Case) -> None:
    assert "admission webhook" in real.refusals[case.name] or '"reason":"Invalid"' in real.refusals[case.name]
