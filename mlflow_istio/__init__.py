"""Release MLflow model versions through Istio."""
