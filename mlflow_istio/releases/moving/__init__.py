"""What changes routes: weights, mirrors, policies, faults, and the proof at the proxies that a change has arrived.

May import reading and what all use-cases share. Never in here: deployments that come or go (deploying).
"""
