"""What a HorizontalPodAutoscaler or a KEDA ScaledObject holds of a Deployment: whose number of replicas is whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_istio.core.basics.objects import Object, name_of

AUTOSCALERS: Mapping[str, str] = {
    "ScaledObject": "keda.sh/v1alpha1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
}
"""Kinds that set a Deployment's replicas, with the API version that they are listed by; they are never written.

KEDA makes an autoscaler of its own for each of its objects, so that one is looked at first.
"""

_KEDA_MAX = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Autoscaler:
    """Who sets a Deployment's replicas.

    Attributes:
        kind: ``HorizontalPodAutoscaler`` or ``ScaledObject``.
        name: Its name.
        low: The fewest replicas it leaves.
        high: The most it makes.
    """

    kind: str
    name: str
    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' ({self.low} to {self.high})"


def autoscalers(objects: Mapping[str, Sequence[Object]]) -> dict[str, Autoscaler]:
    """Deployment to what scales it; defaults as the APIs document them (HPA: minReplicas 1; KEDA: 0 to 100).

    Args:
        objects: Kind to the objects of it.
    """
    by_workload: dict[str, Autoscaler] = {}
    for kind in AUTOSCALERS:
        for obj in objects.get(kind, ()):
            spec = _mapping(obj.get("spec"))
            target = _mapping(spec.get("scaleTargetRef"))
            if target.get("kind", "Deployment") != "Deployment" or not target.get("name"):
                continue
            if kind == "ScaledObject":
                low, high = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", _KEDA_MAX)
            else:
                low, high = spec.get("minReplicas", 1), spec.get("maxReplicas", 1)
            holds = Autoscaler(kind=kind, name=name_of(obj), low=int(low), high=int(high))
            by_workload.setdefault(str(target["name"]), holds)
    return by_workload


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
