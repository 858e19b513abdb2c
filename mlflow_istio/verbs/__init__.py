"""Every verb on a target, for the CLI, the plugin, notebooks and pipelines alike: options in, use-case, plain values out.

May import options, wiring, releases and whatever lies below. Never in here: MLflow at the head of a module; a verb that needs the
registry imports it when it runs.
"""

from mlflow_istio.verbs.adoption import AdoptionVerbs
from mlflow_istio.verbs.analysis import AnalysisVerbs
from mlflow_istio.verbs.base import Config, Result
from mlflow_istio.verbs.chaos import ChaosVerbs
from mlflow_istio.verbs.deployments import DeploymentVerbs
from mlflow_istio.verbs.doctor import DoctorVerbs
from mlflow_istio.verbs.endpoints import EndpointVerbs
from mlflow_istio.verbs.explain import ExplainingVerbs
from mlflow_istio.verbs.export import ExportingVerbs
from mlflow_istio.verbs.plans import PlanVerbs
from mlflow_istio.verbs.policy import PolicyVerbs
from mlflow_istio.verbs.reading import ReadingVerbs
from mlflow_istio.verbs.release import ReleaseVerbs
from mlflow_istio.verbs.report import ReportVerbs

__all__ = ["Config", "Result", "Verbs"]


class Verbs(
    AdoptionVerbs,
    AnalysisVerbs,
    ChaosVerbs,
    DeploymentVerbs,
    DoctorVerbs,
    EndpointVerbs,
    ExplainingVerbs,
    ExportingVerbs,
    PlanVerbs,
    PolicyVerbs,
    ReadingVerbs,
    ReleaseVerbs,
    ReportVerbs,
):
    """All verbs on one target; each family stands in a module of its own."""
