"""The local mesh answers every case as the real istiod and Envoy did, or refuses it by the path of the field."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh
from tests.corpus import answers
from tests.corpus.cases import Case, load
from tests.corpus.found import Found, ask_all
from tests.corpus.sides import LocalSide

pytestmark = pytest.mark.e2e
CASES = load()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    mesh = LocalMesh(tmp_path_factory.mktemp("corpus"), "corpus", pause=0.1)
    try:
        yield ask_all(LocalSide(mesh), CASES, install_at_once=1)
    finally:
        mesh.down(purge=True)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.family}-{case.name}") for case in CASES if case.local == "same"]
)
def test_the_local_mesh_answers_as_istiod_did(local: Found, case: Case) -> None:
    assert not local.refusals[case.name]
    assert local.of(case) == answers.recorded(case.family)[case.name]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.family}-{case.name}") for case in CASES if case.local != "same"]
)
def test_the_local_mesh_refuses_it_by_the_path_of_the_field(local: Found, case: Case) -> None:
    kind = "DestinationRule" if case.rule is not None else "VirtualService"
    assert local.refusals[case.name].startswith(f"{kind} {case.name}: {case.local} ")
