"""The verbs on endpoints: moving traffic and releases, and deleting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import describe_release
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import no_release
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.options.base import CreateOptions, DeleteEndpointOptions, UpdateEndpointOptions
from mlflow_istio.options.combinations import check_redeploy, check_update_endpoint
from mlflow_istio.releases.context import Context, Outcome, endpoint_of
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.base import Config, Result
from mlflow_istio.verbs.deployments import deploy_request
from mlflow_istio.verbs.policy import PolicyVerbs


class EndpointVerbs(PolicyVerbs):
    """Traffic, releases and whole endpoints."""

    def update_endpoint(self, name: str, config: Config | None, *, undo_promotion: bool = True) -> Result:
        """Move traffic or a release; see ``releases.moving.shifting``.

        Args:
            name: The endpoint.
            config: Options of update-endpoint.
            undo_promotion: Whether action=rollback may undo a promotion, also one that comes this very moment.
        """
        options = self._options(UpdateEndpointOptions, config)
        settings = self._settings_of(name, options, config or {})
        if settings is not None:
            return settings
        options = check_update_endpoint(options, config or {})
        urgent = options.to is None and options.action in ("rollback", "abort")
        session = self._urgent_session(options) if urgent else self._session(options)
        if options.to is not None:
            outcome = self._rollback_to(session.context, name, options)
        elif options.action == "rollback":
            outcome = _rollback(session.context, name, options, undo_promotion=undo_promotion)
        elif options.action is not None:
            outcome = _ACTIONS[options.action](session.context, name, options)
        else:
            outcome = _move(session.context, name, options)
        return session.result(outcome, views.endpoint_view(session.context.cluster, name))

    def _rollback_to(self, context: Context, name: str, options: UpdateEndpointOptions) -> Outcome:
        assert options.to is not None
        check_redeploy(options.redeploy)
        create = self._options(CreateOptions, {"confirm_timeout": options.confirm_timeout, **options.redeploy})
        place = self._place(options)

        def as_request(deployment: str, model_uri: str) -> DeployRequest:
            request = deploy_request(place, create, deployment, name, model_uri)
            return replace(request, settings={}, gateways=(), reason=f"for a rollback to change {options.to}")

        return rollback_to(
            context,
            name,
            options.to,
            as_request=as_request,
            reason=options.reason,
            force=options.force,
            ready_timeout=create.ready_timeout,
            timeout=options.confirm_timeout,
        )

    def delete_endpoint(self, name: str, config: Config | None = None) -> Result:
        """Take an endpoint away; see ``releases.removal.delete_endpoint``."""
        options = self._options(DeleteEndpointOptions, config)
        session = self._session(options)
        gone = removal.delete_endpoint(
            session.context, name, force=options.force, reason=options.reason, timeout=options.confirm_timeout
        )
        return session.result(Outcome(endpoint=None, changed=gone), {})


def _promote(context: Context, name: str, options: UpdateEndpointOptions) -> Outcome:
    return shifting.promote(
        context,
        name,
        candidate=options.candidate[0] if options.candidate else None,
        reason=options.reason,
        force=options.force,
        keep_old=options.keep_old,
        release_id=options.release_id,
        timeout=options.confirm_timeout,
    )


def _rollback(context: Context, name: str, options: UpdateEndpointOptions, *, undo_promotion: bool) -> Outcome:
    return shifting.rollback(
        context,
        name,
        reason=options.reason,
        force=options.force,
        release_id=options.release_id,
        undo_promotion=undo_promotion,
        timeout=options.confirm_timeout,
    )


def _abort(context: Context, name: str, options: UpdateEndpointOptions) -> Outcome:
    return shifting.abort(
        context,
        name,
        reason=options.reason,
        force=options.force,
        release_id=options.release_id,
        timeout=options.confirm_timeout,
    )


_ACTIONS: Mapping[str, Callable[[Context, str, UpdateEndpointOptions], Outcome]] = {
    "promote": _promote,
    "abort": _abort,
    "pause": lambda context, name, _options: shifting.pause(context, name),
    "resume": lambda context, name, _options: shifting.resume(context, name),
}


def _move(context: Context, name: str, options: UpdateEndpointOptions) -> Outcome:
    """Shift the open release, or start one."""
    endpoint = endpoint_of(context.cluster, name)
    candidates = transitions.in_known_order(endpoint, options.release_id, options.candidate or ())
    if options.release_id is not None:
        transitions.check_not_ended(endpoint, options.release_id)
    release = endpoint.release
    if release is None:
        if options.strategy is None and not candidates:
            if not options.traffic_request.given:
                raise InvalidInput("nothing to change: give 'weight', 'mirror', 'strategy' or 'action'")
            # A late 'weight=50' after somebody's promotion must not release the version that was replaced.
            raise StateConflict(no_release(endpoint))
        return _start(context, endpoint, candidates, options)
    same = options.strategy in (None, release.strategy) and candidates in ((), release.candidates)
    if same and options.release_id in (None, release.id):
        if options.traffic_request.given or options.strategy is None:
            return shifting.shift(
                context,
                name,
                options.traffic_request,
                reason=options.reason,
                timeout=options.confirm_timeout,
                planned=endpoint,
            )
        return _start(context, endpoint, release.candidates, options)
    if options.release_id == release.id:
        raise StateConflict(
            f"release '{release.id}' of endpoint '{name}' is a {describe_release(release)}: use another release_id for another "
            "plan"
        )
    if not options.supersede:
        raise StateConflict(transitions.open_release(endpoint))
    return _start(context, transitions.abort(endpoint, "superseded"), candidates, options)


def _start(
    context: Context, endpoint: Endpoint, candidates: tuple[str, ...], options: UpdateEndpointOptions
) -> Outcome:
    candidates = candidates or _only_candidate(endpoint)
    return shifting.start(
        context,
        endpoint.name,
        strategy=options.strategy or ("ab" if len(candidates) > 1 else "canary"),
        candidates=candidates,
        traffic_request=options.traffic_request,
        release_id=options.release_id,
        supersede=options.supersede,
        reason=options.reason,
        timeout=options.confirm_timeout,
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
