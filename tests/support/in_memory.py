"""Desks on in-memory ports, ports that die at a given call, and what is left in the world as one comparable text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.releases.context import Context, Outcome, endpoint_of
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.deployments import deploy
from mlflow_istio.testing import InMemoryCluster, InMemoryMetrics, InMemoryRegistry, InMemoryRuns, StillClock
from tests.support.endpoint_values import TEMPLATES

KINDS = ("Deployment", "Service", "DestinationRule", "VirtualService")


class OfOtherCalls(InMemoryMetrics):
    """A source that tells the errors of another protocol alone, as an Envoy that istiod configures does of HTTP."""

    protocols = ("grpc",)


@dataclass
class Numbers:
    """One, two, three and so on; what ``itertools.count`` gives can't be copied from Python 3.14 on."""

    newest: int = 0

    def __next__(self) -> int:
        self.newest += 1
        return self.newest


@dataclass(frozen=True, kw_only=True)
class World:
    """A cluster, a registry, and a context at which a use-case works on them.

    Attributes:
        cluster: The cluster.
        registry: The registry; knows churn/1..3 and forest/1.
        runs: What else runs hold.
        warnings: Warnings that were said.
        ids: Makes ids: id1, id2, ...
    """

    cluster: InMemoryCluster = field(default_factory=InMemoryCluster)
    registry: InMemoryRegistry = field(default_factory=lambda: InMemoryRegistry({"churn": [1, 2, 3], "forest": [1]}))
    runs: InMemoryRuns = field(default_factory=InMemoryRuns)
    warnings: list[str] = field(default_factory=list)
    ids: Any = field(default_factory=Numbers)
    keys: Any = field(default_factory=Numbers)

    @property
    def context(self) -> Context:
        """A context on the world's own ports."""
        return Context(
            cluster=self.cluster,
            registry=self.registry,
            runs=self.runs,
            clock=StillClock(),
            who="me",
            new_id=lambda: f"id{next(self.ids)}",
            new_key=lambda: f"mik_{next(self.keys):032x}",
            templates=TEMPLATES,
            scope="prod",
            warn=self.warnings.append,
            removal_delay=0.0,
        )

    def endpoint(self, name: str = "churn") -> Endpoint:
        """The endpoint as it is."""
        return endpoint_of(self.cluster, name)

    def deploy(self, name: str, **changes: Any) -> Outcome:
        """Deploy ``churn-v2`` from version 2 of its model, and so on."""
        return deploy(self.context, a_request(name, **changes))

    def history(self, name: str = "churn") -> list[tuple[int, str]]:
        """Sequence and action of every recorded change."""
        return [(change.sequence, change.action) for change in self.registry.history("prod", name)]

    def objects(self) -> list[Object]:
        """All objects, by kind and name."""
        return [obj for kind in KINDS for obj in self.cluster.list(kind, {})]

    def text(self) -> str:
        """Everything that is left in cluster and registry, with ids named by the order in which they appear.

        Versions of objects, and runs that no change is in, are left out: a command that died may have left such ones.
        """
        history = [to_json(change) for change in self.registry.history("prod", "churn")]
        runs = list(dict.fromkeys(change["run"] for change in history))
        state = {
            "history": [{**change, "resourceVersion": ""} for change in history],
            "objects": [_without_version(obj) for obj in self.objects()],
            "runs": [(run, self.registry.runs[run]) for run in runs],
            "tags": self.registry.tags,
            "aliases": sorted((str(key), version) for key, version in self.registry.aliases.items()),
            "owners": sorted((str(key), owner) for key, owner in self.registry.owners.items()),
        }
        names: dict[str, str] = {}
        text = json.dumps(state, indent=1, sort_keys=True)
        return re.sub(r"\bid\d+\b", lambda found: names.setdefault(found.group(), f"ID-{len(names) + 1}"), text)


def _without_version(obj: Object) -> Object:
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}}


def a_request(name: str, **changes: Any) -> DeployRequest:
    """A request to deploy ``churn-v2`` from version 2 of its model behind the endpoint of its model, and so on."""
    model, _, version = name.rpartition("-v")
    values: dict[str, Any] = {
        "name": name,
        "model_uri": f"models:/{model}/{version}",
        "image": "image",
        "endpoint": model,
    }
    return DeployRequest(**{**values, **changes})


def a_world(*deployments: str, **opened: Any) -> World:
    """A world in which these are deployed, the first of them stable.

    Args:
        deployments: Names, such as ``churn-v1``.
        opened: ``strategy`` and ``traffic_request`` of a release of the last one, if one is to be open.
    """
    world = World()
    for name in deployments:
        world.deploy(name, **(opened if name == deployments[-1] else {}))
    return world


def with_canary(weight: int = 10) -> World:
    """churn-v1 is stable, churn-v2 gets 10% as a canary, churn-v3 waits."""
    world = a_world(
        "churn-v1", "churn-v3", "churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=weight)
    )
    world.warnings.clear()
    return world


def a_shop(name: str = "shop") -> Object:
    """A user's VirtualService, whose route ``main`` sends everything below ``/api`` to the service ``web``."""
    main: Object = {
        "name": "main",
        "match": [{"uri": {"prefix": "/api"}}],
        "rewrite": {"uri": "/invocations"},
        "route": [{"destination": {"host": "web"}}],
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {
            "hosts": ["shop.example"],
            "http": [main, {"name": "rest", "route": [{"destination": {"host": "rest"}}]}],
        },
    }


def with_shop(obj: Object | None = None, *, deployed: tuple[str, ...] | None = None) -> World:
    """A world with such a VirtualService.

    Args:
        obj: Another one.
        deployed: Deployments behind endpoint ``churn``, which has adopted the route then; None: nothing is adopted.
    """
    world = World()
    world.cluster.apply(obj or a_shop())
    if deployed is not None:
        adopt(world.context, "churn", virtual_service="shop", route="main")
        for name in deployed:
            world.deploy(name)
    world.cluster.writes.clear()
    return world


class Killed(BaseException):
    """The process was killed: no handler of the code under test may stop it."""


class Mortal:
    """Stands before a port and kills at the n-th call over all ports that share its count.

    Args:
        port: The port.
        fate: Decides at each call whether to die, and whether before or after the call took effect.
    """

    def __init__(self, port: Any, fate: Fate) -> None:
        self._port = port
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not callable(found) or name.startswith("_"):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._fate.around(lambda: found(*args, **kwargs))

        return call


@dataclass(kw_only=True)
class Fate:
    """When to die.

    Attributes:
        call: Which call, counted from 1.
        replied: Whether the call took effect, so that only its reply is lost.
        calls: How many there were.
    """

    call: int
    replied: bool
    calls: int = 0

    def around(self, work: Callable[[], Any]) -> Any:
        """Do the work, unless it is time to die."""
        self.calls += 1
        mine = self.calls  # an edit makes calls of its own while it works
        if mine == self.call and not self.replied:
            raise Killed
        try:
            return work()
        finally:
            if mine == self.call:
                raise Killed


def mortal(context: Context, fate: Fate) -> Context:
    """The context with ports that die by that fate."""
    cluster: Any = Mortal(context.cluster, fate)
    registry: Any = Mortal(context.registry, fate)
    return replace(context, cluster=cluster, registry=registry)
