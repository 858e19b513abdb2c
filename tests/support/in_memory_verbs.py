"""All verbs on in-memory ports: the same way from options to ports as on a real target, with other ports at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_istio.core.basics.model_card import ModelCard
from mlflow_istio.options.base import ConnectionOptions
from mlflow_istio.ports.records import Recorded
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying.sweeping import enforce
from mlflow_istio.testing import InMemoryMetrics
from mlflow_istio.verbs import Verbs
from mlflow_istio.wiring.connection import LEFT_FOR_LATER, Connection, load_templates, without_passwords
from tests.support.in_memory import World

LOCAL, CLUSTER = "istio-local:/never-made", "istio:/models"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What is outside a world's cluster and registry.

    Attributes:
        world: The world.
        metrics: Where counts come from.
        recorded: Deployment to what its servers recorded.
        cards: ``MODEL/VERSION`` to what it says of itself; nothing unless given.
        ledger_named: Whether somebody said where the ledger is.
        later: Seconds that have passed since the world was made.
        asked: Everything a verb asked its surroundings for, in order.
    """

    world: World
    metrics: InMemoryMetrics = field(default_factory=InMemoryMetrics)
    recorded: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    cards: Mapping[str, ModelCard] = field(default_factory=dict)
    ledger_named: bool = True
    later: float = 0.0
    asked: list[Any] = field(default_factory=list)

    def card(self, label: str) -> ModelCard:
        """See ``ports.Models``."""
        return self.cards.get(label, ModelCard())

    def read(self, endpoint: str, deployment: str, replicas: int) -> Recorded:
        """See ``ports.Records``."""
        return Recorded(records=self.recorded.get(deployment, ()))


@dataclass(frozen=True, kw_only=True)
class InMemoryPlace(Connection):
    """A target whose adapters are a world's ports; it notes with what it was asked for each."""

    around: Surroundings

    @property
    def cluster(self) -> Any:
        return self.around.world.cluster

    @property
    def registry(self) -> Any:
        return self.around.world.registry

    @property
    def runs(self) -> Any:
        return self.around.world.runs

    @property
    def models(self) -> Any:
        return self.around

    def names_ledger(self) -> bool:
        return self.around.ledger_named

    def context(
        self, tell: Callable[[str], None], warn: Callable[[str], None], templates: str | None = None
    ) -> Context:
        if not self.around.ledger_named:
            self.check_ledger()
        return self._context(tell, warn, templates)

    def _context(
        self, tell: Callable[[str], None], warn: Callable[[str], None], templates: str | None = None
    ) -> Context:
        self.around.asked.append(
            ["desk", self.tracking_uri, self.registry_uri, self.scope, self.gateway, self.gateway_url]
        )
        context = self.around.world.context
        context.clock.sleep(self.around.later)
        return replace(
            context,
            tell=tell,
            warn=warn,
            templates=load_templates(templates) if templates else context.templates,
            scope=self.scope or "prod",
            enforce=enforce,
        )

    def unrecorded_context(
        self, tell: Callable[[str], None], warn: Callable[[str], None], why: str = LEFT_FOR_LATER
    ) -> Context:
        later = super().unrecorded_context(tell, warn, why)
        return replace(self._context(tell, warn), registry=later.registry, runs=later.runs)

    def metrics(self, source: str = "auto", **how: Any) -> Any:
        self.around.asked.append(["metrics", source, {key: str(value) for key, value in how.items()}])
        # As in ``wiring.sources``: no source on a cluster tells by which route a request came.
        self.around.metrics.counts_chosen = self.target.kind == "istio"
        return None if source == "none" else self.around.metrics

    def records(self) -> Any:
        return self.around

    def callers(self) -> None:
        return None

    def gateways(self) -> tuple[str, ...]:
        return (self.gateway, "mesh") if self.gateway else ()

    def server_environment(self, secret: Collection[str] = ()) -> dict[str, str]:
        del secret
        return dict(without_passwords({"MLFLOW_TRACKING_URI": self.tracking_uri or "http://mlflow"}))


class InMemoryVerbs(Verbs):
    """All verbs on a world.

    Attributes:
        around: The world and what is outside of it.
        told: Lines of progress.
        warned: Lines of warning.
    """

    def __init__(self, around: World | Surroundings, target: str = LOCAL, warned: list[str] | None = None) -> None:
        self.told: list[str] = []
        self.warned: list[str] = warned if warned is not None else []
        super().__init__(target, tell=self.told.append, warn=self.warned.append)
        self.around = Surroundings(world=around) if isinstance(around, World) else around

    def _place(self, options: ConnectionOptions) -> InMemoryPlace:
        named = ("tracking_uri", "registry_uri", "scope", "gateway", "gateway_url")
        given = {name: getattr(options, name) for name in named}
        return InMemoryPlace(target=self.target, around=self.around, **given)


def everything(world: World) -> str:
    """All that stands in a world's cluster, registry and runs, as one comparable text."""
    outside = {"registry": vars(world.registry), "runs": vars(world.runs)}
    return json.dumps(world.objects(), sort_keys=True) + repr(outside)
