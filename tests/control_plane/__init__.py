"""Tests on the real API server, istiod and Envoy; they run inside the testbed."""
