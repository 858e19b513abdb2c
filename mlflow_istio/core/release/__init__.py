"""A release that goes on by itself, as pure functions: its plan, its evidence, the judgement of a look, and what comes next.

May import every other room of the core. Never in here: a clock or a cluster; time and counts are arguments.
"""
