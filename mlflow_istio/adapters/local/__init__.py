"""The local mesh: real Envoy and model servers as processes."""
