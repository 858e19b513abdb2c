"""Every verb on a target, for the CLI, the plugin, notebooks and pipelines alike: options in, use-case, plain values out.

May import options, wiring, releases and whatever lies below. Never in here: MLflow at the head of a module; a verb that needs the
registry imports it when it runs.
"""

from mlflow_istio.verbs.analysis import AnalysisVerbs
from mlflow_istio.verbs.base import Config, Result
from mlflow_istio.verbs.deployments import DeploymentVerbs
from mlflow_istio.verbs.endpoints import EndpointVerbs
from mlflow_istio.verbs.plans import PlanVerbs
from mlflow_istio.verbs.policy import PolicyVerbs
from mlflow_istio.verbs.reading import ReadingVerbs
from mlflow_istio.verbs.release import ReleaseVerbs

__all__ = ["Config", "Result", "Verbs"]


class Verbs(
    AnalysisVerbs,
    DeploymentVerbs,
    EndpointVerbs,
    PlanVerbs,
    PolicyVerbs,
    ReadingVerbs,
    ReleaseVerbs,
):
    """All verbs on one target; each family stands in a module of its own."""
