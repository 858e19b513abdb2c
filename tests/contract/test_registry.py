"""One contract for the Registry port: the in-memory one, and MLflow's own SQLite store."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from mlflow_istio.core.basics.model_version import ModelReference, parse_model_uri
from mlflow_istio.core.endpoint.registry_state import RegistryState, Served, nothing_stands
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Destination, Traffic, WeightedDestination
from mlflow_istio.errors import NotFound, RegistryError, StateConflict
from mlflow_istio.ports.registry import Registry
from mlflow_istio.testing import InMemoryRegistry
from tests.support.mlflow_addresses import mlflow_at
from tests.support.registered_models import register

TIME = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=timezone.utc)


@pytest.fixture(params=["in-memory", "mlflow"])
def registry(request: pytest.FixtureRequest) -> Registry:
    if request.param == "in-memory":
        return InMemoryRegistry({"churn": [1, 2]})
    uri = request.getfixturevalue("tracking_uri")
    artifacts = request.getfixturevalue("tmp_path") / "artifacts"
    for answer in (1.0, 2.0):
        register(uri, "churn", answer, artifacts)
    from mlflow_istio.adapters.mlflow.registry import MlflowRegistry

    return MlflowRegistry(uri, uri)


def a_traffic(**weights: int) -> Traffic:
    return Traffic(
        split=tuple(
            WeightedDestination(destination=Destination(host="churn", subset=n), weight=w) for n, w in weights.items()
        ),
        pins=tuple(sorted(weights)),
    )


def a_change(sequence: int, **changes: object) -> RoutingChange:
    values: dict[str, object] = {
        "id": f"id{sequence}",
        "sequence": sequence,
        "time": TIME,
        "endpoint": "churn",
        "action": "shift",
        "before": a_traffic(v1=100),
        "after": a_traffic(v1=90, v2=10),
        "versions": {"v1": "churn/1", "v2": "churn/2"},
    }
    return RoutingChange(**{**values, **changes})  # type: ignore[arg-type]


def standing(served: dict[str, tuple[int, str]], **changes: object) -> RegistryState:
    values: dict[str, object] = {
        "scope": "test",
        "endpoint": "churn",
        "served": tuple(Served(version=v, weight=w, role=r) for v, (w, r) in served.items()),
        "aliases": {("churn", "champion"): 1},
    }
    return RegistryState(**{**values, **changes})  # type: ignore[arg-type]


def test_a_version_is_resolved_with_its_flavors(registry: Registry) -> None:
    found = registry.resolve(ModelReference(model="churn", version=2))
    assert found.label == "churn/2"
    assert "python_function" in found.flavors


def test_latest_is_turned_into_a_number_at_once(registry: Registry) -> None:
    found = registry.resolve(ModelReference(model="churn", alias="latest"))
    assert (found.version, found.alias) == (2, "latest")


def test_an_alias_is_turned_into_a_number_at_once(registry: Registry) -> None:
    registry.publish(standing({"churn/1": (100, "stable")}))
    found = registry.resolve(ModelReference(model="churn", alias="champion"))
    assert (found.version, found.alias) == (1, "champion")


@pytest.mark.parametrize(
    "reference",
    [
        ModelReference(model="churn", version=9),
        ModelReference(model="nothing", version=1),
        ModelReference(model="churn", alias="nobody"),
    ],
)
def test_what_does_not_exist_is_not_found_by_name(registry: Registry, reference: ModelReference) -> None:
    with pytest.raises(NotFound, match=reference.model):
        registry.resolve(reference)


def test_a_change_is_read_back_as_it_was_written(registry: Registry) -> None:
    run = registry.open_run("test", "churn", None)
    change = a_change(1, run=run, reason="because", who="me", evidence={"p": 0.01}, resource_version="7")
    registry.record("test", change, {"after": {"kind": "VirtualService"}})
    assert list(registry.history("test", "churn")) == [change]


def test_recording_a_change_again_changes_nothing(registry: Registry) -> None:
    run = registry.open_run("test", "churn", None)
    for _ in range(2):
        registry.record("test", a_change(1, run=run), {})
    assert len(registry.history("test", "churn")) == 1


def test_a_history_is_in_the_order_of_the_changes_whichever_run_holds_them(registry: Registry) -> None:
    release = Release(id="r1", strategy="canary", candidates=("v2",), opened=TIME)
    own, standing_run = registry.open_run("test", "churn", release), registry.open_run("test", "churn", None)
    for sequence, run in ((3, own), (1, standing_run), (2, own)):
        registry.record("test", a_change(sequence, run=run), {})
    assert [change.sequence for change in registry.history("test", "churn")] == [1, 2, 3]


def test_another_scope_has_another_history(registry: Registry) -> None:
    registry.record("test", a_change(1, run=registry.open_run("test", "churn", None)), {})
    assert not registry.history("production", "churn")


def test_a_releases_run_is_opened_once(registry: Registry) -> None:
    release = Release(id="r1", strategy="canary", candidates=("v2",), opened=TIME)
    assert registry.open_run("test", "churn", release) == registry.open_run("test", "churn", release)
    assert registry.open_run("test", "churn", release) != registry.open_run("test", "churn", None)


def test_ending_a_run_twice_is_fine(registry: Registry) -> None:
    run = registry.open_run("test", "churn", Release(id="r1", strategy="canary", candidates=("v2",), opened=TIME))
    registry.close_run(run, "promoted")
    registry.close_run(run, "promoted")


def test_an_alias_of_another_endpoint_is_refused(registry: Registry) -> None:
    registry.publish(standing({"churn/1": (100, "stable")}))
    registry.check_aliases("churn", ["champion", "challenger"], "test/churn")
    with pytest.raises(StateConflict, match="test/churn"):
        registry.check_aliases("churn", ["champion"], "production/churn")


def test_an_alias_is_free_again_when_its_endpoint_is_gone(registry: Registry) -> None:
    registry.publish(standing({"churn/1": (100, "stable")}))
    registry.publish(standing({}, removed=("churn/1",), aliases={("churn", "champion"): None}))
    with pytest.raises(NotFound):
        registry.resolve(ModelReference(model="churn", alias="champion"))


class TestOnMlflow:
    """What only MLflow's own client can show."""

    @pytest.fixture
    def uri(self, tracking_uri: str, tmp_path: Path) -> str:
        register(tracking_uri, "churn", 1.0, tmp_path / "artifacts")
        return tracking_uri

    @pytest.fixture
    def on_mlflow(self, uri: str) -> Registry:
        from mlflow_istio.adapters.mlflow.registry import MlflowRegistry

        return MlflowRegistry(uri, uri)

    def test_the_tag_that_the_refusal_names_frees_the_alias_of_an_endpoint_that_is_gone(
        self, on_mlflow: Registry, uri: str
    ) -> None:
        on_mlflow.publish(standing({"churn/1": (100, "stable")}))
        with pytest.raises(StateConflict) as refused:
            on_mlflow.check_aliases("churn", ["champion"], "test/other")
        (tag,) = re.findall(r"delete the model's tag '([^']+)'", refused.value.message)
        MlflowClient(uri).delete_registered_model_tag("churn", tag)
        on_mlflow.check_aliases("churn", ["champion"], "test/other")

    def test_tags_say_where_a_version_serves_and_go_when_it_does_not(self, on_mlflow: Registry, uri: str) -> None:
        client = MlflowClient(uri, uri)
        on_mlflow.publish(standing({"churn/1": (90, "stable")}))
        assert client.get_model_version("churn", "1").tags == {
            "istio.test.churn.weight": "90",
            "istio.test.churn.role": "stable",
        }
        on_mlflow.publish(standing({}, removed=("churn/1",), aliases={("churn", "champion"): None}))
        assert client.get_model_version("churn", "1").tags == {}
        assert client.get_registered_model("churn").tags == {}

    def test_tags_of_others_stay(self, on_mlflow: Registry, uri: str) -> None:
        client = MlflowClient(uri, uri)
        client.set_model_version_tag("churn", "1", "mine", "x")
        client.set_model_version_tag("churn", "1", "istio.other.churn.weight", "5")
        on_mlflow.publish(standing({}, removed=("churn/1",), aliases={}))
        assert client.get_model_version("churn", "1").tags == {"mine": "x", "istio.other.churn.weight": "5"}

    def test_each_deployments_weight_is_a_metric_over_the_sequence(self, on_mlflow: Registry, uri: str) -> None:
        run = on_mlflow.open_run("test", "churn", None)
        on_mlflow.record("test", a_change(1, run=run, after=a_traffic(v1=90, v2=10)), {})
        on_mlflow.record("test", a_change(2, run=run, after=a_traffic(v1=50, v2=50)), {})
        points = MlflowClient(uri, uri).get_metric_history(run, "weight/v2")
        assert [(point.step, point.value) for point in points] == [(1, 10.0), (2, 50.0)]

    def test_a_second_try_after_a_lost_reply_adds_no_point(self, on_mlflow: Registry, uri: str) -> None:
        client = MlflowClient(uri, uri)
        run = on_mlflow.open_run("test", "churn", None)
        change = a_change(1, run=run)
        on_mlflow.record("test", change, {})
        client.delete_tag(run, change.tag_key)  # as if the process had died before the tag was there
        on_mlflow.record("test", change, {})
        assert len(client.get_metric_history(run, "weight/v2")) == 1

    def test_the_objects_before_and_after_are_artifacts(self, on_mlflow: Registry, uri: str) -> None:
        run = on_mlflow.open_run("test", "churn", None)
        change = a_change(1, run=run)
        on_mlflow.record("test", change, {"before": {"kind": "A"}, "after": {"kind": "B"}})
        files = MlflowClient(uri, uri).list_artifacts(run, f"changes/000001-{change.id}")
        assert sorted(file.path.rpartition("/")[2] for file in files) == ["after.json", "before.json"]

    def test_files_on_this_machine_are_found_as_a_folder(self, on_mlflow: Registry) -> None:
        found = on_mlflow.resolve(ModelReference(model="churn", version=1))
        assert (Path(found.folder) / "MLmodel").is_file()

    def test_a_version_whose_files_are_gone_is_refused(self, on_mlflow: Registry, uri: str, tmp_path: Path) -> None:
        shutil.rmtree(tmp_path / "artifacts")
        with pytest.raises(NotFound, match=r"files of models:/churn/1 are gone"):
            on_mlflow.resolve(ModelReference(model="churn", version=1))

    def test_a_version_that_lost_its_model_file_is_refused(self, on_mlflow: Registry, uri: str, tmp_path: Path) -> None:
        for file in (tmp_path / "artifacts").rglob("constant_model.py"):
            file.unlink()
        with pytest.raises(NotFound, match=r"models:/churn/1 are incomplete.*'constant_model\.py'"):
            on_mlflow.resolve(ModelReference(model="churn", version=1))

    def test_no_error_shows_the_password_of_the_servers_address(self) -> None:
        from mlflow_istio.adapters.mlflow.registry import MlflowRegistry

        address = "http://ada:secret@127.0.0.1:9"
        with pytest.raises(RegistryError) as caught:
            MlflowRegistry(address, address).history("test", "churn")
        assert "secret" not in str(caught.value)

    def test_a_dead_server_is_one_line_and_no_long_wait(self) -> None:
        from mlflow_istio.adapters.mlflow.registry import MlflowRegistry

        dead = MlflowRegistry("http://127.0.0.1:9", "http://127.0.0.1:9")
        with pytest.raises(RegistryError, match="127.0.0.1") as caught:
            dead.history("test", "churn")
        assert "\n" not in caught.value.message


