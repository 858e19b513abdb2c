"""Kinds of guards, one module each, and a table of them: how a guard's terms become a test, and what it is told of each interval.

May import core.analysis and core.basics. Never in here: a plan or a verdict; a kind knows its terms and its test.
"""
