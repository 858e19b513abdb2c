"""What every Cluster must do, as tests that any implementation can run.

``ObjectContract`` needs nothing but objects, ``DeploymentContract`` needs processes or pods, ``TrafficContract`` needs
a proxy that answers requests. Each takes the fixtures ``cluster`` (which may be shared: tests use names of their own)
and ``name`` (a fresh DNS label); ``patience`` is how many seconds a pod may take to become ready.
"""

from __future__ import annotations

import copy
import http.client
import json
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.probe import Probe, change_probe, pin_probe
from mlflow_istio.core.mesh.autoscalers import AUTOSCALERS
from mlflow_istio.errors import NotFound, NotReady, NotRouted
from mlflow_istio.ports.cluster import Cluster
from tests.contract.model_server import deployment, destination_rule, service, virtual_service, with_spec


def annotated(**annotations: str) -> Any:
    """An edit that sets annotations."""

    def change(obj: Object | None) -> Object:
        assert obj is not None
        metadata = obj["metadata"]
        return {**obj, "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), **annotations}}}

    return change


def labelled(obj: Object, **labels: str) -> Object:
    """The object with labels."""
    return {**obj, "metadata": {**obj["metadata"], "labels": labels}}


def version_of(obj: Object | None) -> str:
    """The version that a cluster gave the object."""
    assert obj is not None
    return str(obj["metadata"]["resourceVersion"])


class ObjectContract:
    """Objects are kept as they are, and changed one writer at a time."""

    def test_it_is_a_cluster(self, cluster: Cluster) -> None:
        assert isinstance(cluster, Cluster)
        assert cluster.scope

    @pytest.mark.parametrize("kind", ["Deployment", "Service", "DestinationRule", "VirtualService"])
    def test_an_absent_object_is_none_and_deleting_it_is_no_error(self, cluster: Cluster, name: str, kind: str) -> None:
        assert cluster.get(kind, name) is None
        assert cluster.delete(kind, name) is False

    def test_what_was_applied_can_be_read(self, cluster: Cluster, name: str) -> None:
        stored = cluster.apply(service(name))
        assert stored["spec"]["selector"] == {"app": name}
        assert cluster.get("Service", name) == stored

    def test_applying_the_same_again_writes_nothing(self, cluster: Cluster, name: str) -> None:
        first = cluster.apply(service(name))
        assert version_of(cluster.apply(service(name))) == version_of(first)

    def test_applying_keeps_what_others_set(self, cluster: Cluster, name: str) -> None:
        cluster.apply(service(name))
        cluster.edit("Service", name, annotated(owner="somebody"))
        again = cluster.apply(labelled(service(name), team="ours"))
        assert again["metadata"]["annotations"]["owner"] == "somebody"
        assert again["metadata"]["labels"]["team"] == "ours"

    def test_applying_removes_what_was_applied_before_and_is_wanted_no_more(self, cluster: Cluster, name: str) -> None:
        cluster.apply(labelled(service(name), team="ours", keep="this"))
        again = cluster.apply(labelled(service(name), keep="this"))
        assert again["metadata"]["labels"] == {"keep": "this"}

    def test_nothing_handed_in_is_changed_and_nothing_handed_out_is_shared(self, cluster: Cluster, name: str) -> None:
        wanted = service(name)
        before = copy.deepcopy(wanted)
        stored = cluster.apply(wanted)
        assert wanted == before
        stored["spec"]["selector"]["app"] = "scribbled"
        read = cluster.get("Service", name)
        assert read is not None
        assert read["spec"]["selector"] == {"app": name}

        def scribbling(obj: Object | None) -> Object:
            assert obj is not None
            changed = annotated(by="us")(copy.deepcopy(obj))
            obj["spec"]["selector"]["app"] = "scribbled"
            return dict(changed)

        shown, after = cluster.edit("Service", name, scribbling)
        assert shown == read
        assert after["spec"] == read["spec"]

    def test_a_list_has_the_objects_that_carry_all_labels_by_name(self, cluster: Cluster, name: str) -> None:
        for suffix, labels in (("b", {"of": name, "x": "1"}), ("a", {"of": name, "x": "1"}), ("c", {"of": name})):
            cluster.apply(labelled(service(f"{name}-{suffix}"), **labels))
        found = [obj["metadata"]["name"] for obj in cluster.list("Service", {"of": name, "x": "1"})]
        assert found == [f"{name}-a", f"{name}-b"]
        assert len(cluster.list("Service", {"of": name})) == 3

    def test_autoscalers_are_listed_and_a_cluster_without_any_has_none(self, cluster: Cluster) -> None:
        assert [cluster.list(kind, {}) for kind in AUTOSCALERS] == [[], []]

    def test_an_edit_gives_the_pair_before_and_after_as_stored(self, cluster: Cluster, name: str) -> None:
        first = cluster.apply(service(name))
        before, after = cluster.edit("Service", name, annotated(a="1"))
        assert before == first
        assert after == cluster.get("Service", name)
        assert after["metadata"]["annotations"]["a"] == "1"
        assert version_of(after) != version_of(first)

    def test_an_edit_of_an_absent_object_creates_it(self, cluster: Cluster, name: str) -> None:
        seen: list[Object | None] = []

        def create(obj: Object | None) -> Object:
            seen.append(obj)
            return service(name)

        before, after = cluster.edit("Service", name, create)
        assert before is None
        assert seen == [None]
        assert cluster.get("Service", name) == after

    def test_an_edit_that_changes_nothing_writes_nothing(self, cluster: Cluster, name: str) -> None:
        first = cluster.apply(service(name))
        before, after = cluster.edit("Service", name, lambda obj: obj or {})
        assert before == after == first
        assert version_of(cluster.get("Service", name)) == version_of(first)

    def test_an_edit_that_raises_writes_nothing(self, cluster: Cluster, name: str) -> None:
        first = cluster.apply(service(name))

        def refuse(obj: Object | None) -> Object:
            raise LookupError("not like this")

        with pytest.raises(LookupError, match="not like this"):
            cluster.edit("Service", name, refuse)
        assert cluster.get("Service", name) == first

    def test_edits_at_the_same_time_lose_nothing(self, cluster: Cluster, name: str) -> None:
        cluster.apply(service(name))
        failures: list[Exception] = []

        def count(obj: Object | None) -> Object:
            assert obj is not None
            return dict(annotated(count=str(int(obj["metadata"].get("annotations", {}).get("count", "0")) + 1))(obj))

        def work() -> None:
            try:
                for _ in range(5):
                    cluster.edit("Service", name, count)
            except Exception as exc:  # noqa: BLE001 - shown by the assertion below
                failures.append(exc)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        final = cluster.get("Service", name)
        assert final is not None
        assert final["metadata"]["annotations"]["count"] == "20"

    def test_a_deleted_object_is_gone_once(self, cluster: Cluster, name: str) -> None:
        cluster.apply(service(name))
        assert cluster.delete("Service", name) is True
        assert cluster.get("Service", name) is None
        assert cluster.delete("Service", name) is False


class DeploymentContract:
    """Deployments run, say how many replicas are ready, and say why they are not."""

    def test_a_deployment_becomes_ready_and_says_so(self, cluster: Cluster, name: str, patience: float) -> None:
        cluster.apply(deployment(name, name, replicas=2))
        cluster.wait_ready(name, patience)
        found = cluster.get("Deployment", name)
        assert found is not None
        assert found["status"]["replicas"] == 2
        assert found["status"]["readyReplicas"] == 2
        assert cluster.delete("Deployment", name) is True
        assert cluster.get("Deployment", name) is None

    def test_scaling_is_seen_in_the_status(self, cluster: Cluster, name: str, patience: float) -> None:
        for replicas in (1, 3, 2):
            cluster.apply(deployment(name, name, replicas=replicas))
            cluster.wait_ready(name, patience)
            found = cluster.get("Deployment", name)
            assert found is not None
            assert found["status"]["readyReplicas"] == replicas

    def test_no_replicas_are_never_ready(self, cluster: Cluster, name: str) -> None:
        cluster.apply(deployment(name, name, replicas=0))
        with pytest.raises(NotReady, match=name):
            cluster.wait_ready(name, 1)
        found = cluster.get("Deployment", name)
        assert found is not None
        assert not found["status"].get("readyReplicas")

    def test_a_deployment_that_does_not_exist_is_not_found(self, cluster: Cluster, name: str) -> None:
        with pytest.raises(NotFound, match=name):
            cluster.wait_ready(name, 1)

    def test_a_server_that_ends_at_once_is_reported_with_its_last_words(
        self, cluster: Cluster, name: str, patience: float
    ) -> None:
        cluster.apply(deployment(name, name, version="m/404", mode="crash"))
        with pytest.raises(NotReady, match=name) as caught:
            cluster.wait_ready(name, patience)
        assert "no such model: m/404" in caught.value.detail

    def test_a_server_that_never_answers_is_reported_when_the_time_is_up(self, cluster: Cluster, name: str) -> None:
        cluster.apply(deployment(name, name, mode="unready"))
        with pytest.raises(NotReady, match=name):
            cluster.wait_ready(name, 1.5)
        found = cluster.get("Deployment", name)
        assert found is not None
        assert not found["status"].get("readyReplicas")


class TrafficContract:
    """Requests go where the objects say."""

    def test_an_endpoint_that_does_not_exist_has_no_address(self, cluster: Cluster, name: str) -> None:
        with pytest.raises(NotFound, match=name):
            cluster.address(name)

    def test_a_change_is_proved_by_its_id_and_nothing_else(self, cluster: Cluster, name: str, patience: float) -> None:
        self.serve(cluster, name, "a", patience=patience)
        assert cluster.wait_routed(change_probe(name, "change-1"), 120)
        with pytest.raises(NotRouted, match="change-2"):
            cluster.wait_routed(change_probe(name, "change-2"), 0.5)
        cluster.edit("VirtualService", name, with_spec(virtual_service(name, "change-2", {f"{name}-a": 100})))
        assert cluster.wait_routed(change_probe(name, "change-2"), 120)

    def test_a_pin_reaches_exactly_its_deployment(self, cluster: Cluster, name: str, patience: float) -> None:
        self.serve(cluster, name, "a", "b", patience=patience)
        for suffix in ("a", "b"):
            cluster.wait_routed(pin_probe(name, f"{name}-{suffix}", f"m/{suffix}"), 120)
        with pytest.raises(NotRouted):
            cluster.wait_routed(pin_probe(name, f"{name}-a", "m/b"), 0.5)

    def test_all_the_weight_is_all_the_requests(self, cluster: Cluster, name: str, patience: float) -> None:
        self.serve(cluster, name, "a", "b", patience=patience)
        for change, suffix in (("to-b", "b"), ("to-a", "a")):
            weights = {f"{name}-{other}": 100 * (other == suffix) for other in ("a", "b")}
            cluster.edit("VirtualService", name, with_spec(virtual_service(name, change, weights)))
            cluster.wait_routed(change_probe(name, change), 120)
            assert {self.ask(cluster, name)["version"] for _ in range(20)} == {f"m/{suffix}"}

    def test_an_unknown_subset_is_answered_with_503(self, cluster: Cluster, name: str, patience: float) -> None:
        self.serve(cluster, name, "a", patience=patience)
        weights = {f"{name}-a": 100, f"{name}-none": 0}
        cluster.edit("VirtualService", name, with_spec(virtual_service(name, "two", weights)))
        cluster.wait_routed(change_probe(name, "two"), 120)
        status, _, _ = request(cluster, name, headers={"x-mlflow-deployment": f"{name}-none"})
        assert status == 503

    def test_a_new_template_takes_over_only_when_it_is_ready(
        self, cluster: Cluster, name: str, patience: float
    ) -> None:
        self.serve(cluster, name, "a", patience=patience)
        broken = deployment(name, f"{name}-a", version="m/worse", mode="unready")
        cluster.apply(broken)
        with pytest.raises(NotReady):
            cluster.wait_ready(f"{name}-a", 1.5)
        assert {self.ask(cluster, name)["version"] for _ in range(10)} == {"m/a"}
        cluster.apply(deployment(name, f"{name}-a", version="m/better"))
        cluster.wait_ready(f"{name}-a", patience)
        better = Probe(
            virtual_service=name,
            path="/ping",
            headers={},
            expected_headers={"x-mlflow-model-version": "m/better"},
            purpose="the new template",
        )
        cluster.wait_routed(better, 120)
        assert {self.ask(cluster, name)["version"] for _ in range(10)} == {"m/better"}

    @staticmethod
    def serve(cluster: Cluster, name: str, *suffixes: str, patience: float) -> None:
        """An endpoint with one deployment for each suffix, all weight on the first."""
        names = [f"{name}-{suffix}" for suffix in suffixes]
        for suffix, one in zip(suffixes, names, strict=True):
            cluster.apply(deployment(name, one, version=f"m/{suffix}"))
        for one in names:
            cluster.wait_ready(one, patience)
        cluster.apply(service(name))
        cluster.apply(destination_rule(name, *names))
        weights = {one: 100 * (one == names[0]) for one in names}
        cluster.edit("VirtualService", name, with_spec(virtual_service(name, "change-1", weights)))
        cluster.wait_routed(change_probe(name, "change-1"), 120)
        for suffix, one in zip(suffixes, names, strict=True):
            cluster.wait_routed(pin_probe(name, one, f"m/{suffix}"), 120)

    @staticmethod
    def ask(cluster: Cluster, name: str) -> dict[str, str]:
        """One scored request's answer."""
        status, _, body = request(cluster, name, path="/invocations", method="POST")
        assert status == 200
        return dict(json.loads(body))


def request(
    cluster: Cluster, endpoint: str, *, path: str = "/", method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Send one request to an endpoint: status, headers (names in lower case), body."""
    address = cluster.address(endpoint)
    connection = http.client.HTTPConnection(urlsplit(address.url).netloc, timeout=60)
    try:
        connection.request(method, path, headers={**address.headers, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()
