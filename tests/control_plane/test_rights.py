"""Every right of deploy/rbac.yaml: without it one error names it, with it the suite's user can do all there is to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import yaml
from kubernetes import client

from mlflow_istio.adapters.kubernetes import KubernetesCluster
from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.errors import Forbidden
from tests.contract.model_server import service
from tests.control_plane.namespaces import RBAC, admin
from tests.control_plane.office import Office, open_office
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

KINDS = {
    "deployments": ("apps", "Deployment"),
    "services": ("", "Service"),
    "virtualservices": ("networking.istio.io", "VirtualService"),
    "destinationrules": ("networking.istio.io", "DestinationRule"),
}
VERBS = ("get", "list", "create", "update", "patch", "delete")
HELPFUL = {
    *(("replicasets", "list"), ("pods", "list"), ("events", "list"), ("pods/log", "get"), ("namespaces", "get")),
    *(("horizontalpodautoscalers", "list"), ("scaledobjects", "list")),
}
"""Rights without which everything works, only with less to say: test_bad_input.py and test_autoscalers.py have their tests."""


def thing(kind: str, name: str) -> Object:
    """The smallest object of a kind that the API server takes."""
    if kind == "Service":
        return service(name)
    container = {"name": "main", "image": "any", "command": ["sleep", "1"]}
    labels = {"app": name}
    spec: Object = {
        "Deployment": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
        "DestinationRule": {"host": name},
        "VirtualService": {
            "hosts": [name],
            "http": [{"name": "all", "route": [{"destination": {"host": name}}]}],
        },
    }[kind]
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": {"name": name}, "spec": spec}


def labelled(obj: Object | None) -> Object:
    assert obj is not None
    return {**obj, "metadata": {**obj["metadata"], "labels": {"touched": "yes"}}}


USES: dict[str, Callable[[KubernetesCluster, str], object]] = {
    "get": lambda cluster, kind: cluster.get(kind, "there"),
    "list": lambda cluster, kind: cluster.list(kind, {}),
    "create": lambda cluster, kind: cluster.edit(kind, "new", lambda _: thing(kind, "new")),
    "update": lambda cluster, kind: cluster.edit(kind, "there", labelled),
    "patch": lambda cluster, kind: cluster.apply(thing(kind, "there")),
    "delete": lambda cluster, kind: cluster.delete(kind, "there"),
}
"""What the adapter does with each right."""


@pytest.fixture(scope="module")
def place() -> Iterator[Office]:
    """A namespace with one object of each kind."""
    with open_office(patience=1.0) as office:
        for _, kind in KINDS.values():
            office.cluster.edit(kind, "there", lambda _, kind=kind: thing(kind, "there"))
        yield office


def set_rules(office: Office, rules: list[Object], review: Object, *, allowed: bool) -> None:
    """Give the least-privilege user's role other rules, and wait until the API server goes by them."""
    with admin() as api:
        role = client.RbacAuthorizationV1Api(api).read_namespaced_role("mlflow-istio", office.namespace)
        role.rules = rules
        client.RbacAuthorizationV1Api(api).replace_namespaced_role("mlflow-istio", office.namespace, role)
        subject = {"user": "least", "resourceAttributes": {**review, "namespace": office.namespace}}

        def may() -> bool:
            made = client.AuthorizationV1Api(api).create_subject_access_review({"spec": subject})
            return bool(made.status.allowed)

        wait_for("the role to take effect", lambda: may() is allowed)


def role_rules() -> list[Object]:
    """The rules for the models' namespace, as deploy/rbac.yaml has them."""
    documents = yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
    (role,) = (obj for obj in documents if obj["kind"] == "Role" and obj["metadata"]["namespace"] == "models")
    return list(role["rules"])


def without(rules: list[Object], resource: str, verb: str) -> list[Object]:
    """The rules without one verb on one resource."""
    left: list[Object] = []
    for rule in rules:
        others = [one for one in rule["resources"] if one != resource]
        if resource not in rule["resources"]:
            left.append(rule)
            continue
        verbs = [one for one in rule["verbs"] if one != verb]
        left += [{**rule, "resources": [resource], "verbs": verbs}] if verbs else []
        left += [{**rule, "resources": others}] if others else []
    return left


def test_the_table_below_has_every_right_of_the_manifest() -> None:
    given = {(resource, verb) for rule in role_rules() for resource in rule["resources"] for verb in rule["verbs"]}
    assert given == {(resource, verb) for resource in KINDS for verb in VERBS} | HELPFUL


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("resource", KINDS)
def test_a_missing_right_is_named_and_once_it_is_granted_the_same_call_works(
    place: Office, resource: str, verb: str
) -> None:
    group, kind = KINDS[resource]
    rules, review = role_rules(), {"group": group, "resource": resource, "verb": verb}
    set_rules(place, without(rules, resource, verb), review, allowed=False)
    full_name = f"{resource}.{group}" if group else resource
    words = f"user 'least' of context '.*' may not {verb} {full_name} in namespace '{place.namespace}': grant it"
    try:
        with pytest.raises(Forbidden, match=words) as caught:
            USES[verb](place.cluster, kind)
        assert "\n" not in caught.value.message
    finally:
        set_rules(place, rules, review, allowed=True)

    USES[verb](place.cluster, kind)

    place.cluster.delete(kind, "new")
    if place.cluster.get(kind, "there") is None:
        place.cluster.edit(kind, "there", lambda _: thing(kind, "there"))


@pytest.mark.parametrize("resource", KINDS)
def test_applying_what_is_not_there_names_the_right_to_create(place: Office, resource: str) -> None:
    """Server-side apply of a new object needs two rights; the API server's answer is about the one that is missing."""
    group, kind = KINDS[resource]
    rules, review = role_rules(), {"group": group, "resource": resource, "verb": "create"}
    set_rules(place, without(rules, resource, "create"), review, allowed=False)
    try:
        with pytest.raises(Forbidden, match=f"may not create {resource}"):
            place.cluster.apply(thing(kind, "new"))
    finally:
        set_rules(place, rules, review, allowed=True)
    place.cluster.apply(thing(kind, "new"))
    place.cluster.delete(kind, "new")
