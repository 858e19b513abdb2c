"""The MLflow registry and tracking server as the ledger; the only user of MlflowClient.

One run per release and one standing run per endpoint, in the experiment ``mlflow-istio/SCOPE/ENDPOINT``. A change is one tag
``istio.change.SEQUENCE.ID`` (its JSON), one metric ``weight/DEPLOYMENT`` per deployment with the sequence as step, and the objects
before and after as artifacts. The tag is written last: where it stands, all of the change is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Run, RunTag
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from mlflow_istio.adapters.mlflow.client_calls import LateClient, again, mapped, one_line, registry_of
from mlflow_istio.adapters.mlflow.model_files import read_model
from mlflow_istio.adapters.mlflow.survey import OWNER_TAG, survey
from mlflow_istio.adapters.mlflow.versions import versions_of_model
from mlflow_istio.core.basics.model_version import ModelReference, ModelVersion, not_ready, parse_label
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.registry_state import (
    RegistryState,
    gone_from_registry,
    not_this_place,
    owned_by,
    owner_of,
    refused_parts,
)
from mlflow_istio.core.endpoint.release_state import Release, check_run_is_free
from mlflow_istio.core.endpoint.routing_change import RoutingChange, change_from_tag, in_order, in_standing_run
from mlflow_istio.errors import DamagedEntry, InvalidInput, NotFound, RegistryError, StateConflict
from mlflow_istio.ports.registry import Survey

_CHANGE = "istio.change."
_PLACE = "istio.place"
"""Tag of an endpoint's experiment: the place that keeps its ledger."""


