"""Options at the edge: every ``-C name=value``, its type, its default in the environment, and what an error says.

A value comes from the call, else from ``MLFLOW_ISTIO_<OPTION>``, else from the default here. Unknown options are refused by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mlflow_istio.core.basics.names import (
    check_gateway,
    check_header_name,
    check_release_id,
    check_scope,
    check_url,
    nearest,
)
from mlflow_istio.core.mesh.attached import parse_attach
from mlflow_istio.core.mesh.pods import PodSettings, check_path, check_quantity
from mlflow_istio.core.moves.strategies import STRATEGIES, TrafficRequest
from mlflow_istio.core.runtime.runtime import check_url_path
from mlflow_istio.errors import InvalidInput, masked
from mlflow_istio.options.shared import Adopted, Confirmed, PolicySettings, RouteSettings, Started
from mlflow_istio.options.values import (
    IN_SECONDS,
    Arms,
    ByTarget,
    ChangeId,
    Duration,
    Environment,
    Hosts,
    Image,
    JsonList,
    JsonMap,
    JsonObject,
    Match,
    Names,
    Namespaces,
    Percentage,
    Resources,
    Secrets,
    Structured,
    Texts,
    Weight,
    Weights,
    checked,
)

ACTIONS = ("promote", "rollback", "abort", "pause", "resume")
DEFAULT_IMAGE = "mlflow-istio-serving:0.1.0"
DEFAULT_MAX_BODY = 16 * 1024 * 1024
"""Bytes; the model server's own default."""


_PREFIX = "MLFLOW_ISTIO_"


class ConnectionOptions(BaseSettings):
    """Options of every verb: where it works.

    A verb's model puts together what it shares with others (``options.shared``) and what is its own.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", enable_decoding=False, frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The call, then the environment if it names any option: to go through all options took a third of many a verb's time."""
        variables = {name.upper() for name in os.environ}
        named = any(f"{_PREFIX}{name.upper()}" in variables for name in settings_cls.model_fields)
        return (init_settings, env_settings) if named else (init_settings,)

    scope: Annotated[str, checked(check_scope)] | None = Field(
        default=None, description="name of this place in the registry (default: namespace or local-MESH)"
    )
    tracking_uri: str | None = Field(default=None, description="MLflow tracking server (default: MLflow's own setting)")
    registry_uri: str | None = Field(default=None, description="MLflow model registry (default: MLflow's own setting)")
    gateway: Annotated[str, checked(check_gateway)] | None = Field(
        default=None,
        description="NAMESPACE/NAME of the Istio Gateway; of several, the one to prove changes at (cluster only)",
    )
    gateway_url: Annotated[str, checked(check_url)] | None = Field(
        default=None,
        description="where the gateway can be reached from here, if that can't be found out (cluster only)",
    )


class ReadOptions(ConnectionOptions):
    """Options of verbs that change nothing."""


class DryRunOptions(ConnectionOptions):
    """Options of verbs that change something."""

    dry_run: bool = Field(default=False, description="print the difference it would make, and change nothing")


MAX_REASON = 1000
"""Characters of a reason."""


class ChangeOptions(DryRunOptions):
    """Options of verbs whose change has an entry in the ledger."""

    reason: Annotated[str, AfterValidator(masked)] = Field(
        default="", max_length=MAX_REASON, description="why, for the ledger"
    )


class TrafficAsked(ChangeOptions, Confirmed):
    """What is asked of traffic, and the release that it is for."""

    strategy: Literal["canary", "ab", "blue-green", "shadow"] | None = Field(
        default=None, description="strategy of the release: " + ", ".join(STRATEGIES)
    )
    weight: Weight | None = Field(default=None, description="percent of the traffic for the candidate; 0 unless given")
    weights: Weights | None = Field(
        default=None, description="JSON, percent for every destination; replaces the split and sums to 100"
    )
    mirror: Percentage | None = Field(
        default=None, description="shadow: percent of the live traffic copied to the candidate; 100 unless given"
    )
    header: Annotated[str, checked(check_header_name)] | None = Field(
        default=None, description="ab: request header whose value names the arm"
    )
    cookie: Annotated[str, checked(lambda name: check_header_name(name, "cookie"))] | None = Field(
        default=None, description="ab: cookie that keeps a user on the arm the split chose"
    )
    values: JsonMap | None = Field(
        default=None, description="ab by header: JSON, deployment to the value that means it"
    )
    match: Match = Field(
        default=None, description="canary: JSON, requests that the candidate gets whatever the weight; none: no longer"
    )
    arms: Arms = Field(default=None, description="ab: JSON, deployment to the requests it gets, instead of a header")
    release_id: Annotated[str, checked(check_release_id)] | None = Field(
        default=None, description="id of the release (a pipeline's job id, say); made anew unless given"
    )
    supersede: bool = Field(default=False, description="abort an open release first: its traffic returns to stable")

    @property
    def traffic_request(self) -> TrafficRequest:
        """The part the strategies take."""
        return TrafficRequest(
            weight=self.weight,
            weights=self.weights,
            mirror=self.mirror,
            header=self.header,
            cookie=self.cookie,
            values=self.values,
            match=self.match,
            arms=self.arms,
        )


