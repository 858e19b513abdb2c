"""A place has an identity: two of one scope at one registry don't share a ledger, and neither undoes what the other wrote."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.errors import ClusterError, StateConflict
from tests.support.in_memory import World, a_world, with_shop
from tests.support.in_memory_verbs import InMemoryVerbs


def two_places() -> tuple[World, World]:
    """Two clusters with equal namespaces at one registry; the first has the endpoint."""
    first = World()
    first.registry.place = "one"
    first.deploy("churn-v1")
    second = World(registry=first.registry.at("two"), runs=first.runs, ids=itertools.count(100))
    return first, second


def test_another_place_of_the_same_scope_is_refused_before_anything_is_made_and_told_what_to_set() -> None:
    first, second = two_places()
    before = first.text()
    with pytest.raises(StateConflict, match=r"belong to another place .*\(one\).*'scope'.*take_over=true"):
        InMemoryVerbs(second).create("churn-v2", "models:/churn/2", None, "churn", {})
    assert second.objects() == []
    assert first.text() == before
    InMemoryVerbs(second).create(
        "churn-v2", "models:/churn/2", None, "churn", {"scope": "other", "champion_alias": "b"}
    )
    assert first.text() != before  # its model version has a tag of the other scope, too
    assert first.registry.aliases[("churn", "champion")] == 1


def test_a_route_is_not_adopted_into_another_places_ledger() -> None:
    first, _ = two_places()
    shop = with_shop()
    second = World(cluster=shop.cluster, registry=first.registry.at("two"), runs=first.runs, ids=itertools.count(100))
    with pytest.raises(StateConflict, match="belong to another place"):
        InMemoryVerbs(second).adopt("churn", {"virtual_service": "shop", "route": "main"})
    assert second.cluster.writes == []
    InMemoryVerbs(second).adopt("churn", {"virtual_service": "shop", "route": "main", "take_over": True})
    assert first.registry.keepers == {("prod", "churn"): "two"}


def test_what_a_place_took_over_is_its_own_and_the_other_writes_nothing_more() -> None:
    first, second = two_places()
    second.deploy("churn-v2", take_over=True)
    assert first.registry.aliases[("churn", "champion")] == 2
    assert second.history() == [(1, "deploy"), (2, "deploy")]
    with pytest.raises(StateConflict, match="another place"):
        first.deploy("churn-v3")
    view = InMemoryVerbs(first).update_endpoint("churn", {"timeout": "2s"})
    assert any("belong to another place" in warning for warning in view.warnings)
    assert second.history() == [(1, "deploy"), (2, "deploy")]
    assert len(first.endpoint().outbox) == 1


def test_doctor_of_one_place_never_fights_another() -> None:
    first, second = two_places()
    second.deploy("churn-v2", take_over=True)
    InMemoryVerbs(first).update_endpoint("churn", {"timeout": "2s"})
    stands = (dict(first.registry.aliases), dict(first.registry.owners), second.history())
    found = InMemoryVerbs(first).doctor(fix=True)["findings"]
    assert "other-place" in {finding["code"] for finding in found}
    assert not {"registry-drift", "lost-changes", "set-back"} & {finding["code"] for finding in found}
    assert (first.registry.aliases, first.registry.owners, second.history()) == stands


def test_doctor_closes_no_run_of_another_place() -> None:
    first, second = two_places()
    first.deploy("churn-v2", strategy="canary", release_id="r1")
    found = InMemoryVerbs(second).doctor(fix=True)
    assert (found["findings"], found["mended"]) == ([], [])
    assert first.registry.runs[first.registry.release_runs[("prod", "churn", "r1")]] == ""


def test_a_ledger_without_an_identity_is_its_first_writers() -> None:
    first = a_world("churn-v1")
    assert first.registry.keepers == {}
    first.registry.place = "one"
    InMemoryVerbs(first).update_endpoint("churn", {"timeout": "2s"})
    assert first.registry.keepers == {("prod", "churn"): "one"}
    second = World(registry=first.registry.at("two"), runs=first.runs, ids=itertools.count(100))
    with pytest.raises(StateConflict, match="another place"):
        second.deploy("churn-v2")


def test_a_ledger_of_a_deleted_endpoint_is_anybodys() -> None:
    first, second = two_places()
    InMemoryVerbs(first).delete_endpoint("churn", {})
    second.deploy("churn-v2")
    assert [action for _, action in second.history()] == ["deploy", "delete", "deploy"]
    assert first.registry.keepers == {("prod", "churn"): "two"}


def test_who_may_not_know_the_place_is_told_and_not_refused() -> None:
    first, _ = two_places()
    first.registry.place = ""
    first.deploy("churn-v2")
    assert first.history()[-1] == (2, "deploy")


def test_a_mesh_is_the_same_place_after_a_purge_and_another_in_another_folder(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path / "a", "test")
    here = mesh.place
    mesh.down(purge=True)
    assert LocalMesh(tmp_path / "a", "test").place == here
    assert LocalMesh(tmp_path / "b", "test").place != here
    assert LocalMesh(tmp_path / "a", "other").place != here
    (tmp_path / "a" / "test.id").write_text("damaged")
    with pytest.raises(ClusterError, match=r"test\.id holds no identity"):
        assert mesh.place
