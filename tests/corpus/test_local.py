"""The local mesh answers every case as the real istiod and Envoy did, or refuses it by the path of the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh
from tests.corpus import answers
from tests.corpus.cases import Case, load
from tests.corpus.found import Found, ask_all
from tests.corpus.sides import LocalSide

pytestmark = pytest.mark.e2e
CASES = load()


class LocalMeshes:
    """What local meshes make of the cases: one mesh for each family, as long as it is asked.

    Envoy watches the routes of each VirtualService with an inotify instance of its own, and a user may have 128 of them.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._found: dict[str, Found] = {}

    def of(self, family: str) -> Found:
        if family not in self._found:
            mesh = LocalMesh(self._home, family, pause=0.1)
            cases = [case for case in CASES if case.family == family]
            try:
                self._found[family] = ask_all(
                    LocalSide(mesh, sorted({case.protocol for case in cases})), cases, install_at_once=1
                )
            finally:
                mesh.down(purge=True)
        return self._found[family]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalMeshes:
    return LocalMeshes(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.family}-{case.name}") for case in CASES if case.local == "same"]
)
def test_the_local_mesh_answers_as_istiod_did(local: LocalMeshes, case: Case) -> None:
    found = local.of(case.family)
    assert not found.refusals[case.name]
    assert found.of(case) == answers.recorded(case.family)[case.name]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.family}-{case.name}") for case in CASES if case.local != "same"]
)
def test_the_local_mesh_refuses_it_by_the_path_of_the_field(local: LocalMeshes, case: Case) -> None:
    kind = "DestinationRule" if case.rule is not None else "VirtualService"
    refusal = local.of(case.family).refusals[case.name]
    end, _, path = case.local.rpartition(": ")
    assert refusal.startswith(f"{kind} {'-'.join([case.name, *([end] if end else [])])}: {path} ")
