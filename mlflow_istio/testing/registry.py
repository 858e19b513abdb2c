"""An in-memory Registry, and what its runs hold."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from mlflow_istio.core.basics.model_version import ModelReference, ModelVersion, not_ready, parse_label
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.registry_state import RegistryState, gone_from_registry, not_this_place, refused_parts
from mlflow_istio.core.endpoint.release_state import Release, check_run_is_free
from mlflow_istio.core.endpoint.routing_change import RoutingChange, change_from_tag, in_order, in_standing_run
from mlflow_istio.errors import DamagedEntry, InvalidInput, NotFound, RegistryError, StateConflict
from mlflow_istio.ports.registry import Survey
from mlflow_istio.ports.runs import Figure

_RETRIES = 10


class InMemoryRegistry:
    """A Registry in dicts.

    Attributes:
        down: Whether every call fails as if the server were gone.
        gone: ``MODEL/VERSION`` whose files are gone.
        deleted: ``MODEL/VERSION`` that somebody deleted.
        pending: ``MODEL/VERSION`` whose registration is not done.
        deleted_runs: Ids of runs that somebody deleted.
        forbidden: ``MODEL/VERSION`` whose tags MLflow refuses to write.
        aliases: (model, alias) to version number.
        tags: ``MODEL/VERSION`` to its tags.
        owners: (model, alias) to the SCOPE/ENDPOINT that owns it.
        runs: Run id to outcome ("" while open).
        release_runs: (scope, endpoint, release id) to run id.
        artifacts: Change id to the objects recorded with it.
        altered: Change id to what somebody made of its tag.
        place: The place that reads and writes; empty: it is not known.
        keepers: (scope, endpoint) to the place that keeps its ledger.
    """

    def __init__(self, models: Mapping[str, Sequence[int]]) -> None:
        self._models = {model: list(versions) for model, versions in models.items()}
        self._changes: dict[tuple[str, str], dict[str, RoutingChange]] = {}
        self.down = False
        self.gone: set[str] = set()
        self.deleted: set[str] = set()
        self.pending: set[str] = set()
        self.deleted_runs: set[str] = set()
        self.forbidden: set[str] = set()
        self.aliases: dict[tuple[str, str], int] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.owners: dict[tuple[str, str], str] = {}
        self.runs: dict[str, str] = {}
        self._plans: dict[str, tuple[str, str]] = {}
        self.release_runs: dict[tuple[str, str, str], str] = {}
        self.artifacts: dict[str, dict[str, Object]] = {}
        self.altered: dict[str, str] = {}
        self.place = ""
        self.keepers: dict[tuple[str, str], str] = {}

    def at(self, place: str) -> InMemoryRegistry:
        """The same registry, as another place reads and writes it."""
        seen = copy.copy(self)
        seen.place = place
        return seen

    def resolve(self, reference: ModelReference) -> ModelVersion:
        """See ``ports.Registry``."""
        self._up()
        versions = [v for v in self._models.get(reference.model, []) if f"{reference.model}/{v}" not in self.deleted]
        if reference.alias == "latest" and versions:
            version = max(versions)
        elif reference.alias is not None:
            version = self.aliases.get((reference.model, reference.alias), 0)
        else:
            version = reference.version or 0
        if version not in versions:
            raise NotFound(f"registered model '{reference.model}' has no version for {reference}")
        model_version = ModelVersion(
            model=reference.model, version=version, alias=reference.alias, flavors=("python_function",)
        )
        if model_version.label in self.pending:
            raise StateConflict(not_ready(model_version, "PENDING_REGISTRATION"))
        if model_version.label in self.gone:
            raise NotFound(f"the files of {model_version.uri} are gone")
        return model_version

    def check_place(self, scope: str, endpoint: str, *, take_over: bool = False) -> None:
        """See ``ports.Registry``."""
        self._up()
        other = self._other_place(scope, endpoint)
        if other and not take_over:
            raise StateConflict(not_this_place(scope, endpoint, other))
        if other:
            self.keepers[(scope, endpoint)] = self.place

    def _other_place(self, scope: str, endpoint: str) -> str:
        keeper = self.keepers.get((scope, endpoint), "")
        return keeper if keeper and self.place and keeper != self.place else ""

    def _keep(self, scope: str, endpoint: str) -> None:
        other = self._other_place(scope, endpoint)
        if other:
            raise RegistryError(not_this_place(scope, endpoint, other))
        if self.place:
            self.keepers[(scope, endpoint)] = self.place

    def check_aliases(self, model: str, aliases: Sequence[str], owner: str) -> None:
        """See ``ports.Registry``."""
        self._up()
        for alias in aliases:
            other = self.owners.get((model, alias), owner)
            if other != owner:
                raise StateConflict(f"alias '{alias}' of model '{model}' belongs to {other}: set another alias")

    def open_run(self, scope: str, endpoint: str, release: Release | None, *, new: bool = False) -> str:
        """See ``ports.Registry``."""
        self._up()
        run = f"run-{scope}-{endpoint}-{release.id if release else 'standing'}"
        plan = (release.strategy, ",".join(release.candidates)) if release else ("", "")
        self._keep(scope, endpoint)
        if new and release:
            self.check_run(scope, endpoint, release)
        self.runs.setdefault(run, "")
        self._plans.setdefault(run, plan)
        if release:
            self.release_runs[(scope, endpoint, release.id)] = run
        return run

    def check_run(self, scope: str, endpoint: str, release: Release) -> None:
        """See ``ports.Registry``."""
        self._up()
        run = f"run-{scope}-{endpoint}-{release.id}"
        if run in self.runs:
            check_run_is_free(endpoint, release, *self._plans[run], self.runs[run])

    def close_run(self, run: str, outcome: str) -> None:
        """See ``ports.Registry``."""
        self._up()
        self.runs[run] = outcome

    def record(self, scope: str, change: RoutingChange, objects: Mapping[str, Object]) -> tuple[str, ...]:
        """See ``ports.Registry``."""
        self._up()
        self._keep(scope, change.endpoint)
        warnings: tuple[str, ...] = ()
        if change.run in self.deleted_runs:
            warnings = (in_standing_run(change),)
            change = replace(change, run=self.open_run(scope, change.endpoint, None))
        self.artifacts.setdefault(change.id, dict(objects))
        self._changes.setdefault((scope, change.endpoint), {}).setdefault(change.id, change)
        return warnings

    def history(self, scope: str, endpoint: str) -> Sequence[RoutingChange]:
        """See ``ports.Registry``."""
        self._up()
        return in_order(map(self._as_tagged, self._changes.get((scope, endpoint), {}).values()))

    def _as_tagged(self, change: RoutingChange) -> RoutingChange:
        if not self.altered:
            return change  # whole, whatever fits into a tag
        try:
            return change_from_tag(change.tag_key, self.altered.get(change.id, change.as_tag()))
        except InvalidInput as exc:
            raise DamagedEntry(
                f"tag '{change.tag_key}' is no routing change any more ({exc}): restore or delete it"
            ) from exc

    def survey(self, scope: str, models: Sequence[str]) -> Survey:
        """See ``ports.Registry``."""
        self._up()
        known = {endpoint for its_scope, endpoint in self._changes if its_scope == scope}
        runs: dict[str, dict[str, str]] = {endpoint: {} for endpoint in known}
        for (its_scope, endpoint, release), run in self.release_runs.items():
            if its_scope == scope and not self.runs[run]:
                runs.setdefault(endpoint, {})[release] = run
        return Survey(
            open_runs=runs,
            tags={
                label: {key: value for key, value in tags.items() if key.startswith(f"istio.{scope}.")}
                for label, tags in self.tags.items()
                if label.rpartition("/")[0] in models
            },
            versions=frozenset(self._labels(models)),
            aliases={key: version for key, version in self.aliases.items() if key[0] in models},
            owners={key: owner for key, owner in self.owners.items() if key[0] in models},
        )

    def publish(self, standing: RegistryState) -> tuple[str, ...]:
        """See ``ports.Registry``."""
        self._up()
        self._keep(standing.scope, standing.endpoint)
        if standing.gone:
            self.keepers.pop((standing.scope, standing.endpoint), None)
        there = set(self._labels(self._models))
        start = f"istio.{standing.scope}.{standing.endpoint}."
        for label in {*standing.removed, *(served.version for served in standing.served)} - self.forbidden:
            kept = {key: value for key, value in self.tags.get(label, {}).items() if not key.startswith(start)}
            self.tags[label] = kept
        for served in standing.served:
            if served.version in there - self.forbidden:
                self.tags[served.version] |= served.tags(standing.scope, standing.endpoint)
        for key, version in standing.aliases.items():
            if version is not None and f"{key[0]}/{version}" not in there:
                continue
            if version is not None:
                self.aliases[key] = version
                self.owners[key] = standing.owner
            elif self.owners.get(key) == standing.owner:
                self.aliases.pop(key, None)
                if key[0] not in standing.models:
                    del self.owners[key]
        if self.forbidden:
            raise RegistryError(refused_parts(f"tags of {label} (forbidden)" for label in sorted(self.forbidden)))
        return tuple(gone_from_registry(served.version) for served in standing.served if served.version not in there)

    def _labels(self, models: Iterable[str]) -> Iterator[str]:
        for model in models:
            for version in self._models.get(model, ()):
                if f"{model}/{version}" not in self.deleted:
                    yield f"{model}/{version}"

    def _up(self) -> None:
        if self.down:
            raise RegistryError("the registry can't be reached (in-memory, down)")


class InMemoryRuns:
    """A Runs in dicts.

    Attributes:
        down: Whether every call fails as if the server were gone.
        kept: Run to metric to its points.
        texts: (run, path) to text.
        tags: ``MODEL/VERSION`` to its tags; set them as a person would.
    """

    def __init__(self) -> None:
        self.down = False
        self.kept: dict[str, dict[str, list[Figure]]] = {}
        self.texts: dict[tuple[str, str], str] = {}
        self.tags: dict[str, dict[str, str]] = {}

    def keep(
        self,
        run: str,
        *,
        figures: Mapping[str, float] | None = None,
        step: int = 0,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """See ``ports.Runs``."""
        self._up()
        kept = self.kept.setdefault(run, {})
        for key, value in (figures or {}).items():
            kept.setdefault(key, []).append(Figure(time=datetime.now(timezone.utc), step=step, value=float(value)))
        for path, text in (texts or {}).items():
            self.texts[(run, path)] = text

    def figures(self, run: str) -> Mapping[str, Sequence[Figure]]:
        """See ``ports.Runs``."""
        self._up()
        if run not in self.kept:
            raise NotFound(f"there is no MLflow run '{run}'")
        return {
            key: tuple(sorted(points, key=lambda point: (point.step, point.time)))
            for key, points in sorted(self.kept[run].items())
        }

    def text(self, run: str, path: str) -> str | None:
        """See ``ports.Runs``."""
        self._up()
        return self.texts.get((run, path))

    def tag(self, label: str, key: str) -> str | None:
        """See ``ports.Runs``."""
        self._up()
        if label not in self.tags:
            version = parse_label(label)
            raise NotFound(f"there is no model version {version.uri} in the registry")
        return self.tags[label].get(key)

    def _up(self) -> None:
        if self.down:
            raise RegistryError("the registry can't be reached (in-memory, down)")
