"""Templates and values -> Kubernetes objects, checked before anybody uses them.

Every ``{{ expression }}`` of a template is written as JSON, which YAML reads as data: a value with quotes, newlines or braces
can't change the document's structure. So templates write ``name: {{ name }}`` without quotes, and ``{{ a ~ "-b" }}`` to join.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.basics.objects import (
    API_VERSIONS,
    DEPLOYMENT_LABEL,
    DOMAIN,
    ENDPOINT_LABEL,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    Object,
    annotations_of,
)
from mlflow_istio.core.basics.stored import compact, from_json, parsed, to_json
from mlflow_istio.core.mesh.pods import PodSettings, draining, environment, pod_values, sidecars_in
from mlflow_istio.core.mesh.recorder_beside import has_recorder_beside, recorded_beside, sidecar_values
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput

if TYPE_CHECKING:
    import jinja2

TEMPLATES: Mapping[str, str] = {
    "Deployment": "deployment.yaml.j2",
    "Service": "service.yaml.j2",
    "DestinationRule": "destination_rule.yaml.j2",
    "VirtualService": "virtual_service.yaml.j2",
}
"""Kind to the file name of its template; a user's folder overrides each by the same name."""

VERSION_ANNOTATION = f"{DOMAIN}/model-version"
ALIAS_ANNOTATION = f"{DOMAIN}/model-alias"
FLAVOR_ANNOTATION = f"{DOMAIN}/flavor"
RUNTIME_ANNOTATION = f"{DOMAIN}/runtime"
RECORDER_ANNOTATION = f"{DOMAIN}/recorder"
STREAMS_ANNOTATION = f"{DOMAIN}/streams"
"""Whether its answers may be streamed: ``true``, or not there."""
STREAMS_DRAIN = 300
"""Seconds in which nearly every stream has ended: what is cut by its deployment's end is an error of ours."""
PAUSE = 5
"""Seconds between a pod's last request and its server's being told to end, as the template has it."""
"""Of a Deployment: its kind of model server, where that is not our own."""

# YAML gives these a meaning, or refuses them, even inside quotes.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")