_OF_PODS = (
    *(
        "replicas",
        "env",
        "env_manager",
        "max_body",
        "drain",
        "image",
        "serving_image",
        "model_source",
        "model_path",
        "resources",
        "service_account",
        "node_selector",
    ),
    *("tolerations", "annotations", "image_pull_secrets", "env_from_secret", "hardened", "templates"),
    *("service_account_token", "disk_limit"),
    *("runtime", "protocol", "command", "args", "port", "readiness", "scoring", "attach"),
)


def _attachable(text: str) -> str:
    parse_attach(text)
    return text


class CreateOptions(TrafficAsked, Adopted, Started, PolicySettings):
    """Options of ``create`` (and of ``create_endpoint``'s first deployment)."""

    replicas: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="how many model servers (default: 1, or as many as there are)"
    )
    env: Environment = Field(default={}, description="JSON, environment of the model server")
    env_manager: Literal["local", "virtualenv", "uv", "conda"] = Field(
        default="local", description="how the model's Python environment is made: local, virtualenv, uv or conda"
    )
    max_body: Annotated[int, Field(ge=1, le=2**40)] = Field(
        default=DEFAULT_MAX_BODY,
        description="most bytes of a request's body that the model server takes; a larger one is answered 413",
    )
    drain: Annotated[float, IN_SECONDS, Field(ge=1, le=3600)] | None = Field(
        default=None,
        description="seconds that a model server which goes has to finish what it is answering (25; 300 for what streams)",
    )
    image: Image = Field(default=DEFAULT_IMAGE, description="container image (cluster only)")
    serving_image: Image = Field(
        default=DEFAULT_IMAGE,
        description="our serving image: what runs unless 'image' says otherwise, and what downloads another runtime's model and "
        "records it (cluster only)",
    )
    runtime: str = Field(
        default="mlflow",
        description="kind of model server: mlflow (our own), mlserver, openai, triton, container (any HTTP server), or the path of "
        "a YAML file that describes one; 'mlflow-istio runtimes' lists them",
    )
    protocol: Literal["http", "grpc"] | None = Field(
        default=None,
        description="what callers of the endpoint speak, and all its deployments: http, or grpc with runtime mlserver, triton, "
        "container or a profile that does (default: what the runtime speaks)",
    )
    command: Texts = Field(
        default=None,
        description='JSON list, what another runtime runs, such as ["vllm", "serve", "$MODEL", "--port", "$PORT"]',
    )
    args: Texts = Field(default=None, description="JSON list, its arguments, likewise")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="port at which another runtime's container listens, 8080 unless given; with 'attach', which one of several "
        "is asked",
    )
    readiness: Annotated[str, checked(check_url_path)] | None = Field(
        default=None, description="path at which another runtime answers 200 when it is ready"
    )
    scoring: Annotated[str, checked(check_url_path)] | None = Field(
        default=None, description="path at which another runtime is asked"
    )
    attach: Annotated[str, checked(_attachable)] | None = Field(
        default=None,
        description="what stands already, in place of pods of ours: deployment/NAME, service/NAME, inferenceservice/NAME "
        "(KServe's), or on a laptop http://127.0.0.1:PORT; it is never scaled, changed or deleted",
    )
    host: Hosts = Field(
        default=(),
        description="further host names of a new endpoint at the gateway, comma-separated; ENDPOINT.NAMESPACE.svc.cluster.local "
        "always is one (cluster only)",
    )
    foreign_host: bool = Field(
        default=False,
        description="whether 'host' may name Services of other namespaces, whose callers this endpoint then answers (cluster only)",
    )
    export_to: Namespaces = Field(
        default=(),
        description="namespaces whose proxies see a new endpoint, comma-separated: names, '.' for its own, '*' for all; the "
        "gateway's must be among them (default: the mesh's) (cluster only)",
    )
    under: str | None = Field(
        default=None,
        description="endpoint or VirtualService whose host a new one shares (made if there is none), by 'path' or 'match_header'",
    )
    path: str | None = Field(default=None, description="path of the endpoint under that host, such as /api/v1/chat")
    match_header: str | None = Field(
        default=None, description="NAME=VALUE of a header that the endpoint's requests under that host carry"
    )
    virtual_service: str | None = Field(
        default=None, description="VirtualService of yours to take over one route of; with 'route'"
    )
    route: str | None = Field(
        default=None, description="name of that route (http[].name); what it goes to becomes stable"
    )
    model_source: Literal["registry", "image", "init"] = Field(
        default="registry",
        description="how the model gets in: registry (the server pulls it at start), image (it is in there), init (an init "
        "container downloads it) (cluster only)",
    )
    model_path: Annotated[str, checked(check_path)] = Field(
        default="/model", description="folder of the model in the container, for image and init (cluster only)"
    )
    resources: Resources = Field(
        default={},
        description='JSON, such as {"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi"}} (cluster only)',
    )
    service_account: str | None = Field(default=None, description="service account of the pods (cluster only)")
    node_selector: JsonMap = Field(default={}, description="JSON, labels a node must have (cluster only)")
    tolerations: JsonList = Field(default=[], description="JSON list of Kubernetes' tolerations (cluster only)")
    annotations: JsonMap = Field(default={}, description="JSON, annotations of the pods (cluster only)")
    image_pull_secrets: Names = Field(
        default=(), description="Secrets that open the image's registry, comma-separated (cluster only)"
    )
    env_from_secret: Secrets = Field(
        default={}, description="JSON, variable of the model server to SECRET/KEY (cluster only)"
    )
    hardened: bool = Field(
        default=True,
        description="non-root user, read-only root and a writable /tmp; false for an image that can't (cluster only)",
    )
    service_account_token: bool = Field(
        default=False, description="give the pods a token of their service account for the API server (cluster only)"
    )
    disk_limit: Annotated[str, checked(check_quantity)] = Field(
        default="20Gi",
        description="how much /tmp, a downloaded model and records may take, each; a pod that takes more is evicted (cluster only)",
    )
    templates: str | None = Field(default=None, description="folder whose templates override ours by file name")

    def pods(self) -> dict[str, Any]:
        """What was said of the model servers, as JSON; what is as it is by default is not in it."""
        return self.model_dump(mode="json", include=set(_OF_PODS), exclude_defaults=True)

    def pod(self) -> PodSettings:
        """The part that only pods on a cluster have."""
        return PodSettings(
            source=self.model_source,
            model_path=self.model_path,
            resources=self.resources,
            service_account=self.service_account,
            node_selector=self.node_selector,
            tolerations=tuple(self.tolerations),
            annotations=self.annotations,
            image_pull_secrets=self.image_pull_secrets,
            env_from_secret=self.env_from_secret,
            hardened=self.hardened,
            service_account_token=self.service_account_token,
            disk_limit=self.disk_limit,
        )


