"""Fixtures for tests on the real control plane."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.control_plane.office import Office, open_office
from tests.control_plane.standing import Standing, open_standing
from tests.testbed.client import Testbed


@pytest.fixture
def office() -> Iterator[Office]:
    """A namespace of the test's own with the use-cases in it, as the least-privilege user."""
    with open_office() as opened:
        yield opened


@pytest.fixture(scope="module")
def standing() -> Iterator[Standing]:
    """Three deployed versions for a module's tests; m-v1 has all traffic, nothing is open."""
    with open_standing() as opened:
        yield opened


@pytest.fixture
def settled(standing: Standing) -> Iterator[Office]:
    """That office, made as it was again after the test."""
    yield standing.office
    standing.reset()


@pytest.fixture
def bed() -> Iterator[Testbed]:
    """The testbed, made whole again after the test."""
    testbed = Testbed.of_this_process()
    yield testbed
    testbed.heal()
