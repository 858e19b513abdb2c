"""Target URI -> adapters: the only place that chooses."""

from __future__ import annotations

import getpass
import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.target import Target, parse_target
from mlflow_istio.core.basics.yaml_text import strict_loader
from mlflow_istio.core.mesh.manifests import TEMPLATES
from mlflow_istio.core.mesh.pods import RECORD_TOKEN, variable_of
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.core.runtime.profiles import RUNTIMES
from mlflow_istio.core.runtime.runtime import Runtime, runtime_of
from mlflow_istio.errors import InvalidInput, RegistryError, masked
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.ports.models import Models
from mlflow_istio.ports.records import Records
from mlflow_istio.ports.registry import Registry
from mlflow_istio.ports.runs import Runs
from mlflow_istio.releases.context import Context, pin_headers
from mlflow_istio.releases.deploying.sweeping import enforce

if TYPE_CHECKING:
    from mlflow_istio.adapters.kubernetes import KubernetesCluster
    from mlflow_istio.adapters.local.mesh import LocalMesh


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        """See ``ports.Clock``."""
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        """See ``ports.Clock``."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See ``ports.Clock``."""
        time.sleep(seconds)


LEFT_FOR_LATER = "it is left to the next command"
NO_ADDRESS = (
    "no MLflow tracking server is named: the next command with the environment variable MLFLOW_TRACKING_URI, or the option "
    "'tracking_uri', records it"
)
"""Why the ledger is not written."""


