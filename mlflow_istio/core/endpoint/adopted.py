"""What an endpoint took over from somebody's VirtualService, remembered on that object so that it can be given back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.traffic import Destination, destination_from_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """One route of a VirtualService that was there before us.

    Attributes:
        virtual_service: Name of the VirtualService; it stays its owner's, and may have any name.
        stable: The destination that users got before us.
        route: The route's destinations as they were, entry by entry.
    """

    virtual_service: str
    stable: Destination
    route: tuple[Object, ...]

    def as_json(self) -> Object:
        """A JSON form; ``adopted_from_json`` reads it back."""
        return {
            "virtualService": self.virtual_service,
            "stable": self.stable.as_json(),
            "route": list(self.route),
        }


def adopted_from_json(obj: Mapping[str, Any], endpoint: str) -> Adopted:
    """Read what ``Adopted.as_json`` wrote of an endpoint."""
    return Adopted(
        virtual_service=str(obj["virtualService"]),
        stable=destination_from_json(obj["stable"], endpoint),
        route=tuple(dict(entry) for entry in obj["route"]),
    )
