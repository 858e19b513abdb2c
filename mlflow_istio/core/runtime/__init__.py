"""Which server runs behind a deployment: how it is started, seen to be ready, asked, and known by its answers.

May import ``basics`` only. Never in here: what a deployment serves, objects of Kubernetes, requests.
"""
