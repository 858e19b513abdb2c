"""The outside world, one file or folder for each third party: Kubernetes, the local mesh, MLflow, Envoy, Prometheus.

May import calls, ports, core and errors; never each other, never releases. Never in here: a decision about a release.
"""
