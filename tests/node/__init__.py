"""A real node for tests: kubelet, containerd, the images we ship, injected sidecars and mTLS. See README.md."""
