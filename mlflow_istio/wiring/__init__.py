"""From a target's URI to adapters: the only place that chooses who stands behind a port.

May import adapters, releases and options. Never in here: use-cases; whoever has a Connection calls those of releases.
"""