class LaterRegistry:
    """Stands where nobody may record: whoever does not know the ledger's address must not write into another one.

    Args:
        why: What is said where something would have been recorded.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def later(*_args: object, **_kwargs: object) -> Any:
            raise RegistryError(self._why)

        return later


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A target with its adapters, each made when it is first used: 'status' must not pay for MLflow.

    Attributes:
        target: The parsed target.
        tracking_uri: Tracking server given in the call, or None.
        registry_uri: Model registry given in the call, or None.
        scope: Scope given in the call, or None.
        gateway: NAMESPACE/NAME of the Gateway given in the call, or None.
        gateway_url: Where that gateway can be reached from here, or None: found out.
    """

    target: Target
    tracking_uri: str | None = None
    registry_uri: str | None = None
    scope: str | None = None
    gateway: str | None = None
    gateway_url: str | None = None

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster behind the target."""
        if self.target.kind == "istio-local":
            return local_mesh(self.target)
        return self._kubernetes

    @cached_property
    def _kubernetes(self) -> KubernetesCluster:
        from mlflow_istio.adapters.kubernetes import connect

        return connect(self.target, self.gateway, self.gateway_url)

    @cached_property
    def registry(self) -> Registry:
        """MLflow's registry."""
        self.check_ledger()
        from mlflow_istio.adapters.mlflow.registry import MlflowRegistry

        return MlflowRegistry(self.tracking_uri, self.registry_uri, place=lambda: self.cluster.place)

    @cached_property
    def runs(self) -> Runs:
        """MLflow's runs."""
        self.check_ledger()
        from mlflow_istio.adapters.mlflow.runs import MlflowRuns

        return MlflowRuns(self.tracking_uri, self.registry_uri)

    @cached_property
    def models(self) -> Models:
        """What MLflow's model versions say of themselves."""
        self.check_ledger()
        from mlflow_istio.adapters.mlflow.models import MlflowModels

        return MlflowModels(self.tracking_uri, self.registry_uri)

    def context(
        self, tell: Callable[[str], None], warn: Callable[[str], None], templates: str | None = None
    ) -> Context:
        """Everything a use-case works with.

        Args:
            tell: Called with one line of progress.
            warn: Called with one line of warning.
            templates: Folder with templates that override ours.

        Raises:
            InvalidInput: Nobody said where the ledger is.
        """
        self.check_ledger()
        if self.target.kind == "istio":
            self._kubernetes.warn = warn
        return Context(
            cluster=self.cluster,
            registry=self.registry,
            runs=self.runs,
            clock=SystemClock(),
            who=who(),
            new_id=new_id,
            templates=load_templates(templates),
            scope=self.scope or self.cluster.scope,
            tell=tell,
            warn=warn,
            enforce=enforce,
            revive=self._revive if self.target.kind == "istio-local" else None,
        )

    def _revive(self) -> None:
        local_mesh(self.target).up()

    def names_ledger(self) -> bool:
        """Whether somebody said where the ledger is, or MLflow's own fallback is all right; see ``check_ledger``."""
        if self.tracking_uri or (self.target.kind != "istio" and not _in_a_step()):
            return True
        import mlflow

        return mlflow.tracking.is_tracking_uri_set() or not _is_in_a_folder(mlflow.get_tracking_uri())

    def check_ledger(self) -> None:
        """Refuse to work where MLflow would make a ledger of its own in the working directory, which nobody else sees.

        On a developer's machine that is MLflow's own way and all right; a cluster, and the throwaway folder of a pipeline's step,
        have no such place.

        Raises:
            InvalidInput: No tracking server is named; says the variable and the option.
        """
        if self.names_ledger():
            return
        where = "in a pipeline's step" if _in_a_step() else "for a target on a cluster"
        raise InvalidInput(
            f"no MLflow tracking server is named, which {where} would leave the ledger in a throwaway folder: set the environment "
            "variable MLFLOW_TRACKING_URI, or give the option 'tracking_uri'"
        )

    def unrecorded_context(
        self, tell: Callable[[str], None], warn: Callable[[str], None], why: str = LEFT_FOR_LATER
    ) -> Context:
        """A context that leaves the ledger to the next command: its changes wait on the objects, and MLflow is not imported.

        Args:
            tell: Called with one line of progress.
            warn: Called with one line of warning.
            why: What is said where something would have been recorded.
        """
        later: Any = LaterRegistry(why)
        return Context(
            cluster=self.cluster,
            registry=later,
            runs=later,
            clock=SystemClock(),
            who=who(),
            new_id=new_id,
            templates=load_templates(None),
            scope=self.scope or self.cluster.scope,
            tell=tell,
            warn=warn,
            enforce=enforce,
        )

    def metrics(
        self,
        source: str = "auto",
        *,
        prometheus_url: str | None = None,
        envoy_url: str | None = None,
        kpis: Sequence[Kpi] = (),
        errors: str = "5xx",
        chosen: bool = False,
        streams: bool = False,
    ) -> Metrics | None:
        """Where counts come from; None for nowhere.

        Args:
            source: ``auto`` is the given Prometheus, else the local mesh's or the given Envoy; ``prometheus``, ``envoy``, ``none``.
            prometheus_url: The Prometheus.
            envoy_url: Admin address of a gateway's Envoy, for ``envoy`` on a cluster (default: ``MLFLOW_ISTIO_ENVOY_URL``).
            kpis: KPIs to count beside.
            errors: ``5xx``, or ``4xx+5xx``.
            chosen: Whether requests that chose their arm count, too, where they can be told apart.
            streams: Whether measures of streamed answers are wanted, too.

        Raises:
            InvalidInput: An address is missing; says what to set.
        """
        from mlflow_istio.wiring.sources import metrics_source

        return metrics_source(
            self.target.kind,
            self.cluster,
            source,
            prometheus_url=prometheus_url,
            envoy_url=envoy_url or os.environ.get("MLFLOW_ISTIO_ENVOY_URL"),
            kpis=kpis,
            errors=errors,
            chosen=chosen,
            streams=streams,
        )

    def records(self) -> Records:
        """What the model servers recorded, for a shadow's comparison."""
        from mlflow_istio.adapters.records import PinnedRecords

        def token(deployment: str) -> str | None:
            return variable_of(self.cluster.get("Deployment", deployment) or {}, RECORD_TOKEN)

        return PinnedRecords(self.cluster.address, lambda *asked: pin_headers(self.cluster, *asked), token)

    def callers(self) -> Callable[[str], Mapping[str, float]] | None:
        """Counts of what callers of an endpoint saw; None where no proxy counts them by endpoint."""
        if self.target.kind != "istio-local":
            return None
        from mlflow_istio.adapters.envoy.callers import EnvoyCallers

        return EnvoyCallers(local_mesh(self.target).admin_urls).read

    def gateways(self) -> tuple[str, ...]:
        """Gateways of a new endpoint: the one given, and the mesh itself; none where only the mesh has it.

        Raises:
            NotFound: There is no such gateway.
            InvalidInput: It is not written as NAMESPACE/NAME.
        """
        if self.target.kind == "istio-local" or not self.gateway:
            return ()
        self._kubernetes.check_gateway(self.gateway)
        return (self.gateway, "mesh")

    def server_environment(self, secret: Collection[str] = ()) -> dict[str, str]:
        """Where a model server finds its model: MLflow's addresses, absolute, since it runs in another folder.

        An address with a password is never written into a manifest. Processes of the local mesh inherit the environment of
        the command, so it is left out there.

        Args:
            secret: Variables that pods take from Secrets.

        Raises:
            InvalidInput: An address has a user or password, and pods would hold it in plain text.
        """
        self.check_ledger()
        import mlflow

        tracking = self.tracking_uri or mlflow.get_tracking_uri()
        registry = self.registry_uri or (tracking if self.tracking_uri else mlflow.get_registry_uri())
        addresses = {"MLFLOW_TRACKING_URI": absolute_uri(tracking), "MLFLOW_REGISTRY_URI": absolute_uri(registry)}
        if "MLFLOW_TRACKING_URI" in secret and registry == tracking:
            del addresses["MLFLOW_REGISTRY_URI"]  # MLflow's own default is the tracking server
        plain = {name: address for name, address in addresses.items() if name not in secret}
        if self.target.kind == "istio-local":
            return {name: address for name, address in plain.items() if not _has_password(address)}
        return dict(without_passwords(plain))


def connection_to(target_uri: str, **given: str | None) -> Connection:
    """The connection to a target.

    Args:
        target_uri: Such as ``istio-local``.
        given: ``tracking_uri``, ``registry_uri``, ``scope``, ``gateway``, ``gateway_url``, as far as given in the call.

    Raises:
        InvalidInput: The target can't be read.
    """
    return Connection(target=parse_target(target_uri), **given)


