"""The verbs that set what routes do besides splitting: policy, route, fault, chaos, pins, and sweep, which ends what is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from mlflow_istio.core.basics.durations import seconds_of
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.policy.settings import CustomRoute, Fault, notes
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import ChangeOptions, UpdateEndpointOptions, parse_options
from mlflow_istio.options.combinations import check_fault, check_route, kind_of_update, options_of_kind
from mlflow_istio.options.routes import (
    MAX_TTL,
    ChaosOptions,
    FaultOptions,
    PinsOptions,
    PolicyOptions,
    RouteOptions,
    SweepOptions,
)
from mlflow_istio.options.shared import SETTINGS
from mlflow_istio.options.values import NONE
from mlflow_istio.releases.context import Context, Outcome, pin_headers
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.moving import policy
from mlflow_istio.releases.moving.chaos import chaos
from mlflow_istio.releases.moving.pins import set_pins
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.base import Base, Config, Result, Session, refuse_dry_run
from mlflow_istio.verbs.vouching import refuse_way_in
from mlflow_istio.wiring.connection import LEFT_FOR_LATER

_SHARED = (*ChangeOptions.model_fields, "confirm_timeout")


class PolicyVerbs(Base):
    """Settings, routes of their own, faults."""

    def policy(self, name: str, config: Config | None) -> Result:
        """Make, change or take away settings; see ``releases.policy.set_policy``."""
        options = self._options(PolicyOptions, config)
        traffic_request = options.settings(set(config or {}), options.route)
        if traffic_request is None:
            raise InvalidInput(f"nothing to set: give one of {', '.join(SETTINGS)}")
        return self._with(
            options,
            name,
            lambda context: policy.set_policy(
                context, name, traffic_request, reason=options.reason, timeout=options.confirm_timeout
            ),
        )

    def route(self, name: str, config: Config | None) -> Result:
        """Make or take away a route of its own; see ``releases.policy.set_rule``."""
        options = self._options(RouteOptions, config)
        options = check_route(options, config or {})
        reason, timeout = options.reason, options.confirm_timeout
        if options.remove is not None:
            gone = options.remove
            return self._with(
                options, name, lambda context: policy.remove_rule(context, name, gone, reason=reason, timeout=timeout)
            )
        assert options.to is not None
        assert options.match is not None
        rule = CustomRoute(name=options.name or options.to, deployment=options.to, match=options.match)
        session = self._session(options)

        def allowed(now: Endpoint) -> None:
            refuse_way_in(session, self.target.kind, now, rule)

        return self._told(
            session,
            name,
            policy.set_rule(session.context, name, rule, allowed=allowed, reason=reason, timeout=timeout),
        )

    def fault(self, name: str, config: Config | None) -> Result:
        """Put a fault into live traffic for a time, or end it; see ``releases.policy.start_fault``."""
        options = self._options(FaultOptions, config)
        options = check_fault(options, config or {})
        reason, timeout = options.reason, options.confirm_timeout
        if options.end:
            return self._with(
                options, name, lambda context: policy.end_fault(context, name, reason=reason, timeout=timeout)
            )
        return self._with(
            options,
            name,
            lambda context: policy.start_fault(
                context,
                name,
                options.fault(context.clock.now()),
                replace_own=options.replace,
                reason=reason,
                timeout=timeout,
            ),
        )

    def pins(self, name: str, config: Config | None = None) -> Result:
        """Say, or change, who reaches one version of an endpoint by its header; see ``releases.moving.pins``."""
        options = self._options(PinsOptions, config)
        session = self._session(options)
        cluster = session.context.cluster
        outcome = Outcome(endpoint=None, changed=False)
        if options.pins is not None:
            outcome = set_pins(
                session.context, name, options.pins, reason=options.reason, timeout=options.confirm_timeout
            )
        view = views.endpoint_view(cluster, name)
        if options.show:
            deployments = [deployment["name"] for deployment in view["deployments"]]
            view["pin_headers"] = {deployment: pin_headers(cluster, name, deployment) for deployment in deployments}
        return session.result(outcome, view)

    def sweep(self, config: Config | None = None) -> list[dict[str, str]]:
        """Carry out every deadline that has passed; one entry for each, with its problem if it could not be done."""
        options = parse_options(SweepOptions, config, cluster=self.target.kind)
        context = self._session(options, unrecorded="" if options.record else LEFT_FOR_LATER).context
        return [{"endpoint": swept.endpoint, "what": swept.what, "problem": swept.problem} for swept in sweep(context)]

    def _settings_of(self, name: str, options: UpdateEndpointOptions, config: Mapping[str, Any]) -> Result | None:
        """The part of ``update-endpoint`` that sets no traffic; None where none of it is said.

        Raises:
            InvalidInput: It is said together with something of another kind.
        """
        kind, given = change_of(options, config)
        if kind == "traffic":
            return None
        verb: Callable[[str, Config | None], Result] = getattr(self, kind)
        return verb(name, given)

    def _with(self, options: ChangeOptions, name: str, work: Callable[[Context], Outcome]) -> Result:
        session = self._session(options)
        return self._told(session, name, work(session.context))

    def _told(self, session: Session, name: str, outcome: Outcome) -> Result:
        for note in _notes(outcome):
            self._tell(f"note: {note}")
        return session.result(outcome, views.endpoint_view(session.context.cluster, name))

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
        place, context = session.place, session.context
        fault = Fault(
            delay=options.delay,
            abort=options.abort if isinstance(options.abort, int) else None,
            grpc_status=options.abort if isinstance(options.abort, str) else None,
            percentage=options.percentage,
            match=options.match or (),
            until=context.clock.now(),
        )
        local = self.target.kind == "istio-local"
        source = options.metrics if options.metrics != "auto" or local or options.prometheus_url else "none"
        _, report = chaos(
            context,
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


def change_of(
    options: UpdateEndpointOptions, config: Config
) -> tuple[Literal["traffic", "policy", "route", "fault"], Config]:
    """The change that ``update-endpoint`` is asked for, and the options of the verb that makes it.

    Raises:
        InvalidInput: It is asked for two of them.
    """
    kind = kind_of_update(config)
    shared = {key: config[key] for key in _SHARED if key in config}
    if kind == "policy":
        return "policy", {**shared, **{key: config[key] for key in options_of_kind(kind) if key in config}}
    if kind == "route":
        return "route", {**shared, **_given_route(options)}
    if kind == "fault":
        return "fault", {**shared, **_given_fault(options, config)}
    return "traffic", config


def _given_route(options: UpdateEndpointOptions) -> Mapping[str, Any]:
    """Options of ``route`` that ``add_route`` or ``remove_route`` stands for."""
    if options.remove_route is not None and options.add_route is not None:
        raise InvalidInput("give either 'add_route' or 'remove_route', not both")
    return {"remove": options.remove_route} if options.remove_route else dict(options.add_route or {})


def _given_fault(options: UpdateEndpointOptions, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of ``fault`` that the option of this name stands for."""
    if options.fault == NONE:
        return {"end": True}
    if not isinstance(options.fault, Mapping):
        raise InvalidInput(f'\'fault\' must be JSON such as {{"abort": 503, "ttl": "5m"}}, not {options.fault!r}')
    replaced = {"replace": config["replace"]} if "replace" in config else {}
    return {**replaced, **options.fault}


def _notes(outcome: Outcome) -> tuple[str, ...]:
    endpoint = outcome.endpoint
    return notes(endpoint.traffic.policy, mirrors=bool(endpoint.traffic.mirrors)) if endpoint else ()
