"""Fixtures for tests on the real control plane."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.control_plane.office import Office, open_office
from tests.testbed.client import Testbed


@pytest.fixture
def office() -> Iterator[Office]:
    """A namespace of the test's own with the use-cases in it, as the least-privilege user."""
    with open_office() as opened:
        yield opened


@pytest.fixture
def bed() -> Iterator[Testbed]:
    """The testbed, made whole again after the test."""
    testbed = Testbed.of_this_process()
    yield testbed
    testbed.heal()
