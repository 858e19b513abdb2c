"""The model server: MLflow's own scoring app with a version header, metrics and a recorder."""
