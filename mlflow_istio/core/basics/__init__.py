"""Words that all other rooms use: names, objects as raw dicts, durations, targets, model versions.

May import errors alone. Never in here: anything that knows what an endpoint is.
"""
