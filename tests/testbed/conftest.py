"""Fixtures for tests that run in the testbed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from kubernetes import client, config

from tests.testbed.client import Testbed, wait_for
from tests.testbed.workloads import Cluster


@pytest.fixture(scope="session")
def bed() -> Testbed:
    """The testbed around this test run."""
    return Testbed.of_this_process()


@pytest.fixture(scope="session")
def admin() -> Iterator[client.ApiClient]:
    """A client with all rights."""
    with config.new_client_from_config(os.environ["KUBECONFIG"]) as api:
        yield api


@pytest.fixture(scope="session")
def least() -> Iterator[client.ApiClient]:
    """A client of the user `least`, who has no rights but those a test gives."""
    with config.new_client_from_config(os.environ["KUBECONFIG_LEAST"]) as api:
        yield api


@pytest.fixture
def cluster(admin: client.ApiClient) -> Iterator[Cluster]:
    """A namespace of the test's own, ready for pods."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    core = client.CoreV1Api(admin)
    core.create_namespace({"metadata": {"name": namespace}})
    wait_for(
        "the namespace's service account",
        lambda: any(one.metadata.name == "default" for one in core.list_namespaced_service_account(namespace).items),
    )
    yield Cluster(api=admin, namespace=namespace)
    core.delete_namespace(namespace)
