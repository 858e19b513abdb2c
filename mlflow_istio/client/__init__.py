"""The MLflow deployment plugin: the client that MLflow finds, its further verbs, its display in notebooks, its errors.

May import showing, verbs and whatever lies below. Never in here: a decision; a method parses, calls a verb and hands its answer on.
"""
