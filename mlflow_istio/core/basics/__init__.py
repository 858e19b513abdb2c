"""Words that all other rooms use: names, objects as raw dicts, durations, targets, model versions, and how values are stored.

May import errors alone. Never in here: anything that knows what an endpoint is.
"""
