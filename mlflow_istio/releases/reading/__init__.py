"""What only looks: views of endpoints and deployments, explanations, findings, exports.

May import what all use-cases share. Never in here: a write, to the cluster or to the registry.
"""