class MlflowRegistry:
    """``ports.Registry`` on MLflow.

    Args:
        tracking_uri: Tracking server; None: MLflow's own setting.
        registry_uri: Model registry; None: MLflow's own setting.
        place: Gives the identity of the place that reads and writes; asked once, when something is written.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        registry_uri: str | None = None,
        *,
        place: Callable[[], str] = lambda: "",
    ) -> None:
        self._connected = LateClient(tracking_uri, registry_uri)
        self._ask_place = place

    @property
    def _client(self) -> MlflowClient:
        return self._connected()

    @cached_property
    def _place(self) -> str:
        return self._ask_place()

    def resolve(self, reference: ModelReference) -> ModelVersion:
        """See ``ports.Registry``."""
        with mapped("read the registry"):
            version = self._version_number(reference)
        label = f"models:/{reference.model}/{version}"
        with mapped(f"read {label}"):
            self._require_version(reference.model, version)
            source = str(self._client.get_model_version_download_uri(reference.model, str(version)))
            flavors, streams = _flavors(label, source)
        return ModelVersion(
            model=reference.model,
            version=version,
            alias=reference.alias,
            flavors=flavors,
            folder=_folder(source),
            streams=streams,
        )

    def check_aliases(self, model: str, aliases: Sequence[str], owner: str) -> None:
        """See ``ports.Registry``."""
        with mapped(f"read registered model '{model}'"):
            tags = self._client.get_registered_model(model).tags
        scope, _, endpoint = owner.partition("/")
        for alias in aliases:
            other = tags.get(_owner_tag(alias), owner)
            if not owned_by(other, scope, endpoint, self._place):
                raise StateConflict(
                    f"alias '{alias}' of registered model '{model}' belongs to {other}: set champion_alias and challenger_alias "
                    "to names of your own (empty: no alias); if that endpoint is gone for good, free the alias: delete the model's "
                    f"tag '{_owner_tag(alias)}'"
                )

    def check_place(self, scope: str, endpoint: str, *, take_over: bool = False) -> None:
        """See ``ports.Registry``."""
        with mapped("read whose the ledger is"):
            experiment = self._client.get_experiment_by_name(_experiment_name(scope, endpoint))
            if experiment is None:
                return
            other = self._other_place(experiment)
            if other and take_over:
                self._client.set_experiment_tag(experiment.experiment_id, _PLACE, self._place)
                self._free_aliases(scope, endpoint, other)
                return
        if other:
            raise StateConflict(not_this_place(scope, endpoint, other))

    def _other_place(self, experiment: Experiment) -> str:
        """Another place that keeps the ledger; empty where it is this one's, anybody's, or where we don't know our own."""
        keeper = str(experiment.tags.get(_PLACE, ""))
        return keeper if keeper and self._place and keeper != self._place else ""

    def _free_aliases(self, scope: str, endpoint: str, other: str) -> None:
        """Let the aliases of a ledger that was taken over be this place's."""
        before, after = owner_of(scope, endpoint, other), owner_of(scope, endpoint, self._place)
        for model in self._all_models():
            for key, value in model.tags.items():
                if key.startswith(OWNER_TAG) and value == before:
                    self._client.set_registered_model_tag(model.name, key, after)

    def _all_models(self) -> list[RegisteredModel]:
        models: list[RegisteredModel] = []
        token: str | None = None
        while True:
            page = self._client.search_registered_models(max_results=100, page_token=token)
            models.extend(page)
            token = page.token
            if not token:
                return models

    def _keep(self, scope: str, endpoint: str, experiment: Experiment) -> None:
        """Make the ledger this place's, if nobody keeps it.

        Raises:
            RegistryError: Another place keeps it.
        """
        other = self._other_place(experiment)
        if other:
            raise RegistryError(not_this_place(scope, endpoint, other))
        if self._place and not experiment.tags.get(_PLACE):
            self._client.set_experiment_tag(experiment.experiment_id, _PLACE, self._place)

    def open_run(self, scope: str, endpoint: str, release: Release | None, *, new: bool = False) -> str:
        """See ``ports.Registry``."""
        tags = _run_tags(scope, endpoint, release)
        with mapped("open the release's run"):
            experiment = self._experiment(scope, endpoint)
            run = self._find_run(experiment, tags)
            if run is not None:
                if new and release:
                    _check_run_is_free(endpoint, release, run)
                return str(run.info.run_id)
            if release:
                tags |= {"istio.strategy": release.strategy, "istio.candidates": ",".join(release.candidates)}
            name = f"{release.strategy or 'release'} {release.id}" if release else "standing changes"
            run = self._client.create_run(experiment, run_name=name, tags=tags)
            return str(run.info.run_id)

    def check_run(self, scope: str, endpoint: str, release: Release) -> None:
        """See ``ports.Registry``."""
        with mapped("look for the release's run"):
            experiment = self._client.get_experiment_by_name(_experiment_name(scope, endpoint))
            if experiment is None:
                return
            run = self._find_run(str(experiment.experiment_id), _run_tags(scope, endpoint, release))
        if run is not None:
            _check_run_is_free(endpoint, release, run)

    def close_run(self, run: str, outcome: str) -> None:
        """See ``ports.Registry``."""
        with mapped("close the release's run"):
            mlflow_run = self._run(run)
            if mlflow_run is None or mlflow_run.data.tags.get("istio.outcome") == outcome:
                return
            self._client.set_tag(run, "istio.outcome", outcome)
            self._client.set_terminated(run, status="FINISHED" if outcome == "promoted" else "KILLED")

    def record(self, scope: str, change: RoutingChange, objects: Mapping[str, Object]) -> tuple[str, ...]:
        """See ``ports.Registry``."""
        run_id = change.run or self.open_run(scope, change.endpoint, None)
        warnings: tuple[str, ...] = ()
        with mapped("record a routing change"):
            self._experiment(scope, change.endpoint)
            run = self._run(run_id)
            if run is None:
                warnings = (in_standing_run(replace(change, run=run_id)),)
                run_id = self.open_run(scope, change.endpoint, None)
                change = replace(change, run=run_id)
                run = self._client.get_run(run_id)
            if change.tag_key in run.data.tags:
                return warnings
            for stem, obj in objects.items():
                if obj:
                    file = f"changes/{change.sequence:06d}-{change.id}/{stem}.json"
                    self._client.log_text(run_id, json.dumps(obj, indent=2, sort_keys=True), file)
            timestamp = int(change.time.timestamp() * 1000)
            weights = change.after.weights if change.after else {}
            metrics = [
                # The same (key, value, time, step) again is one point to MLflow, so a second try adds nothing.
                Metric(key=f"weight/{name}", value=float(weight), timestamp=timestamp, step=change.sequence)
                for name, weight in weights.items()
            ]
            self._log_batch(run_id, metrics, [RunTag(change.tag_key, change.as_tag())])
        return warnings

    def history(self, scope: str, endpoint: str) -> Sequence[RoutingChange]:
        """See ``ports.Registry``."""
        with mapped("read the history"):
            experiment = self._client.get_experiment_by_name(_experiment_name(scope, endpoint))
            if experiment is None:
                return ()
            _refuse_deleted(experiment)
            runs = self._all_runs(experiment.experiment_id)
        changes = [
            _read_change(run, key, value)
            for run in runs
            for key, value in run.data.tags.items()
            if key.startswith(_CHANGE)
        ]
        return in_order(changes)

    def survey(self, scope: str, models: Sequence[str]) -> Survey:
        """See ``ports.Registry``."""
        with mapped("look over the registry"):
            registered = survey(self._client, scope, models)
        owners = {
            key: owner if self._is_elsewhere(owner) else owner.partition("@")[0]
            for key, owner in registered.owners.items()
        }
        return replace(registered, owners=owners)

    def _is_elsewhere(self, owner: str) -> bool:
        where = owner.partition("@")[2]
        return bool(where and self._place and where != self._place)

    def publish(self, standing: RegistryState) -> tuple[str, ...]:
        """See ``ports.Registry``."""
        wanted = {served.version: served.tags(standing.scope, standing.endpoint) for served in standing.served}
        gone: list[str] = []
        writes: dict[str, Callable[[], object]] = {}
        start = f"istio.{standing.scope}.{standing.endpoint}."
        for label in (*wanted, *standing.removed):
            writes[f"tags of {label}"] = partial(self._tag, label, start, wanted.get(label, {}), gone)
        for (model, alias), version in sorted(standing.aliases.items()):
            writes[f"alias '{alias}' of {model}"] = partial(self._point, model, alias, version, standing, gone)
        with mapped("write tags and aliases"):
            experiment = self._client.get_experiment_by_name(_experiment_name(standing.scope, standing.endpoint))
            if experiment is not None:
                self._keep(standing.scope, standing.endpoint, experiment)
            refused = _each(writes)
            if experiment is not None and standing.gone and self._place and not refused:
                self._client.set_experiment_tag(experiment.experiment_id, _PLACE, "")
        if refused:
            raise RegistryError(refused_parts(refused))
        return tuple(gone_from_registry(label) for label in dict.fromkeys(gone) if label in wanted)

    def _version_number(self, reference: ModelReference) -> int:
        name = reference.model
        if reference.version is not None:
            return reference.version
        if reference.alias == "latest":
            versions = versions_of_model(self._client, name)
            if not versions:
                raise NotFound(f"registered model '{name}' has no versions: {self._known_models(name)} {self._asked}")
            return max(int(version.version) for version in versions)
        try:
            return int(self._client.get_model_version_by_alias(name, str(reference.alias)).version)
        except MlflowException as exc:
            if exc.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            known = nearest(reference.alias, self._aliases_of(name))
            raise NotFound(
                f"registered model '{name}' has no alias '{reference.alias}': {known} {self._asked}"
            ) from exc

    def _require_version(self, name: str, version: int) -> None:
        try:
            status = str(self._client.get_model_version(name, str(version)).status)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            versions = sorted(int(v.version) for v in versions_of_model(self._client, name))
            if versions:
                has = ", ".join(str(v) for v in versions[-10:])
                raise NotFound(
                    f"registered model '{name}' has no version {version}: it has {has} {self._asked}"
                ) from exc
            raise NotFound(f"there is no registered model '{name}': {self._known_models(name)} {self._asked}") from exc
        if status != "READY":
            raise StateConflict(not_ready(ModelVersion(model=name, version=version), status))

    def _run(self, run: str) -> Run | None:
        """A run that can be written to; None where somebody deleted it."""
        try:
            mlflow_run = self._client.get_run(run)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return mlflow_run if mlflow_run.info.lifecycle_stage == "active" else None

    @property
    def _asked(self) -> str:
        """Which registry said so: the wrong one is the usual reason why a model is missing."""
        return f"(asked the registry at {registry_of(self._client)})"

    def _aliases_of(self, name: str) -> Iterable[str]:
        """The aliases of a model that is there."""
        try:
            return list(self._client.get_registered_model(name).aliases)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise NotFound(f"there is no registered model '{name}': {self._known_models(name)} {self._asked}") from exc

    def _known_models(self, name: str) -> str:
        return nearest(name, [model.name for model in self._client.search_registered_models(max_results=100)])

    def _experiment(self, scope: str, endpoint: str) -> str:
        name = _experiment_name(scope, endpoint)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            _refuse_deleted(experiment)
            self._keep(scope, endpoint, experiment)
            return str(experiment.experiment_id)
        try:
            return str(self._client.create_experiment(name, tags={_PLACE: self._place} if self._place else None))
        except MlflowException:
            experiment = self._client.get_experiment_by_name(name)  # another process was first
            if experiment is None:
                raise
            self._keep(scope, endpoint, experiment)
            return str(experiment.experiment_id)

    def _find_run(self, experiment: str, tags: Mapping[str, str]) -> Run | None:
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = self._client.search_runs([experiment], wanted, max_results=1)
        return runs[0] if runs else None

    def _all_runs(self, experiment: str) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment], max_results=1000, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    @again
    def _log_batch(self, run_id: str, metrics: list[Metric], tags: list[RunTag]) -> None:
        self._client.log_batch(run_id, metrics=metrics, tags=tags)

    @again
    def _tag(self, label: str, start: str, wanted: Mapping[str, str], gone: list[str]) -> None:
        version = parse_label(label)
        try:
            tags = self._client.get_model_version(version.model, str(version.version)).tags
        except MlflowException as exc:
            if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                gone.append(label)
                return
            raise
        for key, value in wanted.items():
            if tags.get(key) != value:
                self._client.set_model_version_tag(version.model, str(version.version), key, value)
        for key in tags:
            if key.startswith(start) and key not in wanted:
                self._client.delete_model_version_tag(version.model, str(version.version), key)

    @again
    def _point(self, model: str, alias: str, version: int | None, standing: RegistryState, gone: Sequence[str]) -> None:
        if version is not None and f"{model}/{version}" in gone:
            return
        try:
            registered = self._client.get_registered_model(model)
        except MlflowException as exc:
            if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                return
            raise
        owner = registered.tags.get(_owner_tag(alias))
        ours = owned_by(owner, standing.scope, standing.endpoint, self._place)
        if owner is not None and not ours:
            return
        if version is not None:
            if owner is None or (self._place and "@" not in owner):
                meant = owner_of(standing.scope, standing.endpoint, self._place)
                self._client.set_registered_model_tag(model, _owner_tag(alias), meant)
            if str(registered.aliases.get(alias)) != str(version):
                self._client.set_registered_model_alias(model, alias, str(version))
        elif ours:
            if alias in registered.aliases:
                self._client.delete_registered_model_alias(model, alias)
            if model not in standing.models:
                self._client.delete_registered_model_tag(model, _owner_tag(alias))


