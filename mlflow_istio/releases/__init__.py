"""Use-cases on the ports: what each verb does, with no idea of who stands behind a port.

Four rooms, from the top: driving, deploying, moving, reading; they share context, reporting, ledger, guarded and dry_run.
May import ports, calls, report and core. Never in here: an adapter, an option as the user typed it, a line for a terminal.
"""
