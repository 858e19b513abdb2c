"""What MLflow says of a scope besides its history: runs of releases that have not ended, tags, aliases and who owns them."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_istio.adapters.mlflow.versions import versions_of_model
from mlflow_istio.ports.registry import Survey

OWNER_TAG = "istio.alias."
"""Start of the registered-model tags that name the owners of aliases."""


def survey(client: MlflowClient, scope: str, models: Sequence[str]) -> Survey:
    """See ``ports.Registry.survey``; raises what MLflow raises."""
    start = f"mlflow-istio/{scope}/"
    endpoints: dict[str, str] = {}
    token = None
    while True:
        page = client.search_experiments(filter_string=f"name LIKE '{start}%'", page_token=token)
        for experiment in page:
            if experiment.name.startswith(start):  # in LIKE an underscore means any character
                endpoints[experiment.experiment_id] = experiment.name.removeprefix(start)
        token = page.token
        if not token:
            break
    open_runs: dict[str, dict[str, str]] = {name: {} for name in endpoints.values()}
    wanted = "tags.`istio.kind` = 'release' and attributes.status = 'RUNNING'"
    while endpoints:
        runs = client.search_runs(list(endpoints), wanted, max_results=1000, page_token=token)
        for run in runs:
            name = endpoints[run.info.experiment_id]
            open_runs[name][run.data.tags.get("istio.release", "")] = run.info.run_id
        token = runs.token
        if not token:
            break
    tags: dict[str, dict[str, str]] = {}
    there: set[str] = set()
    aliases: dict[tuple[str, str], int] = {}
    owners: dict[tuple[str, str], str] = {}
    for model in models:
        try:
            registered = client.get_registered_model(model)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            continue
        for alias, version in registered.aliases.items():
            aliases[(model, alias)] = int(version)
        for key, value in registered.tags.items():
            if key.startswith(OWNER_TAG):
                owners[(model, key.removeprefix(OWNER_TAG))] = value
        for version in versions_of_model(client, model):
            there.add(f"{model}/{version.version}")
            ours = {key: value for key, value in version.tags.items() if key.startswith(f"istio.{scope}.")}
            if ours:
                tags[f"{model}/{version.version}"] = ours
    return Survey(open_runs=open_runs, tags=tags, versions=frozenset(there), aliases=aliases, owners=owners)
