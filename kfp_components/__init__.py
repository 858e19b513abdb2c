"""Kubeflow Pipelines components over the verbs of ``mlflow_istio``: they parse, call a verb and return typed results.

One module for each component, which declares it; ``steps`` does the work and needs no pipeline to be tested. Nothing is
decided here.
"""

from __future__ import annotations

try:
    import kfp  # noqa: F401
except ImportError as exc:
    raise ImportError("kfp_components needs Kubeflow Pipelines: pip install 'mlflow-istio[kfp]'") from exc

from kfp_components.approval import wait_for_approval
from kfp_components.deploy import deploy_version
from kfp_components.ledger import read_ledger
from kfp_components.promote import promote_candidate
from kfp_components.rollback import roll_back_release, roll_back_unless_succeeded
from kfp_components.traffic import set_traffic

__all__ = [
    "deploy_version",
    "promote_candidate",
    "read_ledger",
    "roll_back_release",
    "roll_back_unless_succeeded",
    "set_traffic",
    "wait_for_approval",
]
