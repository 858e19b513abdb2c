"""What every step of a pipeline needs from the cluster: the ledger's address from a Secret, further variables, pull secrets.

This module needs nothing but kfp: where only the compiled YAML is used, it may be copied beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from google.protobuf import json_format, struct_pb2
from kfp import dsl, kubernetes
from kfp.dsl.pipeline_context import Pipeline

LEDGER_KEYS: Mapping[str, str] = {"uri": "MLFLOW_TRACKING_URI", "password": "MLFLOW_TRACKING_PASSWORD"}
"""Key of the Secret to the variable that it becomes."""


def configure_steps(
    *,
    secret: str | None = "mlflow",
    secret_keys: Mapping[str, str] = LEDGER_KEYS,
    config_map: str | None = None,
    config_keys: Mapping[str, str] | None = None,
    pull_secrets: Iterable[str] = (),
    tasks: Iterable[dsl.PipelineTask] | None = None,
) -> list[dsl.PipelineTask]:
    """Give every step of a pipeline its Secret, ConfigMap and pull secrets; call it last in the pipeline's function.

    Steps inside a sub-pipeline, or inside a component that was loaded from our compiled YAML, get them too. What a step has
    already is not given twice.

    Args:
        secret: Name of a Secret in the namespace of the runs; None: none.
        secret_keys: Its keys, each with the variable that it becomes. All of them must be in the Secret.
        config_map: Name of a ConfigMap; None: none.
        config_keys: Its keys, each with the variable that it becomes.
        pull_secrets: Secrets that open the registry of the steps' image.
        tasks: The steps; None: all of the pipeline that is being made, exit handlers included.

    Returns:
        The steps.

    Raises:
        ValueError: No pipeline is being made, or a ConfigMap has no keys.
    """
    if config_map is not None and not config_keys:
        raise ValueError(f"ConfigMap '{config_map}' needs config_keys, such as {{'gateway': 'MLFLOW_ISTIO_GATEWAY'}}")
    if tasks is None:
        pipeline = Pipeline.get_default_pipeline()
        if pipeline is None:
            raise ValueError(
                "no pipeline is being made here: call configure_steps inside the pipeline's function, last"
            )
        tasks = pipeline.tasks.values()
    made = SimpleNamespace(platform_config={})
    if secret is not None:
        kubernetes.use_secret_as_env(made, secret_name=secret, secret_key_to_env=dict(secret_keys))
    if config_map is not None:
        kubernetes.use_config_map_as_env(
            made, config_map_name=config_map, config_map_key_to_env=dict(config_keys or {})
        )
    names = list(pull_secrets)
    if names:
        kubernetes.set_image_pull_secrets(made, names)
    wanted: dict[str, Any] = made.platform_config.get("kubernetes", {})
    steps = list(tasks)
    for task in steps:
        if task.pipeline_spec is not None:
            _configure_inside(task, wanted)
        elif task.container_spec is not None:
            task.platform_config["kubernetes"] = _joined(task.platform_config.get("kubernetes", {}), wanted)
    return steps


def _configure_inside(task: dsl.PipelineTask, wanted: Mapping[str, Any]) -> None:
    """Configure the steps inside a sub-pipeline, on this task's own copy of it."""
    component = copy.copy(task.component_spec)
    platforms = type(component.platform_spec)()
    platforms.CopyFrom(component.platform_spec)
    executors = platforms.platforms["kubernetes"].deployment_spec.executors
    for label, executor in task.pipeline_spec.deployment_spec["executors"].items():
        if "container" in executor:
            has = json_format.MessageToDict(executors[label]) if label in executors else {}
            joined = struct_pb2.Struct()
            json_format.ParseDict(_joined(has, wanted), joined)
            executors[label].CopyFrom(joined)
    component.platform_spec = platforms
    task.component_spec = component


def _joined(has: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Two Kubernetes configurations of a step, whose parts are lists."""
    added = {key: [entry for entry in entries if entry not in has.get(key, [])] for key, entries in wanted.items()}
    return {**has, **{key: [*has.get(key, []), *entries] for key, entries in added.items()}}