_OF_EXPRESSIONS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, NameError)
"""What an expression in somebody's template may raise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentValues:
    """What the Deployment template gets.

    Attributes:
        name: Deployment, subset and ``version`` label.
        endpoint: Endpoint and ``app`` label.
        model: The model version it serves.
        flavor: Flavor that was asked for.
        image: Container image.
        download_image: Image of the container that downloads the model; empty: the same.
        runtime: Its kind of model server.
        replicas: Desired replicas, at least 1.
        env: Environment beside what the model server needs.
        env_manager: How the model's Python environment is made, in MLflow's words.
        drain: Seconds that a server which goes has to finish what it is answering; None: Kubernetes' own, or enough for streams.
        from_folder: Whether the server reads the model's files where they lie, where they lie on this machine: it then
            holds no registry client (50 MB on a database), and comes up while the registry is down.
        pod: What pods on a cluster have beside; None on the local mesh.
    """

    name: str
    endpoint: str
    model: ModelVersion
    flavor: str = "python_function"
    image: str
    download_image: str = ""
    runtime: Runtime = MLFLOW
    replicas: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    env_manager: str = "local"
    drain: float | None = None
    from_folder: bool = False
    pod: PodSettings | None = None

    @property
    def streams(self) -> bool:
        """Whether its answers may be streamed."""
        return self.runtime.streams or (self.model.streams and self.runtime == MLFLOW)


def deployment_manifest(template: str, values: DeploymentValues) -> Object:
    """Render and check a Deployment.

    Raises:
        InvalidInput: The template can't be rendered, or its result is not the Deployment it must be.
    """
    annotations = {VERSION_ANNOTATION: values.model.label, FLAVOR_ANNOTATION: values.flavor}
    runtime = values.runtime
    if runtime != MLFLOW:
        annotations[RUNTIME_ANNOTATION] = compact(to_json(runtime))
    beside = has_recorder_beside(runtime, values.env, values.pod)
    recorder: Object | None = None
    if beside:
        annotations[RECORDER_ANNOTATION] = "beside"
    if values.model.alias:
        annotations[ALIAS_ANNOTATION] = values.model.alias
    drain = values.drain or (STREAMS_DRAIN if values.streams else None)
    if values.streams:
        annotations[STREAMS_ANNOTATION] = "true"
    server = {
        "MLFLOW_ISTIO_MODEL_VERSION": values.model.label,
        "MLFLOW_ISTIO_DEPLOYMENT": values.name,
        "MLFLOW_ISTIO_PORT": str(runtime.port),
        "MLFLOW_ISTIO_ENV_MANAGER": values.env_manager,
    }
    here = values.from_folder and values.model.folder
    if runtime.takes_host:
        # What the pod's address reaches; a replica of the local mesh is given its own.
        server["MLFLOW_ISTIO_HOST"] = "0.0.0.0"
    env, download_env = environment(values.env, server, values.pod, here or values.model.uri)
    given = {variable["name"] for variable in env}
    own = {name: value for name, value in runtime.environment.items() if name not in given}
    command, args = runtime.process
    if beside and values.pod is None:
        command, args, own = recorded_beside(runtime, (*command, *args), own)
    elif beside and values.pod is not None:
        image = values.download_image or values.image
        recorder, env = sidecar_values(runtime, env, values.pod.resources, image)
    env += [{"name": name, "value": value} for name, value in own.items()]
    labels = {"app": values.endpoint, "version": values.name}
    obj = render(
        "Deployment",
        template,
        values.name,
        {
            "name": values.name,
            "endpoint": values.endpoint,
            "model": {"name": values.model.model, "version": values.model.version, "uri": values.model.uri},
            "image": values.image,
            "download_image": values.download_image or values.image,
            "command": list(command),
            "args": list(args),
            "readiness": runtime.readiness,
            "own_server": runtime == MLFLOW,
            "replicas": values.replicas,
            "port": runtime.port,
            "recorder": recorder,
            "protocol": runtime.protocol,
            "selector": labels,
            "labels": {**_common(values.endpoint), DEPLOYMENT_LABEL: values.name},
            "pod_labels": {**_common(values.endpoint), DEPLOYMENT_LABEL: values.name, **labels},
            "annotations": annotations,
            "env": env,
            "download_env": download_env,
            "pod": draining(pod_values(values.pod)) if drain else pod_values(values.pod),
            "grace": math.ceil(drain) + PAUSE if drain else None,
        },
    )
    _check_labels(obj, {**labels, DEPLOYMENT_LABEL: values.name}, annotations)
    _check_server(obj, runtime, [*command], [*args], recorder)
    return obj


def _check_labels(obj: Object, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
    """Refuse a template of the user's whose pods nobody would find."""
    pod_labels = _texts("Deployment", obj, "spec.template.metadata.labels")
    _expect("Deployment", pod_labels, labels, "spec.template.metadata.labels")
    _expect("Deployment", annotations_of(obj), annotations, "metadata.annotations")
    selector = _texts("Deployment", obj, "spec.selector.matchLabels")
    if not selector or not selector.items() <= pod_labels.items():
        raise _broken("Deployment", "spec.selector.matchLabels must select spec.template.metadata.labels")


def _check_server(obj: Object, runtime: Runtime, command: list[str], args: list[str], recorder: Object | None) -> None:
    """Refuse a template of the user's that runs another server, or asks it otherwise than it answers."""
    containers = _at(obj, "spec.template.spec.containers")
    if not containers:
        raise _broken("Deployment", "spec.template.spec.containers must name the model server's container")
    if runtime != MLFLOW and [containers[0].get(part) or [] for part in ("command", "args")] != [command, args]:
        raise _broken(
            "Deployment",
            f"the first container does not run runtime '{runtime.name}': write command: {{{{ command }}}} and args: {{{{ args }}}}",
        )
    if recorder is not None:
        _check_recorder(obj, recorder, runtime.protocol)
    probe = containers[0].get("readinessProbe") or {}
    asked, word = (runtime.port, "port") if recorder is None else (recorder["port"], "recorder.port")
    if runtime.protocol == "grpc" and probe.get("grpc") != {"port": asked, "service": runtime.readiness}:
        raise _broken(
            "Deployment",
            "the first container's readinessProbe does not ask by gRPC, as the endpoint does: write grpc: "
            f"{{port: {{{{ {word} }}}}, service: {{{{ readiness }}}}}} where {{{{ protocol }}}} is grpc",
        )


