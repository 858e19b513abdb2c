"""The verb that injects a fault for a time and reports what callers saw."""

from __future__ import annotations

from typing import Any

from mlflow_istio.core.basics.durations import seconds_of
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.policy.settings import Fault
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.routes import MAX_TTL, ChaosOptions
from mlflow_istio.releases.moving.chaos import chaos
from mlflow_istio.verbs.base import Base, Config, refuse_dry_run


class ChaosVerbs(Base):
    """Experiments with faults."""

    def chaos(self, name: str, config: Config | None) -> dict[str, Any]:
        """Inject for a time, restore, and say what was seen; see ``releases.chaos``.

        Returns:
            The report: seconds, callers, aborted, delayed, deployments, problem.
        """
        options = parse_options(ChaosOptions, config, cluster=self.target.kind)
        seconds = seconds_of(options.duration, "duration")
        if not 0 < seconds <= MAX_TTL:
            raise InvalidInput(f"duration {options.duration} is not right: more than 0s and at most 24h")
        refuse_dry_run(options, "chaos", "which measures: see 'fault --dry-run'")
        session = self._session(options)
        place, desk = session.place, session.desk
        fault = Fault(
            delay=options.delay,
            abort=options.abort,
            percentage=options.percentage,
            match=options.match or (),
            until=desk.clock.now(),
        )
        local = self.target.kind == "istio-local"
        source = options.metrics if options.metrics != "auto" or local or options.prometheus_url else "none"
        _, report = chaos(
            desk,
            name,
            fault,
            seconds=seconds,
            metrics=place.metrics(source, prometheus_url=options.prometheus_url),
            callers=place.callers(),
            replace_own=options.replace,
            reason=options.reason,
            timeout=options.confirm_timeout,
        )
        return to_json(report)
