"""Laptop = istiod: the same objects and requests on the local mesh and on the real istiod, with the same answers.

``cases/*.yaml`` hold the cases (README.md says how to write one), ``answers/*.json`` what the real istiod and Envoy
answered. The control-plane half checks that those are current, the local half that the local mesh answers the same.
"""
