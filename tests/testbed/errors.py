"""What the testbed raises.

TestbedError
└── the one error of this package: its text names the thing that failed and what to do.
"""

from __future__ import annotations


class TestbedError(Exception):
    """The testbed can't do what it was asked; the text says why and what to do."""

    __test__ = False
