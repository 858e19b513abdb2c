"""What a user may say: one pydantic model for each verb, and the help text made from them.

May import releases (a few of its values) and core. Never in here: I/O, or what an option does; models check and hand values on.
"""
