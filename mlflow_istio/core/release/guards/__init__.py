"""Kinds of guards: one module each, and a table of them.

May import ``core.analysis`` and ``core.basics``; nothing else of ``core.release``.
"""
