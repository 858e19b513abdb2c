"""The versions of a registered model, whatever its name holds."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion


def versions_of_model(client: MlflowClient, model: str) -> list[ModelVersion]:
    """Every version of a registered model; empty when there is none. Raises what MLflow raises.

    MLflow's filter strings know no escape. A name is quoted by the quote that it does not hold; one with both, or with a
    backslash, is looked for by a pattern whose wildcards stand for these, and told from its likes afterwards.
    """
    wanted = _filter(model)
    versions: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(wanted, page_token=token)
        versions += [version for version in page if version.name == model]
        token = page.token
        if not token:
            return versions


def _filter(model: str) -> str:
    quote = next((quote for quote in "'\"" if quote not in model), None)
    if quote is not None and "\\" not in model:
        return f"name = {quote}{model}{quote}"
    pattern = model.translate(str.maketrans("'\\", "__"))
    return f"name LIKE '{pattern}'"