def _check_recorder(obj: Object, recorder: Object, protocol: str) -> None:
    """Refuse a template of the user's that has no place for a recorder, or leads requests past it."""
    pod = _at(obj, "spec.template.spec")
    if not any(sidecar.get("command") == recorder["command"] for sidecar in sidecars_in(pod)):
        raise _broken(
            "Deployment",
            "nothing runs the recorder that is asked for (MLFLOW_ISTIO_RECORD): where {{ recorder }} is there, write an init "
            "container with restartPolicy: Always that has its command, image, env and resources",
        )
    named = [
        port.get("containerPort") for port in pod["containers"][0].get("ports") or () if port.get("name") == protocol
    ]
    if named != [recorder["port"]]:
        raise _broken(
            "Deployment", f"the port named {protocol} must be {{{{ recorder.port }}}} where {{{{ recorder }}}} is there"
        )


def keeps_records(deployment: Mapping[str, Any]) -> bool:
    """Whether a Deployment's server can record, or something beside it does.

    Raises:
        InvalidInput: Its annotation was damaged.
    """
    return runtime_of_deployment(deployment).records or RECORDER_ANNOTATION in annotations_of(deployment)


def runtime_of_deployment(deployment: Mapping[str, Any]) -> Runtime:
    """The kind of model server that a Deployment runs.

    Raises:
        InvalidInput: Its annotation was damaged.
    """
    text = annotations_of(deployment).get(RUNTIME_ANNOTATION)
    if text is None:
        return MLFLOW
    where = f"annotation {RUNTIME_ANNOTATION} of Deployment '{deployment['metadata']['name']}'"
    try:
        return from_json(Runtime, parsed(text, where))
    except InvalidInput as exc:
        raise InvalidInput(f"{where} is damaged ({exc.message}): deploy it again under another name") from exc


def may_stream(deployment: Mapping[str, Any]) -> bool:
    """Whether a Deployment's answers may be streamed."""
    return annotations_of(deployment).get(STREAMS_ANNOTATION) == "true"


def service_manifest(
    template: str, endpoint: str, port: int = 80, target_port: int | str | None = None, protocol: str = "http"
) -> Object:
    """Render and check the endpoint's Service; its port goes to that of the model servers, which has the name of what it speaks.

    Raises:
        InvalidInput: As for a Deployment.
    """
    obj = render(
        "Service",
        template,
        endpoint,
        {
            "name": endpoint,
            "endpoint": endpoint,
            "labels": _common(endpoint),
            "selector": {"app": endpoint},
            "port": port,
            "target_port": protocol if target_port is None else target_port,
            "protocol": protocol,
        },
    )
    if not obj["spec"].get("ports"):
        raise _broken("Service", "spec.ports must name a port")
    if protocol != spoken_at(obj):
        raise _broken("Service", f"spec.ports[0] must have appProtocol: {protocol}: write {{{{ protocol }}}}")
    return obj


def spoken_at(service: Mapping[str, Any]) -> str:
    """What Istio takes a Service's first port to speak: ``grpc``, or ``http`` for all that is none."""
    port = ((service.get("spec") or {}).get("ports") or [{}])[0]
    spoken = port.get("appProtocol") or str(port.get("name", "")).partition("-")[0]
    return "grpc" if spoken == "grpc" else "http"


def destination_rule_manifest(template: str, endpoint: str) -> Object:
    """Render and check the endpoint's DestinationRule, without subsets.

    Raises:
        InvalidInput: As for a Deployment.
    """
    values = {"name": endpoint, "endpoint": endpoint, "labels": _common(endpoint)}
    obj = render("DestinationRule", template, endpoint, values)
    if obj["spec"].get("host") != endpoint:
        raise _broken("DestinationRule", f"spec.host must be {endpoint!r}")
    return obj


def virtual_service_manifest(
    template: str, endpoint: str, hosts: tuple[str, ...] = (), gateways: tuple[str, ...] = ()
) -> Object:
    """Render and check the endpoint's VirtualService, without routes.

    Raises:
        InvalidInput: As for a Deployment.
    """
    values = {
        "name": endpoint,
        "endpoint": endpoint,
        "labels": _common(endpoint),
        "hosts": list(hosts or (endpoint,)),
        "gateways": list(gateways),
    }
    obj = render("VirtualService", template, endpoint, values)
    if not obj["spec"].get("hosts"):
        raise _broken("VirtualService", "spec.hosts must name a host")
    if "http" in obj["spec"]:
        raise _broken("VirtualService", "spec.http is written by the strategies, not by the template")
    return obj


