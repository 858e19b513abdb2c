"""Kubeflow Pipelines components: still to be built (see CHANGELOG.md); nothing is exported yet."""
