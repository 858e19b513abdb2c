"""Plays the node: runs the pods' containers as processes, each pod on a network host of its own.

Not a kubelet: no images, no cgroups, no users; see the README for what is honoured.
"""
