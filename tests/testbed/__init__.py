"""A real Kubernetes control plane, a real istiod and a real Envoy gateway, as plain processes without containers."""
