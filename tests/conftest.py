"""What holds for all tests."""

from tests.testbed.guard import pytest_runtest_setup

__all__ = ["pytest_runtest_setup"]
