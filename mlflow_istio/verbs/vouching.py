"""Who vouches for callers where a source of figures can't tell which of them chose their arm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_istio.core.matching.pin_guard import has_gateway
from mlflow_istio.releases.context import Context, endpoint_of, root_of, virtual_service_of

if TYPE_CHECKING:
    from mlflow_istio.core.release.plan import ReleasePlan
    from mlflow_istio.options.release import ReleaseOptions

OF_A_KPI = ("rate", "mean")
"""Kinds of guards whose figures are a user's own."""


def unvouched(context: Context, name: str, options: ReleaseOptions, plan: ReleasePlan) -> str:
    """What strangers can do to a release on a cluster, in one line; empty where they can't, or somebody vouches for callers.

    Istio's series and a gateway's Envoy count a request that chose its arm, by header, cookie or match, as one that the weights
    dealt. Behind no gateway, callers are the mesh's own.
    """
    asked = options.traffic_request
    chosen = plan.strategy == "ab" or asked.match is not None or asked.arms is not None
    counted = [guard.name for guard in plan.guards if guard.kind not in OF_A_KPI]
    if not chosen or not counted or options.randomised is True or options.metrics == "none":
        return ""
    endpoint = endpoint_of(context.cluster, name)
    if not has_gateway(root_of(context.cluster, endpoint) or virtual_service_of(context.cluster, name)):
        return ""
    return (
        f"callers at the gateway who choose their arm, by header, cookie or match, count for {', '.join(counted)}, since no "
        "source on a cluster tells them from those that the weights dealt: where strangers call, let the gateway set what decides, "
        "or watch a KPI of yours; randomised=true says that you vouch for them"
    )
