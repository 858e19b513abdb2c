"""A release that goes on by itself: who drives it, one look after the other, its end, and whom to tell.

May import the other rooms of releases. Never in here: the decision itself; that is core.release, as pure functions.
"""
