"""What an endpoint took over from somebody's VirtualService, remembered on that object so that it can be given back."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import stored
from mlflow_istio.core.endpoint.traffic import Destination


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """One route of a VirtualService that was there before us.

    Attributes:
        virtual_service: Name of the VirtualService; it stays its owner's, and may have any name.
        stable: The destination that users got before us.
        route: The route's destinations as they were, entry by entry.
        services: Hosts of the owner's in that route behind which a Service has stood: where it is gone, nobody answers. A host
            outside of the cluster never had one.
    """

    virtual_service: str = field(metadata=stored(name="virtualService"))
    stable: Destination
    route: tuple[Object, ...]
    services: tuple[str, ...] = field(default=(), metadata=stored(sparse=True))
