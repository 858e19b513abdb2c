"""Whether a source of metrics tells how an endpoint's calls end."""

from __future__ import annotations

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.errors import InvalidInput
from mlflow_istio.ports.metrics import KnownProtocols, Metrics


def check_told(metrics: Metrics | None, endpoint: Endpoint) -> None:
    """Refuse figures in which every call looks well.

    Raises:
        InvalidInput: The source doesn't tell the errors of the protocol that the endpoint speaks.
    """
    if isinstance(metrics, KnownProtocols) and endpoint.protocol not in metrics.protocols:
        raise InvalidInput(
            f"{metrics.name} doesn't tell how calls of endpoint '{endpoint.name}' end, which speaks {endpoint.protocol}: use "
            "metrics=prometheus with Istio's series, a KPI of your own, or analysis=none"
        )
