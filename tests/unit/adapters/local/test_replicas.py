"""Which replicas run, wait, serve and leave, as a table of moments in the life of a Deployment."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.adapters.local.replicas import Replica, endpoints, planned, process
from mlflow_istio.adapters.local.workloads import Readiness, Workload, workload
from mlflow_istio.core.basics.stored import from_json, to_json
from tests.contract.model_server import deployment


def wanted(replicas: int, version: str = "1") -> Workload:
    return workload(deployment("churn", "churn", version=version, replicas=replicas))


def plan(
    want: Workload | None, present: list[Replica], *, ready: tuple[str, ...] = (), first_port: int = 1
) -> list[Replica]:
    return planned(want, present, ready, itertools.count(first_port).__next__)


def phases(replicas: list[Replica]) -> list[tuple[str, str]]:
    """Revision and phase of each, ordered."""
    return sorted((replica.revision, replica.phase) for replica in replicas)


ONE, TWO = wanted(1, "1").revision, wanted(1, "2").revision


def test_a_new_deployment_serves_at_once_because_nothing_else_does() -> None:
    replicas = plan(wanted(2), [])
    assert phases(replicas) == [(ONE, "serving")] * 2
    assert [replica.name for replica in replicas] == [f"churn-{ONE}-0", f"churn-{ONE}-1"]
    assert [replica.port for replica in replicas] == [1, 2]


def test_the_plan_of_a_settled_deployment_is_what_there_is() -> None:
    replicas = plan(wanted(2), [])
    assert plan(wanted(2), replicas) == replicas


def test_scaling_adds_and_drains_the_last() -> None:
    one = plan(wanted(1), [])
    three = plan(wanted(3), one, first_port=10)
    assert phases(three) == [(ONE, "serving")] * 3
    two = plan(wanted(2), three)
    assert [replica.phase for replica in two] == ["serving", "serving", "draining"]
    assert phases(plan(wanted(0), one)) == [(ONE, "draining")]


def test_a_name_in_use_is_not_given_twice() -> None:
    leaving = plan(wanted(0), plan(wanted(1), []))
    assert [replica.name for replica in plan(wanted(1), leaving)] == [f"churn-{ONE}-0", f"churn-{ONE}-1"]


def test_a_new_revision_waits_until_all_of_it_is_ready_and_takes_over_as_a_whole() -> None:
    old = plan(wanted(2, "1"), [])
    begun = plan(wanted(2, "2"), old, first_port=10)
    assert phases(begun) == sorted([(ONE, "serving")] * 2 + [(TWO, "waiting")] * 2)
    new = [replica.name for replica in begun if replica.revision == TWO]
    assert plan(wanted(2, "2"), begun, ready=(new[0],)) == begun
    over = plan(wanted(2, "2"), begun, ready=tuple(new))
    assert phases(over) == sorted([(ONE, "draining")] * 2 + [(TWO, "serving")] * 2)


def test_going_back_before_the_new_revision_is_ready_drops_it() -> None:
    old = plan(wanted(1, "1"), [])
    begun = plan(wanted(1, "2"), old, first_port=10)
    back = plan(wanted(1, "1"), begun)
    assert phases(back) == sorted([(ONE, "serving"), (TWO, "draining")])


def test_a_third_revision_replaces_the_second_that_never_served() -> None:
    begun = plan(wanted(1, "2"), plan(wanted(1, "1"), []), first_port=10)
    third = wanted(1, "3")
    assert phases(plan(third, begun, first_port=20)) == sorted(
        [(ONE, "serving"), (TWO, "draining"), (third.revision, "waiting")]
    )


def test_a_deleted_deployment_drains_all() -> None:
    begun = plan(wanted(1, "2"), plan(wanted(1, "1"), []), first_port=10)
    assert {replica.phase for replica in plan(None, begun)} == {"draining"}


def test_only_those_serving_get_requests() -> None:
    over = plan(wanted(1, "2"), plan(wanted(1, "1"), []), first_port=10)
    assert [endpoint.port for endpoint in endpoints(over)] == [1]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("123"), st.booleans()), min_size=1, max_size=8))
def test_whatever_is_asked_in_turn_something_ready_serves_until_its_successor_is_ready(
    steps: list[tuple[int, str, bool]],
) -> None:
    """Once a replica has served and is wanted, no step leaves an endpoint with none; names and ports stay unique."""
    replicas: list[Replica] = []
    for number, (count, version, becomes_ready) in enumerate(steps):
        served_before = any(replica.phase == "serving" for replica in replicas)
        ready = tuple(replica.name for replica in replicas) if becomes_ready else ()
        replicas = plan(wanted(count, version), replicas, ready=ready, first_port=100 * (number + 1))
        serving = [replica for replica in replicas if replica.phase == "serving"]
        if served_before and count:
            assert serving
        assert len({replica.revision for replica in serving}) <= 1
        assert len({replica.name for replica in replicas}) == len(replicas)
        assert len({replica.port for replica in replicas}) == len(replicas)


def test_a_replica_is_the_same_after_writing_and_reading() -> None:
    (replica,) = plan(wanted(1), [])
    assert from_json(Replica, json.loads(json.dumps(to_json(replica)))) == replica


def test_a_process_knows_its_own_port_and_references_are_resolved_as_kubernetes_does() -> None:
    obj = deployment(
        "churn", "churn", A="a", B="$(A)-$(MLFLOW_ISTIO_PORT)", C="$$(A) $(UNKNOWN)", MLFLOW_ISTIO_PORT="8080"
    )
    container = obj["spec"]["template"]["spec"]["containers"][0]
    container["command"], container["args"] = ["serve"], ["--port=$(MLFLOW_ISTIO_PORT)", "$(B)"]
    (replica,) = plan(workload(obj), [], first_port=20000)
    argv, environment = process(replica)
    assert argv == ("serve", "--port=20000", "a-20000")
    assert {key: environment[key] for key in ("A", "B", "C", "MLFLOW_ISTIO_HOST", "MLFLOW_ISTIO_PORT")} == {
        "A": "a",
        "B": "a-20000",
        "C": "$(A) $(UNKNOWN)",
        "MLFLOW_ISTIO_HOST": "127.0.0.1",
        "MLFLOW_ISTIO_PORT": "20000",
    }


@pytest.mark.parametrize(
    ("change", "rolls"),
    [
        (lambda obj: obj["spec"].update(replicas=5), False),
        (lambda obj: obj["metadata"].update(labels={"a": "b"}), False),
        (lambda obj: obj["spec"]["template"]["metadata"].update(annotations={"restarted": "now"}), True),
        (lambda obj: obj["spec"]["template"]["spec"]["containers"][0].update(image="other"), True),
    ],
)
def test_only_a_changed_template_is_another_revision(change: Any, rolls: bool) -> None:
    obj = deployment("churn", "churn")
    before = workload(obj).revision
    change(obj)
    assert (workload(obj).revision != before) is rolls


def test_what_is_read_of_a_deployment() -> None:
    obj = deployment("churn", "churn")
    pod = obj["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 5
    pod["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": 2}}}
    pod["containers"][0]["readinessProbe"] = {
        "httpGet": {"path": "/ready", "port": "http"},
        "periodSeconds": 3,
        "timeoutSeconds": 4,
        "failureThreshold": 5,
        "successThreshold": 6,
    }
    read = workload(obj)
    assert (read.grace, read.pause) == (5, 2.0)
    assert read.readiness == Readiness(path="/ready", period=3, timeout=4, failures=5, successes=6)


def test_kubernetes_defaults_hold_where_nothing_is_given() -> None:
    obj = deployment("churn", "churn")
    del obj["spec"]["replicas"]
    container = obj["spec"]["template"]["spec"]["containers"][0]
    container["readinessProbe"] = {"httpGet": {"port": 8080}}
    read = workload(obj)
    assert (read.replicas, read.grace, read.pause) == (1, 30, None)
    assert read.readiness == Readiness(path="/", period=10, timeout=1, failures=3, successes=1)
    del container["readinessProbe"]
    assert workload(obj).readiness is None
