"""Which server a new deployment runs: whether model, callers and Service go with it; and the token of its records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.mesh.manifests import keeps_records, runtime_of_deployment, spoken_at
from mlflow_istio.core.mesh.pods import RECORD_TOKEN, PodSettings, variable_of
from mlflow_istio.core.mesh.recorder_beside import asks_for_records, is_recordable
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.releases.context import Context, deployments_of


def flavor_of(model: ModelVersion, flavor: str | None, runtime: Runtime) -> str:
    """The flavor to name: the one that was asked for, if the model has it and the server can serve it.

    Raises:
        InvalidInput: It hasn't, or it can't.
    """
    if "python_function" not in model.flavors and runtime == MLFLOW:
        has = ", ".join(model.flavors) or "none"
        raise InvalidInput(
            f"{model.uri} has no python_function flavor (it has: {has}): log the model with one, or name the runtime that serves it"
        )
    if flavor is not None and flavor not in model.flavors:
        raise InvalidInput(f"{model.uri} has no flavor '{flavor}': it has {', '.join(model.flavors)}")
    return flavor or ("python_function" if "python_function" in model.flavors or runtime == MLFLOW else runtime.name)


def check_runtime(
    context: Context,
    name: str,
    deployment: str,
    runtime: Runtime,
    strategy: str | None,
    standing_deployment: Object | None,
    *,
    port: int,
    beside: bool = False,
    attached: bool = False,
) -> None:
    """Refuse a server that the endpoint's callers, or its Service, can't reach.

    Args:
        context: The ports.
        name: The endpoint.
        deployment: The deployment.
        runtime: Its kind of model server.
        strategy: Strategy of the release it opens.
        standing_deployment: Its Deployment, if it stands already.
        port: Where its pods take requests.
        beside: Whether a recorder stands in front of the server.
        attached: Whether it stands for what somebody else runs.

    Raises:
        StateConflict: The deployment runs another one already, others of the endpoint are asked at another path, or the Service
            sends requests to another port.
        InvalidInput: Its answers can't be recorded, but the strategy compares them.
    """
    has = runtime_of_deployment(standing_deployment) if standing_deployment is not None else runtime
    if has != runtime:
        others = [field.name for field in fields(Runtime) if getattr(has, field.name) != getattr(runtime, field.name)]
        differing = ", ".join(
            "runtime" if name_of_field == "name" else name_of_field
            for name_of_field in others
            if name_of_field != "about"
        )
        raise StateConflict(
            f"deployment '{deployment}' runs runtime '{has.name}', with another {differing}: a deployment never changes its "
            "server: use another name"
        )
    _check_others(context, name, deployment, runtime, strategy, records=runtime.records or beside)
    if not attached:  # requests reach it by a Service of its own
        _check_service(context, name, deployment, runtime, port)


def _check_others(
    context: Context, name: str, deployment: str, runtime: Runtime, strategy: str | None, *, records: bool
) -> None:
    """Refuse a server that speaks, or is asked, otherwise than the others of the endpoint, or records too little for a shadow."""
    for other in deployments_of(context.cluster, name):
        theirs = runtime_of_deployment(other)
        if theirs.protocol != runtime.protocol:
            raise StateConflict(_mixed(name, theirs.protocol, deployment, runtime, f"deployment '{name_of(other)}'"))
        if theirs.scoring != runtime.scoring:
            raise StateConflict(
                f"runtime '{runtime.name}' is asked at {runtime.scoring}, but callers of endpoint '{name}' ask at {theirs.scoring} "
                f"(deployment '{name_of(other)}', runtime '{theirs.name}'): use another endpoint"
            )
        if strategy == "shadow" and not (keeps_records(other) and records):
            mute = theirs if records else runtime
            instead = (
                "or let both record (MLFLOW_ISTIO_RECORD and, on a laptop, MLFLOW_ISTIO_RECORD_DIR in env)"
                if is_recordable(mute)
                else "since over gRPC only calls of the V2 protocol's ModelInfer are recorded"
            )
            raise InvalidInput(
                f"strategy shadow compares recorded answers, and runtime '{mute.name}' records none: use canary, ab or blue-green, "
                f"{instead}"
            )


def _check_service(context: Context, name: str, deployment: str, runtime: Runtime, port: int) -> None:
    """Refuse a server that the endpoint's Service speaks to otherwise, or at another port."""
    service = context.cluster.get("Service", name) or {}
    if service and spoken_at(service) != runtime.protocol:
        raise StateConflict(_mixed(name, spoken_at(service), deployment, runtime, f"port of Service '{name}'"))
    ports = (service.get("spec") or {}).get("ports") or []
    target = ports[0].get("targetPort", port) if ports else port
    if isinstance(target, int) and target != port:
        by_name = f"set targetPort of the Service to the name {runtime.protocol}"
        if port != runtime.port:
            raise StateConflict(
                f"Service '{name}' sends requests to port {target}, past the recorder beside runtime '{runtime.name}', which "
                f"listens at {port}: {by_name}"
            )
        raise StateConflict(
            f"Service '{name}' sends requests to port {target}, and runtime '{runtime.name}' listens at {port}: let it "
            f"listen there (port={target}), or {by_name}"
        )


def check_recorded(deployment: Object, env: Mapping[str, str]) -> None:
    """Refuse variables that ask for records which nobody would keep.

    Raises:
        InvalidInput: The server keeps none, and was deployed without a recorder.
    """
    if asks_for_records(env) and not keeps_records(deployment):
        raise InvalidInput(
            f"deployment '{name_of(deployment)}' runs runtime '{runtime_of_deployment(deployment).name}' without a recorder, so "
            "MLFLOW_ISTIO_RECORD has no effect on it: give it to 'create', the same again or for another deployment"
        )


def _mixed(name: str, spoken: str, deployment: str, runtime: Runtime, whose: str) -> str:
    return (
        f"endpoint '{name}' speaks {spoken} ({whose}), and deployment '{deployment}' would speak {runtime.protocol}: an endpoint "
        f"never changes what its callers speak, so say protocol={spoken} or use another endpoint"
    )


def record_token(
    context: Context, env: Mapping[str, str], pod: PodSettings | None, standing: Object | None
) -> dict[str, str]:
    """The token that a recording deployment asks readers for, where the user gave none: our own commands read it there."""
    secret = pod.env_from_secret if pod else {}
    if not env.get("MLFLOW_ISTIO_RECORD") or RECORD_TOKEN in env or RECORD_TOKEN in secret:
        return {}
    if standing is None:
        return {RECORD_TOKEN: context.new_key()}
    has = variable_of(standing, RECORD_TOKEN)  # another one would start its pods anew
    return {RECORD_TOKEN: has} if has else {}
