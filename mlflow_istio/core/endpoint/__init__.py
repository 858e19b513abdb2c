"""An endpoint as one frozen value: traffic, release, deadlines, changes, and what the registry should say of it.

May import policy and what lies below it. Never in here: how any of it is written on an object (mesh).
"""