def local_mesh(target: Target) -> LocalMesh:
    """The local mesh of a target."""
    from mlflow_istio.adapters.local.mesh import LocalMesh

    return LocalMesh(home(), str(target.place))


def home() -> Path:
    """Where local meshes live: ``$MLFLOW_ISTIO_HOME``, or ``~/.mlflow-istio``."""
    return Path(os.environ.get("MLFLOW_ISTIO_HOME") or Path.home() / ".mlflow-istio")


def who() -> str:
    """The user's name for the ledger; ``MLFLOW_ISTIO_WHO`` says who a pipeline works for."""
    given = os.environ.get("MLFLOW_ISTIO_WHO")
    if given:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user often has no name
        return f"uid {os.getuid()}"


def new_id() -> str:
    """Ten random hex digits: short enough for a cookie, and no endpoint sees a billion changes."""
    return secrets.token_hex(5)


def load_templates(folder: str | None) -> dict[str, str]:
    """Kind to template text: ours, or the user's where the folder has a file of that name.

    Raises:
        InvalidInput: The folder does not exist, or holds a template of another name.
    """
    import importlib.resources

    ours = importlib.resources.files("mlflow_istio.templates")
    texts = {kind: (ours / file).read_text(encoding="utf-8") for kind, file in TEMPLATES.items()}
    if folder is None:
        return texts
    path = Path(folder)
    if not path.is_dir():
        raise InvalidInput(f"templates folder '{folder}' does not exist")
    names = {file: kind for kind, file in TEMPLATES.items()}
    for file in sorted(path.glob("*.j2")):
        if file.name not in names:
            raise InvalidInput(f"template '{file.name}' in '{folder}' overrides nothing: {nearest(file.name, names)}")
        texts[names[file.name]] = file.read_text(encoding="utf-8")
    return texts


def load_runtime(name: str) -> Runtime:
    """A kind of model server by its name, or by the YAML file of a user's own.

    Raises:
        InvalidInput: There is no such one, or its file says what can't be.
    """
    if not name.endswith((".yaml", ".yml")):
        if name not in RUNTIMES:
            raise InvalidInput(f"unknown runtime '{name}': {nearest(name, RUNTIMES)}; a file of your own ends in .yaml")
        return RUNTIMES[name]
    import yaml

    try:
        document = yaml.load(Path(name).read_text(encoding="utf-8"), strict_loader())
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"runtime profile '{name}' can't be read: {getattr(exc, 'strerror', None) or exc}") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise InvalidInput(f"runtime profile '{name}' is no YAML: {' '.join(str(exc).split())}") from exc
    return runtime_of(document, name)


def _in_a_step() -> bool:
    return os.environ.get("_KFP_RUNTIME") == "true"  # set by KFP's own command for every lightweight component


def _is_in_a_folder(uri: str) -> bool:
    """Whether an address is what MLflow falls back on, a file here; a managed platform's own default is not."""
    return uri.startswith(("sqlite:", "file:")) or ("://" not in uri and not uri.startswith("databricks"))


def absolute_uri(uri: str) -> str:
    """A tracking address that means the same from every folder."""
    for scheme in ("sqlite:///", "file:"):
        if uri.startswith(scheme):
            rest = uri[len(scheme) :]
            return uri if rest.startswith("/") else f"{scheme}{Path(rest).resolve()}"
    if "://" in uri or uri.startswith("databricks"):
        return uri
    return str(Path(uri).resolve())


_USERS_OWN = ("MLFLOW_ISTIO_RECORD", "MLFLOW_ISTIO_CALLER_TIMEOUT")


def only(
    environment: Mapping[str, str], *, in_pods: bool = False, reserved: str = "MLFLOW_ISTIO_"
) -> Mapping[str, str]:
    """The user's environment for a model server, if none of it is ours to set.

    Args:
        environment: The variables.
        in_pods: Whether it stands in a Deployment for all to read, so that no address in it may have a user or password.
        reserved: What names of ours start with.

    Raises:
        InvalidInput: A name starts with ``MLFLOW_ISTIO_``, or an address has a password.
    """
    for name in environment:
        if name.startswith(reserved) and not name.startswith(_USERS_OWN):
            raise InvalidInput(f"environment variable '{name}' is set by mlflow-istio itself: leave it out of 'env'")
    return without_passwords(environment, tuple(environment) if in_pods else _ADDRESSES)


_ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


def without_passwords(environment: Mapping[str, str], names: Sequence[str] = _ADDRESSES) -> Mapping[str, str]:
    """The environment of a model server, if addresses in it have no user or password.

    Args:
        environment: The variables.
        names: Those that are looked at.

    Raises:
        InvalidInput: One has: everybody who may read the Deployment could read it.
    """
    for name in names:
        if _has_password(environment.get(name, "")):
            raise InvalidInput(
                f"{name} ({environment[name]}) has a user or password, which would stand in the Deployment for all to read: put "
                f'the address into a Secret and give env_from_secret={{"{name}": "SECRET/KEY"}}'
            )
    return environment


def _has_password(address: str) -> bool:
    return masked(address) != address
