"""The verbs that set what routes do besides splitting: policy, route, fault, and sweep, which ends what is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mlflow_istio.core.policy.settings import NO_POLICY, PolicyWish, Rule, notes, with_wish
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import ChangeOptions, CreateOptions, UpdateEndpointOptions, parse_options
from mlflow_istio.options.routes import FaultOptions, PolicyOptions, RouteOptions, SweepOptions
from mlflow_istio.options.shared import SETTINGS
from mlflow_istio.options.values import NONE
from mlflow_istio.releases.context import Desk, Outcome, existing_endpoint
from mlflow_istio.releases.deploying import deployments
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.moving import policy
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.adoption import brought_up
from mlflow_istio.verbs.base import Base, Config, Result

_TRAFFIC = (
    "action",
    "strategy",
    "candidate",
    "weight",
    "weights",
    "mirror",
    "header",
    "cookie",
    "values",
    "match",
    "arms",
)
_SHARED = ("dry_run", "scope", "tracking_uri", "registry_uri", "gateway", "gateway_url", "reason", "confirm_timeout")


class PolicyVerbs(Base):
    """Settings, routes of their own, faults."""

    def policy(self, name: str, config: Config | None) -> Result:
        """Make, change or take away settings; see ``releases.policy.set_policy``."""
        options = parse_options(PolicyOptions, config, cluster=self.target.kind)
        wish = options.settings(set(config or {}), options.route)
        if wish is None:
            raise InvalidInput(f"nothing to set: give one of {', '.join(SETTINGS)}")
        return self._with(
            options,
            name,
            lambda desk: policy.set_policy(desk, name, wish, reason=options.reason, timeout=options.confirm_timeout),
        )

    def route(self, name: str, config: Config | None) -> Result:
        """Make or take away a route of its own; see ``releases.policy.set_rule``."""
        options = parse_options(RouteOptions, config, cluster=self.target.kind)
        reason, timeout = options.reason, options.confirm_timeout
        if options.remove is not None:
            extra = [option for option in ("to", "match", "name") if getattr(options, option) is not None]
            if extra:
                raise InvalidInput(f"option '{extra[0]}' has no effect with 'remove': leave it out")
            gone = options.remove
            return self._with(
                options, name, lambda desk: policy.remove_rule(desk, name, gone, reason=reason, timeout=timeout)
            )
        if options.to is None or not options.match:
            missing = "to" if options.to is None else "match"
            raise InvalidInput(f"a route of its own needs 'to' (a deployment) and 'match': '{missing}' is missing")
        rule = Rule(name=options.name or options.to, deployment=options.to, match=options.match)
        return self._with(options, name, lambda desk: policy.set_rule(desk, name, rule, reason=reason, timeout=timeout))

    def fault(self, name: str, config: Config | None) -> Result:
        """Put a fault into live traffic for a time, or end it; see ``releases.policy.start_fault``."""
        options = parse_options(FaultOptions, config, cluster=self.target.kind)
        reason, timeout = options.reason, options.confirm_timeout
        if options.end:
            extra = [option for option in ("delay", "abort", "match") if getattr(options, option) is not None]
            if extra:
                raise InvalidInput(f"option '{extra[0]}' has no effect with 'end': leave it out")
            return self._with(options, name, lambda desk: policy.end_fault(desk, name, reason=reason, timeout=timeout))
        return self._with(
            options,
            name,
            lambda desk: policy.start_fault(
                desk,
                name,
                options.fault(desk.clock.now()),
                replace_own=options.replace,
                reason=reason,
                timeout=timeout,
            ),
        )

    def sweep(self, config: Config | None = None) -> list[dict[str, str]]:
        """Carry out every deadline that has passed; one entry for each, with its problem if it could not be done."""
        options = parse_options(SweepOptions, config, cluster=self.target.kind)
        desk = self._session(options, recorded=options.record).desk
        return [{"endpoint": one.endpoint, "what": one.what, "problem": one.problem} for one in sweep(desk)]

    def _settings_of(self, name: str, options: UpdateEndpointOptions, config: Mapping[str, Any]) -> Result | None:
        """The part of ``update-endpoint`` that sets no traffic; None where none of it is said.

        Raises:
            InvalidInput: It is said together with something of another kind.
        """
        kinds = {
            "policy": [key for key in (*SETTINGS, "subset", "route", "replace") if key in config],
            "route": [key for key in ("add_route", "remove_route") if key in config],
            "fault": [key for key in ("fault",) if key in config],
        }
        said = {kind: keys for kind, keys in kinds.items() if keys}
        if "policy" in said and set(said["policy"]) <= {"replace"} and "fault" in said:
            del said["policy"]
        if not said:
            return None
        traffic = [key for key in (*_TRAFFIC, "supersede", "force", "release_id", "keep_old") if key in config]
        first = next(iter(said.values()))[0]
        if traffic or len(said) > 1:
            other = traffic[0] if traffic else list(said.values())[1][0]
            raise InvalidInput(f"'{first}' and '{other}' are changes of two kinds: give each a call of its own")
        shared = {key: config[key] for key in _SHARED if key in config}
        if "policy" in said:
            return self.policy(name, {**shared, **{key: config[key] for key in said["policy"]}})
        if "route" in said:
            if options.remove_route is not None and options.add_route is not None:
                raise InvalidInput("give either 'add_route' or 'remove_route', not both")
            given = {"remove": options.remove_route} if options.remove_route else dict(options.add_route or {})
            return self.route(name, {**shared, **given})
        own = {"replace": config["replace"]} if "replace" in config else {}
        if options.fault == NONE:
            return self.fault(name, {**shared, "end": True})
        if not isinstance(options.fault, Mapping):
            raise InvalidInput(f'\'fault\' must be JSON such as {{"abort": 503, "ttl": "5m"}}, not {options.fault!r}')
        return self.fault(name, {**shared, **own, **options.fault})

    def _with(self, options: ChangeOptions, name: str, work: Callable[[Desk], Outcome]) -> Result:
        session = self._session(options)
        outcome = work(session.desk)
        for note in _notes(outcome):
            self._tell(f"note: {note}")
        return session.result(outcome, views.endpoint_view(session.desk.cluster, name))


def with_settings(desk: Desk, request: deployments.DeployRequest, options: CreateOptions, wish: PolicyWish) -> Outcome:
    """Deploy a version and make settings; what of them can't be is refused before anything is deployed.

    Raises:
        MlflowIstioError: As for ``brought_up`` and ``set_policy``.
    """
    found = existing_endpoint(desk.cluster, request.endpoint) if request.endpoint else None
    with_wish(found.traffic.policy if found else NO_POLICY, wish)
    if wish.subset not in (None, request.name) and (found is None or wish.subset not in found.traffic.pins):
        raise InvalidInput(f"'subset' names '{wish.subset}', which is no deployment of the endpoint")
    deployed = brought_up(desk, request, options)
    name = request.endpoint or (deployed.endpoint.name if deployed.endpoint else "")
    if not name or (not request.wait and deployed.endpoint is None):
        raise InvalidInput("settings can't be made before the model servers are ready: leave wait=false out")
    outcome = policy.set_policy(desk, name, wish, reason=request.reason, timeout=request.timeout)
    return replace(
        outcome, changed=deployed.changed or outcome.changed, warnings=(*deployed.warnings, *outcome.warnings)
    )


def _notes(outcome: Outcome) -> tuple[str, ...]:
    endpoint = outcome.endpoint
    return notes(endpoint.traffic.policy, mirrors=bool(endpoint.traffic.mirrors)) if endpoint else ()
