"""A real Kubernetes cluster with Istio, as a ``Cluster``. The only importer of the ``kubernetes`` client (30 to 37).

::

    cluster      the port: get, list, apply, edit, delete, and what the others answer
    connection   kubeconfig or in-cluster settings -> a client, a namespace
    calls        one request as a value, sent in one place, with bounded retries
    failures     every foreign error -> one of ours, once
    rollout      is a Deployment's current revision up, and if not, why (pure)
    readiness    waits for that, and collects the pods' last words
    exposure     which hosts and gateways a VirtualService has (pure)
    proxies      finds the gateway's address and asks it
"""

from __future__ import annotations

from mlflow_istio.adapters.kubernetes.cluster import KubernetesCluster, connect

__all__ = ["KubernetesCluster", "connect"]
