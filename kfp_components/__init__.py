"""Kubeflow Pipelines components over the verbs of ``mlflow_istio``: they parse, call a verb and return typed results.

One module for each component, which declares it; ``steps`` does the work and needs no pipeline to be tested. Nothing is
decided here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    import kfp  # noqa: F401
except ImportError as exc:
    raise ImportError("kfp_components needs Kubeflow Pipelines: pip install 'mlflow-istio[kfp]'") from exc

if TYPE_CHECKING:
    from kfp_components.analyse import analyse_release
    from kfp_components.approval import wait_for_approval
    from kfp_components.compare import compare_shadow
    from kfp_components.declare import declare_winner
    from kfp_components.delete import delete_deployment, delete_endpoint
    from kfp_components.deploy import deploy_version
    from kfp_components.environment import configure_steps as configure_steps
    from kfp_components.images import step_image as step_image
    from kfp_components.images import use_image as use_image
    from kfp_components.ledger import read_ledger
    from kfp_components.promote import promote_candidate
    from kfp_components.release import release_version
    from kfp_components.rollback import roll_back_release, roll_back_unless_succeeded
    from kfp_components.traffic import set_traffic

SETTINGS = ("configure_steps", "step_image", "use_image")
"""What is beside the components: how all steps of a pipeline run."""

__all__ = [
    "analyse_release",
    "compare_shadow",
    "declare_winner",
    "delete_deployment",
    "delete_endpoint",
    "deploy_version",
    "promote_candidate",
    "read_ledger",
    "release_version",
    "roll_back_release",
    "roll_back_unless_succeeded",
    "set_traffic",
    "wait_for_approval",
]

_MODULES = {
    "analyse_release": "analyse",
    "compare_shadow": "compare",
    "configure_steps": "environment",
    "declare_winner": "declare",
    "delete_deployment": "delete",
    "delete_endpoint": "delete",
    "deploy_version": "deploy",
    "promote_candidate": "promote",
    "read_ledger": "ledger",
    "release_version": "release",
    "roll_back_release": "rollback",
    "roll_back_unless_succeeded": "rollback",
    "set_traffic": "traffic",
    "step_image": "images",
    "use_image": "images",
    "wait_for_approval": "approval",
}


def __getattr__(name: str) -> Any:
    """A component, or a setting of pipelines, imported when it is first asked for.

    A step that runs imports ``kfp_components.steps`` while KFP itself is only half there (its executor leaves out all that declares
    components), so nothing may be declared by this module.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'kfp_components' has no component or setting '{name}'")
    return getattr(importlib.import_module(f"kfp_components.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """The components and settings."""
    return sorted(_MODULES)
