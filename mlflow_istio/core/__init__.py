"""What is pure: values, and functions from values to values. Every rule of routing and every decision is in here.

Rooms, from the top: release, moves and inspection, mesh, endpoint, policy, matching, basics and analysis; each imports those
below it. May import errors, numpy and scipy. Never in here: I/O, a clock, chance, a third party's client.
"""
