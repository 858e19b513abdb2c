"""What all verbs share: the target, the one way from options to ports, and the shape of a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.basics.target import parse_target
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import ConnectionOptions, DryRunOptions, Parsed, ReadOptions, parse_options
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.releases.context import Context, Outcome
from mlflow_istio.releases.dry_run import DryCluster, DryRegistry, DryRuns
from mlflow_istio.releases.reading import views
from mlflow_istio.wiring.connection import NO_ADDRESS, Connection, connection_to

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a verb did.

    Attributes:
        view: The deployment or endpoint as it is now (as it would be, after a dry run); empty when it is gone.
        changed: Whether traffic or release changed.
        proxies: The proxies that confirmed it.
        warnings: What did not go as hoped, one line each.
        difference: After a dry run: what would have been written; None otherwise.
        pending: What is still going on and which command finishes it; empty when all is done.
    """

    view: views.View
    changed: bool = True
    proxies: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    difference: str | None = None
    pending: str = ""


class Base:
    """A target and the adapters for it; each family of verbs builds on it.

    Args:
        target_uri: Such as ``istio-local`` or ``istio:/models``.
        tell: Called with one line of progress.
        warn: Called with one line of warning.

    Raises:
        InvalidInput: The target can't be read.
    """

    def __init__(
        self,
        target_uri: str,
        *,
        tell: Callable[[str], None] = lambda _line: None,
        warn: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.target = parse_target(target_uri)
        self.target_uri = target_uri
        self._tell = tell
        self._warn = warn
        self._places: dict[tuple[str | None, ...], Connection] = {}

    def _options(self, model: type[Parsed], config: Config | None) -> Parsed:
        """The options of a verb that can be planned: what applies a plan reads them without the environment."""
        return parse_options(model, config, cluster=self.target.kind)

    def _read(self) -> Connection:
        return self._place(parse_options(ReadOptions, {}, cluster=self.target.kind))

    def _place(self, options: ConnectionOptions) -> Connection:
        named = ("tracking_uri", "registry_uri", "scope", "gateway", "gateway_url")
        given = {key: getattr(options, key) for key in named}
        key = tuple(given.values())
        if key not in self._places:
            self._places[key] = connection_to(self.target_uri, **given)
        return self._places[key]

    def _session(self, options: ConnectionOptions, *, templates: str | None = None, unrecorded: str = "") -> Session:
        """What a verb works with: the only way from options to ports, which planning and applying wrap.

        Args:
            options: The verb's options; with ``dry_run`` its writes are only remembered.
            templates: Folder with templates that override ours.
            unrecorded: Why the ledger is left to the next command; empty: it is written.
        """
        place = self._place(options)
        voice = (self._tell, self._warn)
        context = place.context(*voice, templates) if not unrecorded else place.unrecorded_context(*voice, unrecorded)
        session = Session(place=place, context=context)
        return session.dry_run() if isinstance(options, DryRunOptions) and options.dry_run else session

    def _urgent_session(self, options: ConnectionOptions) -> Session:
        """The same for what must not wait for the ledger's address: where nobody names it, the change stays on the object."""
        return self._session(options, unrecorded="" if self._place(options).names_ledger() else NO_ADDRESS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What one verb works with, from its options to its result.

    Attributes:
        place: The target with its adapters.
        context: The ports: real, ones that only remember writes, or ones that write on nothing but what was planned on.
        remembered: What a dry run would have written; None where writes count.
    """

    place: Connection
    context: Context
    remembered: DryCluster | None = None

    def dry_run(self) -> Session:
        """The same with ports that only remember writes."""
        remembered = DryCluster(self.context.cluster)
        context = replace(
            self.context,
            cluster=remembered,
            registry=DryRegistry(self.context.registry),
            runs=DryRuns(self.context.runs),
            removal_delay=0.0,
        )
        return replace(self, context=context, remembered=remembered)

    def with_cluster(self, cluster: Cluster) -> Session:
        """The same on another cluster, such as one that guards a plan."""
        return replace(self, context=replace(self.context, cluster=cluster))

    def result(self, outcome: Outcome, view: views.View) -> Result:
        """What was done, or would have been."""
        if self.remembered is not None:
            return Result(view=view, changed=False, difference=self.remembered.difference())
        return Result(
            view=view,
            changed=outcome.changed,
            proxies=outcome.proxies,
            warnings=outcome.warnings,
            pending=outcome.pending,
        )


def refuse_dry_run(options: DryRunOptions, verb: str, why: str) -> None:
    """Refuse to try what can only be done; a verb that let ``dry_run`` pass would change something.

    Raises:
        InvalidInput: The option is given, in the call or in the environment.
    """
    if options.dry_run:
        raise InvalidInput(f"option 'dry_run' has no effect with {verb}, {why}")
