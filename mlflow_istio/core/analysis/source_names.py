"""The names of sources of figures: ours, and those that other packages bring by an entry point of ``mlflow_istio.metrics``."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from mlflow_istio.core.basics.plugins import installed_entry

GROUP = "mlflow_istio.metrics"
BUILT_IN = ("auto", "prometheus", "envoy", "none")


def installed_source(name: str) -> EntryPoint:
    """The entry point of a source that an installed package brings.

    Raises:
        InvalidInput: No package brings it.
    """
    return installed_entry(GROUP, name, BUILT_IN, f"metrics {name!r}")


def check_source(name: str) -> str:
    """Return the name.

    Raises:
        InvalidInput: It is none of ours, and no installed package brings it.
    """
    if name not in BUILT_IN:
        installed_source(name)
    return name
