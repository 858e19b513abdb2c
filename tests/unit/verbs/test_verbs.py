"""What verbs and commands do before and after the use-case: refusals, words, and what a damaged endpoint still shows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_istio.cli import main
from mlflow_istio.cli.options import report
from mlflow_istio.core.basics.objects import annotations_of, with_annotations
from mlflow_istio.errors import InvalidInput, NotFound
from mlflow_istio.releases.context import edit_endpoint
from mlflow_istio.verbs import Result, Verbs
from tests.support.in_memory import World, a_world, with_canary, with_shop
from tests.support.in_memory_verbs import InMemoryVerbs


def verbs_in(world: World, warnings: list[str] | None = None) -> Verbs:
    return InMemoryVerbs(world, warned=warnings)


def test_a_prediction_goes_to_a_deployment_or_through_an_endpoint_never_to_both() -> None:
    verbs = verbs_in(with_canary())
    with pytest.raises(
        InvalidInput, match="give either the deployment 'churn-v1', .* or the endpoint 'churn', not both"
    ):
        verbs.predict([[1.0]], name="churn-v1", endpoint="churn")
    with pytest.raises(InvalidInput, match="say which: a deployment's name, or an endpoint"):
        verbs.predict([[1.0]])


def test_a_reason_for_pods_is_refused_since_no_ledger_has_a_place_for_it() -> None:
    with pytest.raises(InvalidInput, match="option 'reason' has no effect on update"):
        verbs_in(with_canary()).update("churn-v1", None, None, {"replicas": 2, "reason": "load"})


def test_what_is_still_starting_is_said_with_the_command_that_finishes(capsys: pytest.CaptureFixture[str]) -> None:
    report(Result(view={}, pending="the pods of 'a' are starting"), "endpoint m")
    report(Result(view={}, changed=False), "promote of m")
    assert capsys.readouterr().out.splitlines() == [
        "endpoint m: the pods of 'a' are starting",
        "promote of m: nothing to do",
    ]


def test_a_history_is_shown_where_somebody_elses_virtual_service_has_the_name_now() -> None:
    world = with_canary()
    world.cluster.delete("VirtualService", "churn")
    foreign = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "churn"}}
    world.cluster.apply({**foreign, "spec": {"hosts": ["churn"], "http": []}})
    assert [change["action"] for change in verbs_in(world).history("churn")] == ["deploy", "deploy", "deploy", "start"]
    with pytest.raises(NotFound, match="there is no endpoint 'other'"):
        verbs_in(world).history("other")


def test_a_history_is_shown_where_the_object_is_damaged_with_a_warning() -> None:
    world, warnings = with_canary(), list[str]()

    def damage(found: Any) -> Any:
        annotations = {**found["metadata"]["annotations"], "mlflow-istio.org/state.churn": "{"}
        return {**found, "metadata": {**found["metadata"], "annotations": annotations}}

    world.cluster.edit("VirtualService", "churn", damage)
    assert len(verbs_in(world, warnings).history("churn")) == 4
    assert "is not JSON" in warnings[0]


@pytest.mark.parametrize("adopted", [1.5, [1], "shop", {}, {"virtualService": 5}])
def test_one_adopted_endpoint_that_is_damaged_keeps_no_other_from_being_seen(adopted: Any) -> None:
    world = with_shop(deployed=())
    world.deploy("forest-v1", endpoint="forest")

    def damage(found: Any) -> Any:
        state = json.loads(annotations_of(found)["mlflow-istio.org/state.churn"])
        return with_annotations(found, {"mlflow-istio.org/state.churn": json.dumps({**state, "adopted": adopted})})

    world.cluster.edit("VirtualService", "shop", damage)
    verbs = verbs_in(world)
    views = {view["name"]: view for view in verbs.endpoints()}
    assert "the annotations of endpoint 'churn' are damaged" in views["churn"]["problem"]
    assert views["forest"]["stable"] == "forest-v1"
    assert {finding["endpoint"] for finding in verbs.doctor()["findings"]} == {"churn"}
    (line,) = verbs.sweep({})
    assert (line["endpoint"], line["what"]) == ("churn", "left as it is")


@dataclass
class Mesh:
    """Stands for the local mesh; remembers how it was brought up."""

    asked: list[bool]

    def up(self, *, new_ports: bool) -> Any:
        self.asked.append(new_ports)
        return self.status()

    def status(self) -> Any:
        url = f"http://127.0.0.1:{5002 + len(self.asked)}/stats/prometheus"
        return SimpleNamespace(
            name="own", running=True, directory="-", processes=[], endpoints={"m": 5001}, statistics_url=url
        )


@pytest.mark.parametrize(("arguments", "new_ports"), [([], False), (["--new-ports"], True)])
def test_local_up_chooses_ports_anew_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], new_ports: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("mlflow_istio.wiring.connection.local_mesh", lambda _target: Mesh(asked))
    result = CliRunner().invoke(main, ["local", "up", *arguments])
    assert (result.exit_code, asked) == (0, [new_ports])
    assert "mesh own: up" in result.output
    assert "endpoint m: http://127.0.0.1:5001" in result.output
    assert result.output.splitlines()[0] == (
        "another program has taken the port of http://127.0.0.1:5002/stats/prometheus: Envoy's statistics are at "
        "http://127.0.0.1:5003/stats/prometheus now"
    )


def test_local_up_of_another_target_is_refused() -> None:
    result = CliRunner().invoke(main, ["local", "up", "-t", "istio:/models"])
    assert result.exit_code == 1
    assert "target 'istio:/models' is no local mesh" in result.output


def test_a_release_that_the_version_before_stored_with_a_key_that_is_gone_goes_on() -> None:
    world = a_world("churn-v1")
    query = 'visits{v="$deployment"}'
    kpi = {"sold": {"queries": {"n": query, "events": query}}}
    given = {"deadline": 5, "interval": 1, "hold": 1, "detach": True, "kpi": kpi}
    InMemoryVerbs(world).release("churn", "models:/churn/2", given)
    progress = world.endpoint().progress
    assert progress is not None
    old = progress.replace('"queries":', '"numeric":true,"queries":')
    assert old != progress
    edit_endpoint(world.cluster, "churn", "churn", lambda now: replace(now, progress=old))
    with pytest.raises(InvalidInput, match="'sold' has the unknown key 'numeric'"):
        InMemoryVerbs(world).resume_release("churn", {"kpi": {"sold": {**kpi["sold"], "numeric": True}}})
    assert InMemoryVerbs(world).resume_release("churn").view["outcome"] == "inconclusive", "nobody sent anything"
