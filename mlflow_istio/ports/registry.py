"""Where routing changes are written: the ledger, tags and aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mlflow_istio.core.basics.model_version import ModelReference, ModelVersion
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.registry_state import RegistryState
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.endpoint.routing_change import RoutingChange


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the registry says of a scope besides its history, for ``doctor``.

    Attributes:
        open_runs: Endpoint to (release id to run), for releases whose run has not ended; every endpoint it ever knew is a key.
        tags: ``MODEL/VERSION`` to those of its tags that are ours in this scope.
        versions: Every ``MODEL/VERSION`` there is of the models that were asked for.
        aliases: (registered model, alias) to version number.
        owners: (registered model, alias) to the ``SCOPE/ENDPOINT`` that owns it.
    """

    open_runs: Mapping[str, Mapping[str, str]]
    tags: Mapping[str, Mapping[str, str]]
    versions: frozenset[str]
    aliases: Mapping[tuple[str, str], int]
    owners: Mapping[tuple[str, str], str]


@runtime_checkable
class Registry(Protocol):
    """The MLflow model registry and tracking server: the ledger. It has no compare-and-swap, so it is never the lock."""

    def resolve(self, reference: ModelReference) -> ModelVersion:
        """Turn a reference into a version number, once, and check that it is ready and its files are there.

        Raises:
            NotFound: No such model, version, alias, or its files are gone.
            StateConflict: Its registration is pending or has failed.
            RegistryError: The registry can't be reached.
        """

    def check_aliases(self, model: str, aliases: Sequence[str], owner: str) -> None:
        """Refuse aliases of a registered model that another endpoint owns.

        Raises:
            StateConflict: Another SCOPE/ENDPOINT owns one; says which option to set.
            RegistryError: The registry can't be reached.
        """

    def check_place(self, scope: str, endpoint: str, *, take_over: bool = False) -> None:
        """Refuse an endpoint whose ledger another place of the same scope keeps; one that no place keeps is anybody's.

        A ledger is a place's from its first write there until the endpoint is gone. What this place writes of another's is refused.

        Args:
            scope: Scope of the endpoint.
            endpoint: The endpoint.
            take_over: Whether it is this place's from now on, whosever it was.

        Raises:
            StateConflict: It is another place's; says which options there are.
            RegistryError: The registry can't be reached.
        """

    def open_run(self, scope: str, endpoint: str, release: Release | None, *, new: bool = False) -> str:
        """The id of the MLflow run of a release (or the endpoint's standing run), created if there is none yet.

        Args:
            scope: Scope of the endpoint.
            endpoint: The endpoint.
            release: The release; None: the standing run.
            new: Whether the release is about to be opened, for which an id must not have been used up.

        Raises:
            StateConflict: The release is new, and a run of its id has another plan, or has ended.
            RegistryError: The tracking server can't be reached.
        """

    def check_run(self, scope: str, endpoint: str, release: Release) -> None:
        """Refuse what ``open_run`` with ``new`` would refuse, without opening a run.

        Raises:
            StateConflict: A run of the release's id has another plan, or has ended.
            RegistryError: The tracking server can't be reached.
        """

    def close_run(self, run: str, outcome: str) -> None:
        """End a release's run with its outcome; ending it twice is fine.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def record(self, scope: str, change: RoutingChange, objects: Mapping[str, Object]) -> tuple[str, ...]:
        """Write one routing change; writing the same change again changes nothing.

        A change whose run somebody deleted goes to the endpoint's standing run.

        Args:
            scope: Scope of the endpoint.
            change: The change; without a run it goes to its release's run or the standing run.
            objects: Artifacts by file stem, such as ``before`` and ``after``; may be empty.

        Returns:
            Warnings, one line each.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def history(self, scope: str, endpoint: str) -> Sequence[RoutingChange]:
        """All recorded changes of an endpoint, by sequence.

        Raises:
            RegistryError: The tracking server can't be reached.
        """

    def survey(self, scope: str, models: Sequence[str]) -> Survey:
        """What the registry says of a scope now.

        Args:
            scope: The scope.
            models: Registered models whose tags and aliases are wanted.

        Raises:
            RegistryError: The registry can't be reached.
        """

    def publish(self, standing: RegistryState) -> tuple[str, ...]:
        """Make the tags and aliases say what stands now; writes only what differs.

        An alias that points to nothing is taken away, and is free for another endpoint once no version of its model is served.
        What can't be written holds back nothing else.

        Returns:
            Warnings, one line for each served version that is gone from the registry: of it nothing can be written any more.

        Raises:
            RegistryError: The registry can't be reached, or refused a part; the rest is written.
        """
