"""Namespaces of a test's own on the testbed, and the least-privilege user's rights in them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from tests.testbed.client import wait_for

RBAC = Path(__file__).parents[2] / "deploy" / "rbac.yaml"
LEAST = "least"


def kubeconfig(user: str) -> str:
    """The kubeconfig of the testbed's user ``admin`` or ``least``."""
    return os.environ["KUBECONFIG" if user == "admin" else "KUBECONFIG_LEAST"]


@contextmanager
def admin() -> Iterator[client.ApiClient]:
    """A client with all rights."""
    with config.new_client_from_config(kubeconfig("admin")) as api:
        yield api


@contextmanager
def fresh_namespace(prefix: str = "test") -> Iterator[str]:
    """A namespace that is ready for pods, deleted afterwards."""
    name = f"{prefix}-{uuid.uuid4().hex[:6]}"
    with admin() as api:
        core = client.CoreV1Api(api)
        core.create_namespace({"metadata": {"name": name}})
        wait_for(
            "the namespace's service account",
            lambda: any(one.metadata.name == "default" for one in core.list_namespaced_service_account(name).items),
        )
        yield name
        core.delete_namespace(name)


def give_least_rights(namespace: str, *, without: str | None = None) -> None:
    """Give the least-privilege user deploy/rbac.yaml's rights in a namespace.

    Args:
        namespace: The models' namespace.
        without: A resource to leave out.
    """
    with admin() as api:
        rbac = client.RbacAuthorizationV1Api(api)
        for obj in yaml.safe_load_all(RBAC.read_text(encoding="utf-8")):
            place = obj["metadata"]["namespace"].replace("models", namespace)
            bare = {**obj, "metadata": {"name": obj["metadata"]["name"]}}
            if obj["kind"] == "Role":
                bare["rules"] = [_without(rule, without) for rule in obj["rules"]]
                bare["rules"] = [rule for rule in bare["rules"] if rule["resources"]]
                _create(rbac.create_namespaced_role, place, bare)
            else:
                bare["subjects"] = [{**subject, "name": LEAST} for subject in obj["subjects"]]
                _create(rbac.create_namespaced_role_binding, place, bare)


def _without(rule: dict[str, Any], resource: str | None) -> dict[str, Any]:
    return {**rule, "resources": [one for one in rule["resources"] if one != resource]}


def _create(create: Any, namespace: str, body: dict[str, Any]) -> None:
    """Create what is not there yet: the gateway's namespace is shared by all tests."""
    try:
        create(namespace, body)
    except client.ApiException as exc:
        if exc.status != 409:
            raise
