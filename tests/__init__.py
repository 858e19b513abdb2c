"""Tests of mlflow_istio."""
