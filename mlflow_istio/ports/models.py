"""Where model versions come from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from mlflow_istio.core.basics.model_card import ModelCard


@runtime_checkable
class Models(Protocol):
    """What model versions say of themselves."""

    def card(self, label: str) -> ModelCard:
        """Signature and input example of the model version ``MODEL/VERSION``.

        Raises:
            NotFound: There is no such version, or its files are gone.
            RegistryError: The registry can't be reached.
        """
