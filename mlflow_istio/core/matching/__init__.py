"""Requests and matches: match rules as a user says them, a request held against them, the way into an endpoint, probes.

May import basics and analysis. Never in here: what becomes of a request that matched.
"""
