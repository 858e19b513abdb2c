"""Jinja2 templates of the Kubernetes objects; a user may override each by a folder of the same names."""