class TestWhatChangesUnderUs:
    """Versions, models, runs and experiments that somebody changes in MLflow while an endpoint uses them."""

    @pytest.fixture
    def client(self, tracking_uri: str, tmp_path: Path) -> MlflowClient:
        for answer in (1.0, 2.0):
            register(tracking_uri, "churn", answer, tmp_path / "artifacts")
        return MlflowClient(tracking_uri, tracking_uri)

    @pytest.fixture
    def changing(self, client: MlflowClient, tracking_uri: str) -> Registry:
        from mlflow_istio.adapters.mlflow.registry import MlflowRegistry

        return MlflowRegistry(tracking_uri, tracking_uri)

    BOTH = standing(
        {"churn/1": (10, "candidate"), "churn/2": (90, "stable")},
        aliases={("churn", "challenger"): 1, ("churn", "champion"): 2},
    )

    def test_a_ledger_and_its_aliases_are_one_places_until_another_takes_them_over(
        self, client: MlflowClient, tracking_uri: str
    ) -> None:
        from mlflow_istio.adapters.mlflow.registry import MlflowRegistry

        plain = MlflowRegistry(tracking_uri, tracking_uri)
        one, two = (MlflowRegistry(tracking_uri, tracking_uri, place=lambda name=name: name) for name in ("one", "two"))
        plain.record("test", replace(a_change(1), run=plain.open_run("test", "churn", None)), {})
        plain.publish(self.BOTH)
        one.check_place("test", "churn")
        one.publish(self.BOTH)  # one of today without identity is its first writer's
        assert client.get_registered_model("churn").tags["istio.alias.champion"] == "test/churn@one"
        one.check_aliases("churn", ["champion"], "test/churn")
        plain.check_aliases("churn", ["champion"], "test/churn")
        with pytest.raises(StateConflict, match="belong to another place"):
            two.check_place("test", "churn")
        with pytest.raises(StateConflict, match="belongs to test/churn@one"):
            two.check_aliases("churn", ["champion"], "test/churn")
        change = replace(a_change(2), run=None)
        for write in (
            lambda: two.record("test", change, {}),
            lambda: two.publish(self.BOTH),
            lambda: two.open_run("test", "churn", None),
        ):
            with pytest.raises(RegistryError, match="belong to another place"):
                write()
        assert len(one.history("test", "churn")) == 1
        assert set(one.survey("test", ("churn",)).owners.values()) == {"test/churn"}
        assert set(two.survey("test", ("churn",)).owners.values()) == {"test/churn@one"}
        two.check_place("test", "churn", take_over=True)
        two.check_aliases("churn", ["champion"], "test/churn")
        two.record("test", change, {})
        with pytest.raises(RegistryError, match="belong to another place"):
            one.publish(self.BOTH)
        two.publish(nothing_stands("test", "churn", {}, ("churn/1", "churn/2")))
        one.check_place("test", "churn")
        assert client.get_registered_model("churn").aliases == {}

    def test_a_tag_that_somebody_changed_is_forged_and_one_that_is_no_change_is_named(
        self, changing: Registry, client: MlflowClient
    ) -> None:
        run = changing.open_run("test", "churn", None)
        first, second = (replace(a_change(number), run=run) for number in (1, 2))
        changing.record("test", first, {})
        changing.record("test", second, {})
        assert [change.forged for change in changing.history("test", "churn")] == [False, False]
        text = client.get_run(run).data.tags[second.tag_key]
        client.set_tag(run, second.tag_key, json.dumps({**json.loads(text), "who": "nobody"}))
        assert [change.forged for change in changing.history("test", "churn")] == [False, True]
        for damage in ("", "null", "[]", "[" * 2_000 + "]" * 2_000):
            client.set_tag(run, second.tag_key, damage)
            with pytest.raises(RegistryError, match=second.tag_key) as refused:
                changing.history("test", "churn")
            assert "\n" not in refused.value.message

    @pytest.mark.parametrize("status", ["PENDING_REGISTRATION", "FAILED_REGISTRATION"])
    def test_a_version_that_is_not_ready_is_refused_by_name(
        self, changing: Registry, tmp_path: Path, status: str
    ) -> None:
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:  # as a registry that copies files leaves it
            database.execute("UPDATE model_versions SET status = ? WHERE version = 1", (status,))
            database.commit()
        with pytest.raises(StateConflict, match=f"models:/churn/1 can't be deployed.*{status}"):
            changing.resolve(ModelReference(model="churn", version=1))
        assert changing.resolve(ModelReference(model="churn", version=2)).version == 2

    def test_of_a_deleted_version_nothing_is_written_and_of_the_others_all(
        self, changing: Registry, client: MlflowClient
    ) -> None:
        changing.publish(self.BOTH)
        client.delete_model_version("churn", "1")
        (warning,) = changing.publish(self.BOTH)
        assert warning.startswith("models:/churn/1 is gone from the registry")
        moved = standing({"churn/1": (0, "idle"), "churn/2": (100, "stable")}, aliases={("churn", "champion"): 2})
        assert len(changing.publish(moved)) == 1
        assert client.get_model_version("churn", "2").tags["istio.test.churn.weight"] == "100"
        assert changing.survey("test", ("churn",)).versions == {"churn/2"}
        assert int(client.get_registered_model("churn").aliases["champion"]) == 2

    @pytest.mark.parametrize("what", ["renamed", "deleted"])
    def test_of_a_model_that_is_gone_every_served_version_is_named(
        self, changing: Registry, client: MlflowClient, what: str
    ) -> None:
        changing.publish(self.BOTH)
        if what == "renamed":
            client.rename_registered_model("churn", "loyalty")
        else:
            client.delete_registered_model("churn")
        warnings = changing.publish(self.BOTH)
        assert [warning.split(" is gone")[0] for warning in warnings] == ["models:/churn/1", "models:/churn/2"]
        assert changing.survey("test", ("churn",)).versions == frozenset()
        assert (
            changing.publish(standing({}, removed=("churn/1", "churn/2"), aliases={("churn", "champion"): None})) == ()
        )

    def test_an_alias_that_somebody_moved_is_put_back(self, changing: Registry, client: MlflowClient) -> None:
        changing.publish(self.BOTH)
        client.set_registered_model_alias("churn", "champion", "1")
        assert changing.publish(self.BOTH) == ()
        assert str(client.get_model_version_by_alias("churn", "champion").version) == "2"

    def test_a_refused_tag_holds_back_nothing_else(
        self, changing: Registry, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        allowed = MlflowClient.set_model_version_tag

        def set_tag(self: MlflowClient, name: str, version: str, key: str, value: str) -> None:
            if version == "1":
                raise MlflowException("Permission denied", PERMISSION_DENIED)  # as MLflow's basic-auth app answers
            allowed(self, name, version, key, value)

        monkeypatch.setattr(MlflowClient, "set_model_version_tag", set_tag)
        with pytest.raises(
            RegistryError, match=r"refused tags of churn/1 \(.*Permission denied\); the rest is written"
        ):
            changing.publish(self.BOTH)
        assert client.get_model_version("churn", "2").tags["istio.test.churn.role"] == "stable"
        assert {alias: int(v) for alias, v in client.get_registered_model("churn").aliases.items()} == {
            "challenger": 1,
            "champion": 2,
        }

    @pytest.mark.parametrize("how", ["deleted", "gone for good"])
    def test_a_change_whose_run_was_deleted_goes_to_the_standing_run(
        self, changing: Registry, client: MlflowClient, how: str
    ) -> None:
        run = changing.open_run("test", "churn", Release(id="r", strategy="canary", candidates=("v2",), opened=TIME))
        if how == "deleted":
            client.delete_run(run)
        else:
            run = "0" * 32
        change = a_change(1, run=run, release="r")
        (warning,) = changing.record("test", change, {"after": {"kind": "VirtualService"}})
        assert f"'{run}' was deleted" in warning
        changing.close_run(run, "promoted")
        (found,) = changing.history("test", "churn")
        assert found.run == changing.open_run("test", "churn", None)
        assert replace(found, run=run) == change

    def test_a_deleted_experiment_is_one_line_that_says_how_it_comes_back(
        self, changing: Registry, client: MlflowClient
    ) -> None:
        changing.record("test", a_change(1, run=changing.open_run("test", "churn", None)), {})
        experiment = client.get_experiment_by_name("mlflow-istio/test/churn")
        assert experiment is not None
        client.delete_experiment(experiment.experiment_id)
        with pytest.raises(RegistryError, match="was deleted: restore it with") as refused:
            changing.history("test", "churn")
        with pytest.raises(RegistryError, match="was deleted"):
            changing.record("test", a_change(2, run=None), {})
        command = re.findall(r"'mlflow (experiments restore [^']+)'", refused.value.message)[0]
        client.restore_experiment(command.rpartition(" ")[2])
        assert len(changing.history("test", "churn")) == 1


def test_a_survey_says_what_is_open_tagged_and_owned_in_a_scope(registry: Registry) -> None:
    release = Release(id="r-9", strategy="canary", candidates=("v2",), opened=TIME)
    empty = registry.survey("prod_1", ("churn", "unknown"))
    assert (dict(empty.open_runs), dict(empty.aliases), dict(empty.owners)) == ({}, {}, {})
    run = registry.open_run("prod_1", "churn", release)
    ended = registry.open_run("prod_1", "churn", Release(id="r-8", strategy="canary", candidates=("v2",), opened=TIME))
    registry.close_run(ended, "promoted")
    registry.open_run("prodX1", "other", release)
    registry.publish(
        RegistryState(
            scope="prod_1",
            endpoint="churn",
            served=(Served(version="churn/1", weight=100, role="stable"),),
            aliases={("churn", "champion"): 1},
        )
    )
    found = registry.survey("prod_1", ("churn", "unknown"))
    assert found.open_runs == {"churn": {"r-9": run}}
    assert {label: dict(tags) for label, tags in found.tags.items() if tags} == {
        "churn/1": {"istio.prod_1.churn.weight": "100", "istio.prod_1.churn.role": "stable"}
    }
    assert found.aliases == {("churn", "champion"): 1}
    assert found.owners == {("churn", "champion"): "prod_1/churn"}
    assert registry.survey("prod_1", ()).tags == {}


def test_an_id_is_used_up_by_another_plan_and_by_its_end(registry: Registry) -> None:
    release = Release(id="r1", strategy="canary", candidates=("v2",), opened=TIME)
    registry.check_run("test", "churn", release)
    assert registry.survey("test", ()).open_runs.get("churn", {}) == {}, "to look opens none"
    run = registry.open_run("test", "churn", release, new=True)
    assert registry.open_run("test", "churn", release, new=True) == run, "the command that opened it may have died"
    other = Release(id="r1", strategy="canary", candidates=("v3",), opened=TIME)
    with pytest.raises(StateConflict, match="release 'r1' of endpoint 'churn' was a canary of v2"):
        registry.open_run("test", "churn", other, new=True)
    registry.close_run(run, "promoted")
    with pytest.raises(StateConflict, match="too late: release 'r1' of endpoint 'churn' has ended as promoted"):
        registry.open_run("test", "churn", release, new=True)
    with pytest.raises(StateConflict, match="too late: release 'r1' of endpoint 'churn' has ended as promoted"):
        registry.check_run("test", "churn", release)
    assert registry.open_run("test", "churn", release) == run, "what is left over of it is still recorded there"


NAMES = [
    "eu's v2",
    'say "hi"',
    "both ' and \" of them",
    "données.ventes eu's v2",
    "back\\slash",
    "ends in a backslash\\",
    "quote ' and back\\slash",
    "perc%ent_and_under",
    "dollar$(HOME)",
    "catalog.schema.model",
    "team@home",
    "-- no comment; drop",
    "[bold]back`ticks`",
    "  blanks at the start",
    "取引" * 125,
]


@pytest.fixture(scope="module")
def any_name(tmp_path_factory: pytest.TempPathFactory, _fresh_database: Path) -> str:
    """A registry in which every such name has two versions; its neighbour differs where a pattern has a wildcard."""
    folder = tmp_path_factory.mktemp("names")
    uri = f"sqlite:///{shutil.copy(_fresh_database, folder / 'mlflow.db')}"
    with mlflow_at(uri):
        register(uri, "source", 1.0, folder / "artifacts")
    client = MlflowClient(uri, uri)
    source = client.get_model_version_download_uri("source", "1")
    neighbours = {name.replace("'", "x").replace("\\", "x") for name in NAMES} - set(NAMES)
    for name in (*NAMES, *sorted(neighbours)):
        client.create_registered_model(name)
        for _ in range(2 if name in NAMES else 3):
            client.create_model_version(name, source)
    return uri


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_every_name_that_mlflow_allows_is_found_served_and_surveyed(any_name: str, name: str) -> None:
    from mlflow_istio.adapters.mlflow.models import MlflowModels
    from mlflow_istio.adapters.mlflow.registry import MlflowRegistry
    from mlflow_istio.adapters.mlflow.runs import MlflowRuns

    registry = MlflowRegistry(any_name, any_name)
    assert registry.resolve(parse_model_uri(f"models:/{name}/latest")).label == f"{name}/2"
    with pytest.raises(NotFound, match="has no version 9: it has 1, 2"):
        registry.resolve(ModelReference(model=name, version=9))
    registry.publish(standing({f"{name}/1": (100, "stable")}, aliases={(name, "champion"): 1}))
    assert registry.resolve(parse_model_uri(f"models:/{name}@champion")).label == f"{name}/1"
    with pytest.raises(NotFound, match="has no alias 'champ': did you mean 'champion'\\? known: champion"):
        registry.resolve(ModelReference(model=name, alias="champ"))
    found = registry.survey("test", (name,))
    assert dict(found.aliases) == {(name, "champion"): 1}
    assert dict(found.tags) == {f"{name}/1": {"istio.test.churn.weight": "100", "istio.test.churn.role": "stable"}}
    assert MlflowModels(any_name, any_name).card(f"{name}/1").inputs is not None
    assert MlflowRuns(any_name, any_name).tag(f"{name}/1", "istio.test.churn.role") == "stable"
    change = a_change(1, endpoint="names", versions={"v1": f"{name}/1"}, id=str(abs(hash(name))))
    registry.record("test", change, {})
    assert change.versions in [known.versions for known in registry.history("test", "names")]


def test_a_missing_model_is_said_with_the_registry_that_was_asked(tracking_uri: str) -> None:
    from mlflow_istio.adapters.mlflow.models import MlflowModels
    from mlflow_istio.adapters.mlflow.registry import MlflowRegistry
    from mlflow_istio.adapters.mlflow.runs import MlflowRuns

    asked = re.escape(tracking_uri)
    for reference in (
        ModelReference(model="nothing", version=1),
        ModelReference(model="nothing", alias="latest"),
        ModelReference(model="nothing", alias="champion"),
    ):
        with pytest.raises(NotFound, match=rf"'nothing'.*asked the registry at {asked}"):
            MlflowRegistry().resolve(reference)
    with pytest.raises(NotFound, match=f"models:/nothing/1.*asked the registry at {asked}"):
        MlflowModels().card("nothing/1")
    with pytest.raises(NotFound, match=f"models:/nothing/1 in the registry at {asked}"):
        MlflowRuns().tag("nothing/1", "istio.approval")
