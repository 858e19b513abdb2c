"""What every step of a pipeline needs from the cluster: the ledger's address from a Secret, variables, pull secrets, resources.

This module needs nothing but kfp: where only the compiled YAML is used, it may be copied beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from google.protobuf import json_format, struct_pb2
from kfp import dsl, kubernetes
from kfp.compiler import compiler_utils
from kfp.dsl.pipeline_context import Pipeline

LEDGER_KEYS: Mapping[str, str] = {"uri": "MLFLOW_TRACKING_URI", "password": "MLFLOW_TRACKING_PASSWORD"}
"""Key of the Secret to the variable that it becomes."""

_RESOURCES = ("cpu_request", "cpu_limit", "memory_request", "memory_limit")


def configure_steps(
    *,
    secret: str | None = "mlflow",
    secret_keys: Mapping[str, str] = LEDGER_KEYS,
    config_map: str | None = None,
    config_keys: Mapping[str, str] | None = None,
    pull_secrets: Iterable[str] = (),
    resources: Mapping[str, str] | None = None,
    tasks: Iterable[dsl.PipelineTask] | None = None,
) -> list[dsl.PipelineTask]:
    """Give every step of a pipeline its Secret, ConfigMap, pull secrets and resources; call it last in the pipeline's function.

    Steps inside a sub-pipeline, or inside a component that was loaded from our compiled YAML, get them too. What a step has
    already is not given twice.

    Args:
        secret: Name of a Secret in the namespace of the runs; None: none.
        secret_keys: Its keys, each with the variable that it becomes. All of them must be in the Secret.
        config_map: Name of a ConfigMap; None: none.
        config_keys: Its keys, each with the variable that it becomes.
        pull_secrets: Secrets that open the registry of the steps' image.
        resources: What a step may use where nothing is said of it yet: ``cpu_request``, ``cpu_limit``, ``memory_request``,
            ``memory_limit``, each as KFP's own ``set_cpu_limit`` and so on take it.
        tasks: The steps; None: all of the pipeline that is being made, exit handlers included.

    Returns:
        The steps.

    Raises:
        ValueError: No pipeline is being made, a ConfigMap has no keys, or a resource has another name or is no quantity.
    """
    for name in resources or {}:
        if name not in _RESOURCES:
            raise ValueError(f"there is no resource '{name}': use one of {', '.join(_RESOURCES)}")
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
            _configure_inside(task, wanted, resources or {})
        elif task.container_spec is not None:
            for name, amount in (resources or {}).items():
                if getattr(task.container_spec.resources, name, None) is None:
                    getattr(task, f"set_{name}")(amount)
            task.platform_config["kubernetes"] = _joined(task.platform_config.get("kubernetes", {}), wanted)
    return steps


def _configure_inside(task: dsl.PipelineTask, wanted: Mapping[str, Any], resources: Mapping[str, str]) -> None:
    """Configure the steps inside a sub-pipeline, on this task's own copy of it."""
    if resources:
        inner = type(task.pipeline_spec)()
        inner.CopyFrom(task.pipeline_spec)
        for executor in inner.deployment_spec["executors"].values():
            if "container" in executor:
                _limit(executor["container"], resources)
        task.pipeline_spec = inner
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


def _limit(container: struct_pb2.Struct, resources: Mapping[str, str]) -> None:
    """Say what a container may use; KFP refuses its own ``set_cpu_limit`` on a step that is a pipeline inside.

    As KFP's compiler writes it (``build_container_spec_for_task``): the text, and for backends of before a number.
    """
    for name, amount in resources.items():
        what, _, which = name.partition("_")
        field = f"{what}{which.capitalize()}"
        has = container.get_or_create_struct("resources")
        if field not in has and f"resource{field[0].upper()}{field[1:]}" not in has:
            as_number = compiler_utils._cpu_to_float if what == "cpu" else compiler_utils._memory_to_float
            has[field] = as_number(amount)
            has[f"resource{field[0].upper()}{field[1:]}"] = amount


def _joined(has: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Two Kubernetes configurations of a step, whose parts are lists."""
    added = {key: [entry for entry in entries if entry not in has.get(key, [])] for key, entries in wanted.items()}
    return {**has, **{key: [*has.get(key, []), *entries] for key, entries in added.items()}}
