"""What all verbs share: the target, its adapters, dry runs, and the shape of a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.basics.target import parse_target
from mlflow_istio.options.base import ReadOptions, parse_options
from mlflow_istio.releases.context import Desk, Outcome
from mlflow_istio.releases.dry_run import DryCluster, DryRegistry, DryRuns
from mlflow_istio.releases.reading import views
from mlflow_istio.wiring.connection import Workplace, workplace

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
        self._places: dict[tuple[str | None, ...], Workplace] = {}

    def _read(self) -> Workplace:
        return self._place(parse_options(ReadOptions, {}, cluster=self.target.kind))

    def _place(self, options: Any) -> Workplace:
        named = ("tracking_uri", "registry_uri", "scope", "gateway", "gateway_url")
        given = {key: getattr(options, key) for key in named}
        key = tuple(given.values())
        if key not in self._places:
            self._places[key] = workplace(self.target_uri, **given)
        return self._places[key]

    def _at(self, desk: Desk, *, dry: bool) -> Real | Dry:
        """The desk that a verb works at."""
        return Dry(desk) if dry else Real(desk)


class Real:
    """A desk whose writes count."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def result(self, outcome: Outcome, view: views.View) -> Result:
        """What was done."""
        return Result(
            view=view,
            changed=outcome.changed,
            proxies=outcome.proxies,
            warnings=outcome.warnings,
            pending=outcome.pending,
        )


class Dry:
    """A desk whose writes are only remembered."""

    def __init__(self, desk: Desk) -> None:
        self._cluster = DryCluster(desk.cluster)
        self.desk = replace(
            desk,
            cluster=self._cluster,
            registry=DryRegistry(desk.registry),
            runs=DryRuns(desk.runs),
            removal_delay=0.0,
        )

    def result(self, outcome: Outcome, view: views.View) -> Result:
        """What would have been done."""
        del outcome
        return Result(view=view, changed=False, difference=self._cluster.difference())
