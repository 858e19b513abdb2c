"""Tests of the real control plane fail outside the testbed, and say how to run them.

A skip would hide that nothing was proved.
"""

from __future__ import annotations

import os

import pytest

from tests.testbed.client import HOW_TO_RUN, SOCKET_VARIABLE


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fails a test marked `control_plane` before any of its fixtures when no testbed is around it."""
    if item.get_closest_marker("control_plane") and SOCKET_VARIABLE not in os.environ:
        pytest.fail(f"needs the real control plane around it: {HOW_TO_RUN}", pytrace=False)
