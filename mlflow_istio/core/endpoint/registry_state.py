"""What the registry should say about an endpoint right now: tags per version, and aliases.

Always computed from the current object, never from an old entry of the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow_istio.core.basics.model_version import parse_label
from mlflow_istio.core.endpoint.endpoint import Endpoint

DEFAULT_ALIASES: Mapping[str, str] = {"stable": "champion", "candidate": "challenger"}
_RANK = {"stable": 0, "candidate": 1, "holdback": 2, "control": 3, "idle": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """How one model version stands at one endpoint.

    Attributes:
        version: ``MODEL/VERSION``.
        weight: Percent of the live traffic.
        role: stable, candidate, holdback, control or idle.
        strategy: Strategy of the open release it belongs to; empty when none.
        release: Id of that release; empty when none.
        control: Deployment that serves it as a control, beside the one that gives it its role; empty when none.
    """

    version: str
    weight: int
    role: str
    strategy: str = ""
    release: str = ""
    control: str = ""

    def tags(self, scope: str, endpoint: str) -> dict[str, str]:
        """The model version's tags; keys are under 250 characters."""
        start = f"istio.{scope}.{endpoint}."
        tags = {f"{start}weight": str(self.weight), f"{start}role": self.role}
        if self.strategy:
            tags |= {f"{start}strategy": self.strategy, f"{start}release": self.release}
        if self.control:
            tags |= {f"{start}control": self.control}
        return tags


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryState:
    """Everything the registry should say about an endpoint besides its history.

    Attributes:
        scope: Namespace, or ``local-MESH``.
        endpoint: The endpoint.
        served: Versions behind the endpoint.
        removed: ``MODEL/VERSION`` of versions that are behind it no longer.
        aliases: (registered model, alias) to the version number it points to; None: it points to nothing of ours.
        gone: Whether the endpoint is gone, or on its way: its ledger is anybody's then.
    """

    scope: str
    endpoint: str
    served: tuple[Served, ...]
    removed: tuple[str, ...] = ()
    aliases: Mapping[tuple[str, str], int | None]
    gone: bool = False

    @property
    def owner(self) -> str:
        """Who owns the aliases: ``SCOPE/ENDPOINT``."""
        return f"{self.scope}/{self.endpoint}"

    @property
    def models(self) -> frozenset[str]:
        """Registered models with a version behind the endpoint; only of these does it own aliases."""
        return frozenset(parse_label(served.version).model for served in self.served)


def alias_names(settings: Mapping[str, str]) -> dict[str, str]:
    """Role to alias, as the endpoint's settings have it; an empty name means: no alias."""
    names = {role: settings.get(f"{role}_alias", default) for role, default in DEFAULT_ALIASES.items()}
    return {role: name for role, name in names.items() if name}


def registry_state_of(
    endpoint: Endpoint, scope: str, versions: Mapping[str, str], removed: Iterable[str] = ()
) -> RegistryState:
    """Compute the standing from the endpoint as it is; behind one that is being deleted stands nothing any more.

    Args:
        endpoint: The endpoint.
        scope: Its scope.
        versions: Deployment to ``MODEL/VERSION``, for every deployment there is.
        removed: ``MODEL/VERSION`` of deployments taken away.
    """
    release = endpoint.release
    served: dict[str, Served] = {}
    for deployment in () if endpoint.deleting else endpoint.traffic.pins:
        version = versions.get(deployment)
        if not version:
            continue
        role = endpoint.role_of(deployment)
        in_release = release is not None and role != "idle"
        served_version = Served(
            version=version,
            weight=endpoint.traffic.weights.get(deployment, 0),
            role=role,
            strategy=release.strategy if release and in_release else "",
            release=release.id if release and in_release else "",
            control=deployment if role == "control" else "",
        )
        served[version] = _joined(served[version], served_version) if version in served else served_version
    gone = tuple(sorted({version for version in removed if version not in served}))
    aliases: dict[tuple[str, str], int | None] = {}
    for role, alias in alias_names(endpoint.settings).items():
        for label in (*served, *gone):
            aliases.setdefault((parse_label(label).model, alias), None)
        for served_version in served.values():
            key = (parse_label(served_version.version).model, alias)
            if served_version.role == role and aliases[key] is None:
                aliases[key] = parse_label(served_version.version).version
    return RegistryState(
        scope=scope,
        endpoint=endpoint.name,
        served=tuple(served.values()),
        removed=gone,
        aliases=aliases,
        gone=endpoint.deleting,
    )


def nothing_stands(scope: str, endpoint: str, settings: Mapping[str, str], versions: Iterable[str]) -> RegistryState:
    """What the registry should say about an endpoint that is gone.

    Args:
        scope: Its scope.
        endpoint: Its name.
        settings: Its settings, as far as they are known.
        versions: ``MODEL/VERSION`` of what was behind it.
    """
    removed = tuple(sorted(set(versions)))
    models = sorted({parse_label(label).model for label in removed})
    names = alias_names(settings).values()
    return RegistryState(
        scope=scope,
        endpoint=endpoint,
        served=(),
        removed=removed,
        aliases={(model, alias): None for model in models for alias in names},
        gone=True,
    )


def owner_of(scope: str, endpoint: str, place: str) -> str:
    """Who owns an alias, as the registry has it: ``SCOPE/ENDPOINT``, with ``@PLACE`` where that is known."""
    return f"{scope}/{endpoint}{'@' if place else ''}{place}"


def owned_by(owner: str | None, scope: str, endpoint: str, place: str) -> bool:
    """Whether what the registry has says this endpoint: one without a place is of a version that knew none.

    Where we don't know our own place, the name must do.
    """
    name, _, where = (owner or "").partition("@")
    return name == f"{scope}/{endpoint}" and (not where or not place or where == place)


def not_this_place(scope: str, endpoint: str, other: str) -> str:
    """The refusal of a ledger that another place keeps."""
    return (
        f"the ledger and aliases of endpoint '{endpoint}' in scope '{scope}' belong to another place of that scope ({other}): give "
        "this one a name of its own with the option 'scope' (MLFLOW_ISTIO_SCOPE), or, if the other is gone, take them over "
        "with 'take_over=true' at create or adopt"
    )


def gone_from_registry(label: str) -> str:
    """The warning that nothing can be written of a version that is served."""
    return (
        f"models:/{label} is gone from the registry (deleted, or its model was renamed), so its tags and aliases are not written: "
        "it serves until its servers start anew; release a version that is there"
    )


def refused_parts(refused: Iterable[str]) -> str:
    """The error that parts of a standing could not be written."""
    return f"MLflow refused {'; '.join(refused)}; the rest is written"


def _joined(first: Served, second: Served) -> Served:
    """The same version behind two deployments of one endpoint: shares add up, the higher role counts."""
    higher = min(first, second, key=lambda served: _RANK[served.role])
    return Served(
        version=first.version,
        weight=first.weight + second.weight,
        role=higher.role,
        strategy=higher.strategy,
        release=higher.release,
        control=first.control or second.control,
    )
