"""A real Kubernetes cluster with Istio, as a ``Cluster``. The only importer of the ``kubernetes`` client (30 to 37).

::

    cluster      the port: get, list, apply, edit, delete, and what the others answer
    api_server   kubeconfig or in-cluster settings -> a client, a namespace
    resources    the kinds of objects, as the API server's paths have them
    api_calls    one request as a value, sent in one place, with bounded retries
    failures     every foreign error -> one of ours, once
    rollout      is a Deployment's current revision up, and if not, why (pure)
    readiness    waits for that, and collects the pods' last words
    exposure     which hosts and gateways a VirtualService has (pure)
    proxies      finds the gateway's address and asks it

May import what adapters may. Never in here: a typed model of the client's, which would lose fields that it does not know.
"""

from __future__ import annotations

from mlflow_istio.adapters.kubernetes.cluster import KubernetesCluster, connect

__all__ = ["KubernetesCluster", "connect"]
