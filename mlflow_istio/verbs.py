"""Every verb on a target, for the CLI, the plugin, notebooks and pipelines alike: options in, use-case, plain values out.

Nothing here imports MLflow; a verb that needs the registry imports it when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.config import (
    CreateOptions,
    DeleteOptions,
    ReadOptions,
    UpdateEndpointOptions,
    UpdateOptions,
    parse_options,
)
from mlflow_istio.core import transitions
from mlflow_istio.core.assignment import assignment_headers
from mlflow_istio.core.endpoint import Endpoint
from mlflow_istio.core.probe import PIN_HEADER
from mlflow_istio.core.strategies import no_release
from mlflow_istio.core.target import parse_target
from mlflow_istio.dry_run import DryCluster, DryRegistry
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.releases import deployments, removal, traffic, views
from mlflow_istio.releases.desk import Desk, Outcome, endpoint_of
from mlflow_istio.releases.ledger import catch_up
from mlflow_istio.wiring import Workplace, only, workplace

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
    """

    view: views.View
    changed: bool = True
    proxies: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    difference: str | None = None


class Verbs:
    """All verbs on one target.

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

    def create(
        self, name: str, model_uri: str, flavor: str | None, endpoint: str | None, config: Config | None
    ) -> Result:
        """Deploy a version; see ``releases.deployments.deploy``."""
        options = parse_options(CreateOptions, config, cluster=self.target.kind)
        place = self._place(options)
        strategy = options.strategy
        if strategy is None and options.wish.said:
            strategy = "canary" if set(options.wish.said) <= {"weight", "weights"} else None
        request = deployments.DeployRequest(
            name=name,
            endpoint=endpoint,
            model_uri=model_uri,
            flavor=flavor,
            strategy=strategy,
            wish=options.wish,
            release_id=options.release_id,
            supersede=options.supersede,
            reason=options.reason,
            image=options.image,
            replicas=options.replicas,
            env={**place.server_environment(), **only(options.env)},
            env_manager=options.env_manager,
            from_folder=self.target.kind == "istio-local",
            pod=options.pod() if self.target.kind == "istio" else None,
            settings={
                role: alias
                for role, alias, usual in (
                    ("stable_alias", options.champion_alias, "champion"),
                    ("candidate_alias", options.challenger_alias, "challenger"),
                )
                if alias != usual
            },
            hosts=options.host if self.target.kind == "istio" else (),
            gateways=place.gateways(),
            ready_timeout=options.ready_timeout,
            timeout=options.timeout,
            wait=options.wait,
        )
        desk = place.desk(self._tell, self._warn, options.templates)
        with_desk = _Dry(desk) if options.dry_run else _Real(desk)
        outcome = deployments.deploy(with_desk.desk, request)
        return with_desk.result(outcome, views.deployment_view(with_desk.desk.cluster, name))

    def update(self, name: str, model_uri: str | None, flavor: str | None, config: Config | None) -> Result:
        """Change a deployment's pods; see ``releases.deployments.update``."""
        options = parse_options(UpdateOptions, config, cluster=self.target.kind)
        desk = self._place(options).desk(self._tell, self._warn)
        with_desk = _Dry(desk) if options.dry_run else _Real(desk)
        if flavor is not None:
            has = views.deployment_view(desk.cluster, name)["flavor"]
            if flavor != has:
                raise InvalidInput(f"deployment '{name}' has flavor '{has}': create another one with flavor '{flavor}'")
        deployments.update(
            with_desk.desk,
            name,
            model_uri=model_uri,
            replicas=options.replicas,
            env=only(options.env) if options.env is not None else None,
            image=options.image,
            ready_timeout=options.ready_timeout,
            wait=options.wait,
        )
        view = views.deployment_view(with_desk.desk.cluster, name)
        return with_desk.result(Outcome(endpoint=None, changed=True), view)

    def delete(self, name: str, endpoint: str | None, config: Config | None) -> Result:
        """Take a deployment away; see ``releases.removal.delete``."""
        options = parse_options(DeleteOptions, config, cluster=self.target.kind)
        desk = self._place(options).desk(self._tell, self._warn)
        with_desk = _Dry(desk) if options.dry_run else _Real(desk)
        if endpoint is not None and desk.cluster.get("Deployment", name) is not None:
            views.deployment_view(desk.cluster, name, endpoint)
        outcome = removal.delete(with_desk.desk, name, reason=options.reason, timeout=options.timeout)
        return with_desk.result(outcome or Outcome(endpoint=None, changed=False), {})

    def update_endpoint(self, name: str, config: Config | None) -> Result:
        """Move traffic or a release; see ``releases.traffic``."""
        options = parse_options(UpdateEndpointOptions, config, cluster=self.target.kind)
        desk = self._place(options).desk(self._tell, self._warn)
        with_desk = _Dry(desk) if options.dry_run else _Real(desk)
        outcome = _move(with_desk.desk, name, options)
        return with_desk.result(outcome, views.endpoint_view(with_desk.desk.cluster, name))

    def delete_endpoint(self, name: str, config: Config | None = None) -> Result:
        """Take an endpoint away; see ``releases.removal.delete_endpoint``."""
        options = parse_options(DeleteOptions, config, cluster=self.target.kind)
        desk = self._place(options).desk(self._tell, self._warn)
        with_desk = _Dry(desk) if options.dry_run else _Real(desk)
        gone = removal.delete_endpoint(
            with_desk.desk, name, force=options.force, reason=options.reason, timeout=options.timeout
        )
        return with_desk.result(Outcome(endpoint=None, changed=gone), {})

    def endpoint(self, name: str) -> views.View:
        """One endpoint; see ``releases.views``."""
        return views.endpoint_view(self._read().cluster, name)

    def endpoints(self) -> list[views.View]:
        """All endpoints, by name."""
        return views.endpoint_views(self._read().cluster)

    def deployment(self, name: str, endpoint: str | None = None) -> views.View:
        """One deployment."""
        return views.deployment_view(self._read().cluster, name, endpoint)

    def deployments(self, endpoint: str | None = None) -> list[views.View]:
        """All deployments, or an endpoint's."""
        return views.deployment_views(self._read().cluster, endpoint)

    def history(self, name: str, config: Config | None = None) -> list[views.View]:
        """Every routing change of an endpoint that the registry has, after recording what it did not have yet."""
        options = parse_options(ReadOptions, config, cluster=self.target.kind)
        desk = self._place(options).desk(self._tell, self._warn)
        if desk.cluster.get("VirtualService", name) is not None:
            for warning in catch_up(desk, name, publish=False):
                self._warn(warning)
        changes = desk.registry.history(desk.scope, name)
        if not changes:
            endpoint_of(desk.cluster, name)  # says which endpoints there are
        return views.history_views(changes)

    def assign(self, name: str, user_id: str) -> dict[str, str]:
        """The headers that send a user to the arm of the open A/B release.

        Raises:
            StateConflict: No A/B release is open.
        """
        return assignment_headers(endpoint_of(self._read().cluster, name), user_id)

    def predict(
        self,
        payload: Any,
        *,
        name: str | None = None,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> dict[str, Any]:
        """Score through the endpoint's split, or through one deployment's header route.

        Raises:
            InvalidInput: Neither or both of name and endpoint, or an input the model refuses.
            ClusterError: Nothing answered.
        """
        from mlflow_istio.scoring import score

        cluster = self._read().cluster
        if name is not None:
            its = self.deployment(name, endpoint)["endpoint"]
            sent = {**(headers or {}), PIN_HEADER: name}
            return score(cluster.address(its), payload, headers=sent, timeout=timeout)
        if endpoint is None:
            raise InvalidInput("say which: a deployment's name, or an endpoint")
        endpoint_of(cluster, endpoint)
        return score(cluster.address(endpoint), payload, headers=headers or {}, timeout=timeout)

    def _read(self) -> Workplace:
        return self._place(parse_options(ReadOptions, {}, cluster=self.target.kind))

    def _place(self, options: Any) -> Workplace:
        named = ("tracking_uri", "registry_uri", "scope", "gateway", "gateway_url")
        given = {key: getattr(options, key) for key in named}
        key = tuple(given.values())
        if key not in self._places:
            self._places[key] = workplace(self.target_uri, **given)
        return self._places[key]


def _move(desk: Desk, name: str, options: UpdateEndpointOptions) -> Outcome:
    action, candidates = options.action, options.candidate or ()
    wish, said = options.wish, options.wish.said
    if action is not None:
        if said or options.strategy:
            other = said[0] if said else "strategy"
            raise InvalidInput(f"option '{other}' has no effect with action={action}: give one or the other")
        if candidates and action != "promote":
            raise InvalidInput(f"option 'candidate' has no effect with action={action}: leave it out")
        if len(candidates) > 1:
            raise InvalidInput(f"only one candidate can be promoted, not {len(candidates)}")
        reason, force, timeout = options.reason, options.force, options.timeout
        if action == "promote":
            chosen = candidates[0] if candidates else None
            return traffic.promote(desk, name, candidate=chosen, reason=reason, force=force, timeout=timeout)
        if action == "rollback":
            return traffic.rollback(desk, name, reason=reason, force=force, timeout=timeout)
        if action == "abort":
            return traffic.abort(desk, name, reason=reason, force=force, timeout=timeout)
        return traffic.pause(desk, name) if action == "pause" else traffic.resume(desk, name)
    endpoint = endpoint_of(desk.cluster, name)
    release = endpoint.release
    if release is not None:
        same = options.strategy in (None, release.strategy) and candidates in ((), release.candidates)
        if same and options.release_id in (None, release.id):
            if said or options.strategy is None:
                return traffic.shift(desk, name, wish, reason=options.reason, timeout=options.timeout)
            candidates = release.candidates
        elif options.supersede:
            endpoint = transitions.abort(endpoint, "superseded")
        else:
            raise StateConflict(transitions.open_release(endpoint))
    elif options.strategy is None and not candidates:
        if not said:
            raise InvalidInput("nothing to change: give 'weight', 'mirror', 'strategy' or 'action'")
        # A late 'weight=50' after somebody's promotion must not release the version that was replaced.
        raise StateConflict(no_release(endpoint))
    if not candidates:
        candidates = _only_candidate(endpoint)
    return traffic.start(
        desk,
        name,
        strategy=options.strategy or ("ab" if len(candidates) > 1 else "canary"),
        candidates=candidates,
        wish=wish,
        release_id=options.release_id,
        supersede=options.supersede,
        reason=options.reason,
        timeout=options.timeout,
    )


def _only_candidate(endpoint: Endpoint) -> tuple[str, ...]:
    """The one deployment that waits; never the version that the last promotion replaced."""
    replaced = endpoint.last.previous if endpoint.last else None
    waiting = [pin for pin in endpoint.traffic.pins if endpoint.role_of(pin) == "idle"]
    waiting = [pin for pin in waiting if endpoint.destination(pin) != replaced]
    if len(waiting) == 1:
        return (waiting[0],)
    if not waiting:
        raise StateConflict(
            f"endpoint '{endpoint.name}' has no open release and no new deployment to start one with: deploy one first, or name "
            "the one to release with 'candidate'"
        )
    raise InvalidInput(
        f"endpoint '{endpoint.name}' has {len(waiting)} deployments that could be the candidate: name one with "
        f"'candidate' ({', '.join(waiting)})"
    )


class _Real:
    """A desk whose writes count."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def result(self, outcome: Outcome, view: views.View) -> Result:
        return Result(view=view, changed=outcome.changed, proxies=outcome.proxies, warnings=outcome.warnings)


class _Dry:
    """A desk whose writes are only remembered."""

    def __init__(self, desk: Desk) -> None:
        self._cluster = DryCluster(desk.cluster)
        self.desk = replace(desk, cluster=self._cluster, registry=DryRegistry(desk.registry), removal_delay=0.0)

    def result(self, outcome: Outcome, view: views.View) -> Result:
        del outcome
        return Result(view=view, changed=False, difference=self._cluster.difference())