def _each(writes: Mapping[str, Callable[[], object]]) -> list[str]:
    """Carry out every write; what MLflow refused, in words. A server that can't be reached, or is broken, ends it at once."""
    refused = []
    for what, write in writes.items():
        try:
            write()
        except MlflowException as exc:
            if not 400 <= exc.get_http_status_code() < 500:
                raise
            refused.append(f"{what} ({one_line(exc)})")
    return refused


def _refuse_deleted(experiment: Experiment) -> None:
    if experiment.lifecycle_stage == "deleted":
        raise RegistryError(
            f"experiment '{experiment.name}' was deleted: restore it with "
            f"'mlflow experiments restore --experiment-id {experiment.experiment_id}'"
        )


def _read_change(run: Run, key: str, value: str) -> RoutingChange:
    try:
        return change_from_tag(key, value)
    except InvalidInput as exc:
        raise DamagedEntry(
            f"tag '{key}' of run {run.info.run_id} is no routing change any more ({exc}): restore or delete it"
        ) from exc


_FILES = ("model_path", "pickled_model", "data", "python_model")
"""Where flavors say which files or folders of the model they need."""


def _flavors(uri: str, source: str) -> tuple[tuple[str, ...], bool]:
    """The flavors from the model's own MLmodel file, and whether it streams; reading it proves that the files are there."""
    model, present = read_model(uri, source)
    flavors = model.flavors
    for flavor, conf in flavors.items():
        paths = {str(conf.get(field) or "").split("/", 1)[0] for field in _FILES}
        # Of a model logged as code, MLflow keeps where the code lay; its file has that name.
        paths.add(str(conf.get("model_code_path") or "").rpartition("/")[2])
        for path in sorted(paths - {""}):
            if path not in present:
                raise NotFound(f"the files of {uri} are incomplete: flavor '{flavor}' needs '{path}' in {source}")
    return tuple(flavors), bool(flavors.get("python_function", {}).get("streamable"))


def _folder(source: str) -> str:
    """The folder an artifact address names on this machine; empty when it names none."""
    parsed = urlsplit(source)
    if parsed.scheme not in ("", "file") or parsed.netloc not in ("", "localhost"):
        return ""
    folder = Path(unquote(parsed.path) if parsed.scheme else source)
    return str(folder.resolve()) if folder.is_dir() else ""


def _experiment_name(scope: str, endpoint: str) -> str:
    return f"mlflow-istio/{scope}/{endpoint}"


def _run_tags(scope: str, endpoint: str, release: Release | None) -> dict[str, str]:
    """The tags by which the run of a release, or the standing run, is known again."""
    tags = {"istio.scope": scope, "istio.endpoint": endpoint, "istio.kind": "release" if release else "standing"}
    return {**tags, "istio.release": release.id} if release else tags


def _check_run_is_free(endpoint: str, release: Release, run: Run) -> None:
    tags = run.data.tags
    check_run_is_free(
        endpoint,
        release,
        tags.get("istio.strategy", ""),
        tags.get("istio.candidates", ""),
        tags.get("istio.outcome", ""),
    )


def _owner_tag(alias: str) -> str:
    return f"{OWNER_TAG}{alias}"
