"""Values to Kubernetes and Istio objects and back. The only room that knows the shape of a VirtualService.

May import endpoint and what lies below it. Never in here: which weights are right (moves); foreign fields stay raw dicts.
"""