def exported_to(obj: Object, namespaces: tuple[str, ...]) -> Object:
    """A VirtualService or DestinationRule that only these namespaces' proxies see; empty: whoever the mesh says."""
    return {**obj, "spec": {**obj["spec"], "exportTo": list(namespaces)}} if namespaces else obj


def render(kind: str, template: str, name: str, values: Mapping[str, Any]) -> Object:
    """Render one template and check what every kind must have.

    Args:
        kind: The kind it must produce.
        template: Jinja2 text.
        name: The ``metadata.name`` it must produce.
        values: JSON values by name.

    Raises:
        InvalidInput: Unknown variable, bad syntax, not one YAML document, or not that kind and name.
    """
    import jinja2  # imported where used: help texts and 'status' render nothing
    import yaml

    try:
        text = _compiled(template).render(dict(values))
    except (jinja2.TemplateError, *_OF_EXPRESSIONS) as exc:
        line = getattr(exc, "lineno", None)
        problem = getattr(exc, "message", None) or str(exc)
        raise _broken(kind, problem + (f" (line {line})" if line else "")) from exc
    try:
        documents = [document for document in yaml.load_all(text, _loader()) if document is not None]
    except (yaml.YAMLError, ValueError) as exc:  # ValueError: a literal such as 2024-13-45
        problem = " ".join(str(exc).split())
        raise _broken(kind, f"the result is no YAML ({problem}); write {{{{ expressions }}}} without quotes") from exc
    if len(documents) != 1 or not isinstance(documents[0], dict):
        rendered = type(documents[0]).__name__ if len(documents) == 1 else f"{len(documents)} documents"
        raise _broken(kind, f"the result must be one YAML object, not {rendered}")
    obj = _as_json(kind, documents[0])
    if obj.get("kind") != kind or not obj.get("apiVersion"):
        raise _broken(kind, f"the result must have kind {kind} and an apiVersion such as {API_VERSIONS[kind]}")
    if _at(obj, "metadata.name") != name:
        raise _broken(kind, f"metadata.name must be {name!r}")
    if not isinstance(obj.get("spec"), dict):
        raise _broken(kind, "there must be a spec")
    _texts(kind, obj, "metadata.annotations")
    labels = _texts(kind, obj, "metadata.labels")
    _expect(kind, labels, {ENDPOINT_LABEL: str(values["endpoint"])}, "metadata.labels")
    return obj


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    """The template, compiled once: a text of a few dozen lines takes Jinja longer than everything else a deployment computes."""
    import jinja2.sandbox

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, finalize=_as_data, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template)


def _loader() -> Any:
    """YAML's safe loader, the one in C where it is there."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _as_json(kind: str, document: Any) -> Object:
    """The document as JSON has it; YAML knows more: dates, binaries, not-a-number, keys that are no text, shared parts."""
    try:
        obj: Object = json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise _broken(kind, f"the result holds a value that JSON does not have ({exc}): put quotes around it") from exc
    return obj


def _at(obj: Any, path: str) -> Any:
    """What stands at a dotted path; None where a part of it is missing or no mapping."""
    for key in path.split("."):
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj


def _texts(kind: str, obj: Object, path: str) -> dict[str, str]:
    """The labels or annotations at a path."""
    texts = _at(obj, path) or {}
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise _broken(kind, f"{path} must hold text only: put quotes around numbers and words such as true")
    return texts


def _common(endpoint: str) -> dict[str, str]:
    return {ENDPOINT_LABEL: endpoint, MANAGED_BY_LABEL: FIELD_MANAGER}


def _expect(kind: str, present: Mapping[str, str], wanted: Mapping[str, str], where: str) -> None:
    for key, value in wanted.items():
        if present.get(key) != value:
            raise _broken(kind, f"{where} must have {key}: {value}")


def _broken(kind: str, problem: str) -> InvalidInput:
    return InvalidInput(f"template {TEMPLATES[kind]}: {problem}")


def _as_data(value: Any) -> str:
    """One expression's value as JSON that YAML reads back as the same value."""
    import jinja2
    import markupsafe

    if isinstance(value, jinja2.Undefined):
        return str(value)  # StrictUndefined raises here and names the variable
    if isinstance(value, markupsafe.Markup):
        return str(value)  # the author's own '| tojson' is JSON already
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