class AdoptOptions(ChangeOptions, Adopted, Confirmed):
    """Options of ``adopt``."""

    virtual_service: str = Field(description="VirtualService of yours, in the target's namespace")
    route: str = Field(description="name of one of its routes (http[].name); what it goes to becomes stable")


class UpdateOptions(DryRunOptions, Started):
    """Options of ``update``: a deployment's pods."""

    replicas: Annotated[int, Field(ge=0, le=1000)] | None = Field(default=None, description="how many model servers")
    env: Environment | None = Field(default=None, description="JSON, environment to set on the model server")
    image: Image | None = Field(default=None, description="container image (cluster only)")


class UpdateEndpointOptions(TrafficAsked, RouteSettings):
    """Options of ``update-endpoint``: traffic and releases."""

    action: Literal["promote", "rollback", "abort", "pause", "resume"] | None = Field(
        default=None, description="verb on the open release: " + ", ".join(ACTIONS)
    )
    candidate: Names | None = Field(
        default=None,
        description="deployment to release, or which of several to promote; comma-separated with strategy=ab",
    )
    force: bool = Field(default=False, description="send traffic even to a deployment that is not ready")
    keep_old: Duration = Field(
        default=None, description="action=promote: delete the replaced deployment after this time, such as 1h"
    )
    add_route: JsonObject | None = Field(
        default=None, description='JSON, a route of its own: {"to": DEPLOYMENT, "match": {...}, "name": NAME}'
    )
    remove_route: str | None = Field(default=None, description="name of a route of its own to take away")
    fault: Structured = Field(
        default=None, description='JSON, {"delay": "2s", "abort": 503, "percentage": 10, "ttl": "5m"}; none: ended'
    )
    to: ChangeId | None = Field(
        default=None,
        description="sequence number or id of the earlier change whose traffic comes back (see history); with action=rollback",
    )
    redeploy: JsonObject = Field(
        default={}, description="JSON, options of create for deployments that have to come back; with 'to'"
    )


class DeleteOptions(ChangeOptions, Confirmed):
    """Options of ``delete``."""

    force: bool = Field(default=False, description="even though routes of others go to it")


