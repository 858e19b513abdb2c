"""What terminals and notebooks show: tables, the live view of a release, plots.

May import verbs and whatever lies below. Never in here: a question to a cluster or a registry; all that is shown was handed in.
"""