class DeleteEndpointOptions(DeleteOptions):
    """Options of ``delete-endpoint``."""

    force: bool = Field(
        default=False,
        description="even with a release open, with a registry that is down, though routes of others go to it or what users had "
        "before is gone, or when it can't be read",
    )


Parsed = TypeVar("Parsed", bound=ConnectionOptions)


_OF_THIS_PLACE = ("tracking_uri", "registry_uri", "gateway_url", "dry_run")
"""Options that say how things are reached from here, or that nothing is to be changed from here: no part of what is done."""


_NEVER_FROM_ENVIRONMENT = ("port",)
"""Options whose variable means something else."""


def parse_options(
    model: type[Parsed], config: Mapping[str, Any] | None, *, cluster: str, environment: bool = True
) -> Parsed:
    """Read options, or say in one line what is wrong with the first that is.

    Args:
        model: Which verb's options.
        config: Names and values as MLflow hands them over; values are text or Python values.
        cluster: Kind of the target; options that have no effect there are refused.
        environment: Whether the environment's defaults count for more than how things are reached from here.

    Raises:
        InvalidInput: Names the option and what to do.
    """
    if not isinstance(config or {}, Mapping):
        raise InvalidInput(f"options must be names with values, not {masked(repr(config))[:40]}")
    given = dict(config or {})
    unknown = [name for name in given if name not in model.model_fields]
    if unknown:
        raise InvalidInput(f"unknown option '{unknown[0]}': {nearest(unknown[0], model.model_fields)}")
    if cluster == "istio-local":
        only_there = cluster_only(model)
        useless = [name for name in only_there if name in given]
        if useless:
            raise InvalidInput(f"option '{useless[0]}' has no effect on target istio-local: leave it out")
        # An environment set up for a cluster must not reach the local mesh.
        given |= {name: model.model_fields[name].default for name in only_there}
    # A Service named mlflow-istio puts MLFLOW_ISTIO_PORT into every pod of its namespace, and model servers have it, too.
    given |= {name: None for name in _NEVER_FROM_ENVIRONMENT if name in model.model_fields and name not in given}
    if not environment:
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in model.model_fields.items()
            if name not in _OF_THIS_PLACE and not field.is_required()
        }
        given = {**defaults, **given}
    try:
        options = model(**given)
    except ValidationError as exc:
        raise InvalidInput(_first_problem(model, exc, given)) from exc
    _check_addresses(options)
    usual = _usual_there(model, cluster)
    return options.model_copy(update={name: usual[name] for name in usual if getattr(options, name) is None})


_ADDRESSES = frozenset(
    {"tracking_uri", "registry_uri", "prometheus_url", "envoy_url", "gateway_url", "webhooks", "reason", "env"}
)
"""Options that may hold an address, and are written down without its password or refused with words of their own."""


def _check_addresses(options: ConnectionOptions) -> None:
    """Refuse an address with a user or password where it would stand on objects for all to read.

    Raises:
        InvalidInput: Names the option, and not the address.
    """
    for name in sorted(options.model_fields_set - _ADDRESSES):
        value = getattr(options, name)
        if value is None or isinstance(value, bool | int | float):
            continue
        text = repr(value)
        if masked(text) != text:
            raise InvalidInput(
                f"option '{name}' holds an address with a user or password, which would stand on an object for all to read: leave "
                "them out"
            )


def _usual_there(model: type[ConnectionOptions], cluster: str) -> dict[str, Any]:
    """What the options are that nobody says, where that is another on each kind of target."""
    return {
        name: mark.on(cluster)
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, ByTarget)
    }


def cluster_only(model: type[ConnectionOptions]) -> list[str]:
    """Names of the options that have no effect on the local mesh."""
    return [name for name, field in model.model_fields.items() if "(cluster only)" in str(field.description)]


def _first_problem(model: type[ConnectionOptions], exc: ValidationError, given: Mapping[str, Any]) -> str:
    error = exc.errors(include_url=False)[0]
    option, *parts = (str(part) for part in error["loc"])
    source = "" if option in given else f" (from {model.model_config.get('env_prefix')}{option.upper()})"
    where = option + "".join(f"[{part!r}]" for part in parts)
    value = repr(error["input"])
    value = value if len(value) <= 100 else f"{value[:100]}... ({len(value)} characters)"
    if error["type"] == "literal_error":
        choices = [
            choice.strip(" '")
            for choice in str(error.get("ctx", {}).get("expected", "")).replace(" or ", ",").split(",")
        ]
        return f"unknown {option} {value}{source}: {nearest(str(error['input']), [choice for choice in choices if choice])}"
    problem = re.sub(r"^(Input|String) should ", "it must ", error["msg"].removeprefix("Value error, "))
    return f"option '{where}' can't be {value}{source}: {problem}"
