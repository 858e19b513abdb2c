"""The verbs of a progressive release: release, rehearse, resume, approve, reject."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlflow_istio.calls import webhooks
from mlflow_istio.core.basics.names import dns_name
from mlflow_istio.core.moves import transitions
from mlflow_istio.errors import InvalidInput, MlflowIstioError, StateConflict
from mlflow_istio.options.base import DryRunOptions, parse_options
from mlflow_istio.releases.context import Context, Outcome, endpoint_of, streams_at
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.deployments import begun_as
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.base import Base, Config, Result, refuse_dry_run
from mlflow_istio.verbs.deployments import deploy_request
from mlflow_istio.wiring.connection import Connection

if TYPE_CHECKING:
    from mlflow_istio.core.moves.strategies import TrafficRequest
    from mlflow_istio.core.release.plan import ReleasePlan
    from mlflow_istio.options.release import SourceOptions
    from mlflow_istio.releases.driving.drive import DriverDependencies, DriveResult, Seen

Watch = Callable[["Seen"], None]
"""Shown every look."""


def _nobody(_seen: Seen) -> None:
    """Nobody watches."""


def _not_told(_done: int, _all: int) -> None:
    """Nobody wants to know."""


class ReleaseVerbs(Base):
    """Releases that go on by themselves. What needs numpy is imported when they are used."""

    def release(
        self, endpoint: str, model_uri: str | None = None, config: Config | None = None, *, watch: Watch = _nobody
    ) -> Result:
        """Release a version: deploy it, try it, give it traffic step by step, and promote it or return the traffic.

        Args:
            endpoint: The endpoint; it has a stable already.
            model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``; None with the option ``candidate``.
            config: Options of ``release``.
            watch: Shown every look.

        Returns:
            The endpoint's view with ``outcome`` (promoted, rolled-back, inconclusive, held, aborted, superseded; ``open`` when
            detached), ``verdict`` (word and reason) and ``release_id``; after a dry run, ``plan`` in words.

        Raises:
            MlflowIstioError: What is wrong, in one line.
        """
        from mlflow_istio.core.release.plan import describe_plan
        from mlflow_istio.options.release import ReleaseOptions, check_release_options
        from mlflow_istio.options.release_plan import plan_of
        from mlflow_istio.releases.driving.opening import ReleaseRequest, control_for, open_release
        from mlflow_istio.releases.driving.progressive import drive

        options = parse_options(ReleaseOptions, config, cluster=self.target.kind)
        options = check_release_options(options, config or {})
        session = self._session(options, templates=options.templates)
        place, context = session.place, session.context
        if (model_uri is None) == (options.candidate is None):
            raise InvalidInput(
                "say what to release: either a model URI, or the option 'candidate' for what is deployed already"
            )
        before = endpoint_of(context.cluster, endpoint)
        known = transitions.known_release(before, options.release_id)
        if options.candidate:
            candidates = transitions.in_known_order(before, options.release_id, options.candidate)
        elif options.name:
            candidates = (options.name,)
        elif known is not None and known.model_uri == model_uri:
            candidates = known.candidates  # the URI may mean another version by now
        else:
            begun = begun_as(context, endpoint, options.release_id, str(model_uri))
            candidates = (begun or default_name(context, str(model_uri)),)
        deployments: tuple[DeployRequest, ...] = ()
        if model_uri is not None:
            deploying = deploy_request(place, options, candidates[0], endpoint, model_uri)
            gateways = deploying.gateways if "gateway" in (config or {}) else ()
            deployments = (replace(deploying, release_id=options.release_id, gateways=gateways),)
        streams = options.analysis == "auto" and streams_at(context, before)
        request = ReleaseRequest(
            endpoint=endpoint,
            plan=lambda endpoint_now: plan_of(options, endpoint_now, candidates, streams=streams),
            candidates=candidates,
            deployments=deployments,
            pods=options.pods(),
            strategy=options.strategy or "canary",
            traffic_request=options.traffic_request,
            release_id=options.release_id,
            supersede=options.supersede,
            reason=options.reason,
            force=options.force,
            scarce=self.target.kind != "istio",
        )
        plan = plan_of(options, endpoint_of(context.cluster, endpoint), candidates, streams=streams)
        dependencies = _crew_for(place, context, options, plan, watch, endpoint, options.traffic_request)
        if options.dry_run:
            open_release(context, dependencies, request)
            lines = control_for(context, request, plan, before).lines
            view = {**views.endpoint_view(context.cluster, endpoint), "plan": [*describe_plan(plan), *lines]}
            return session.result(Outcome(endpoint=None, changed=False), view)
        dependencies = replace(dependencies, models=place.models)
        release_id = open_release(context, dependencies, request)
        if options.detach:
            view = {**views.endpoint_view(context.cluster, endpoint), "outcome": "open", "release_id": release_id}
            return Result(
                view={**view, "verdict": {"word": "hold", "reason": "opened; 'mlflow-istio resume' drives it"}}
            )
        return _result(context, endpoint, drive(context, dependencies, endpoint, release=release_id))

    def resume_release(self, endpoint: str, config: Config | None = None, *, watch: Watch = _nobody) -> Result:
        """Go on with an open release whose driver is gone, or that is paused.

        Args:
            endpoint: The endpoint.
            config: Options of ``resume``; what is not said is as it was when the release started.
            watch: Shown every look.

        Returns:
            As for ``release``. Where the process died after a rollback, webhooks are told of it now.

        Raises:
            StateConflict: No release that goes on by itself is open, or a process that is alive drives it.
        """
        from mlflow_istio.core.release.progress import progress_from_text
        from mlflow_istio.options.release import ResumeOptions
        from mlflow_istio.releases.driving.drive import DriverDependencies
        from mlflow_istio.releases.driving.progressive import drive
        from mlflow_istio.releases.moving import shifting
        from mlflow_istio.verbs.vouching import resume_options

        options = parse_options(ResumeOptions, config, cluster=self.target.kind)
        refuse_dry_run(options, "resume", "which drives a release: see 'mlflow-istio release --dry-run'")
        session = self._session(options)
        place, context = session.place, session.context
        now = endpoint_of(context.cluster, endpoint)
        if now.release is None and now.pending_notification is not None:
            return _result(context, endpoint, drive(context, DriverDependencies(ask=webhooks.ask), endpoint))
        if now.release is None or now.progress is None:
            raise StateConflict(
                f"endpoint '{endpoint}' has no release that goes on by itself: start one with 'mlflow-istio release {endpoint} "
                "models:/...'"
            )
        plan = progress_from_text(now.progress).plan
        options = resume_options(plan, self.target.kind, config)
        if now.release.state == "paused":
            shifting.resume(context, endpoint)
        dependencies = replace(_crew_for(place, context, options, plan, watch, endpoint), models=place.models)
        return _result(context, endpoint, drive(context, dependencies, endpoint, take_over=options.force))

    def rehearse(
        self, endpoint: str, config: Config | None = None, *, told: Callable[[int, int], None] = _not_told
    ) -> views.View:
        """Rehearse a release on what the endpoint's stable has answered, as if the same version, or a worse one, were released.

        Args:
            endpoint: The endpoint.
            config: Options of ``rehearse``.
            told: Told how many of how many releases are over.

        Returns:
            ``history``, ``phase`` and ``block`` (what it rests on), and ``cases``: of the same version, and of versions with two
            and four times its odds of an error, how many were promoted and rolled back, and how long that took.

        Raises:
            NotFound: There is no such endpoint, or nobody remembers what it has answered.
            InvalidInput: There is too little history, or a plan that can't be replayed.
        """
        from mlflow_istio.options.release import RehearseOptions, ReleaseOptions
        from mlflow_istio.options.release_plan import plan_of
        from mlflow_istio.releases.reading.rehearsal import rehearsed

        options = parse_options(RehearseOptions, config, cluster=self.target.kind)
        session = self._session(options)
        planned = parse_options(ReleaseOptions, options.planned, cluster=self.target.kind, environment=False)
        metrics = session.place.metrics(options.metrics, prometheus_url=options.prometheus_url, errors=options.errors)
        return rehearsed(
            session.context,
            metrics,
            endpoint,
            lambda endpoint_now: plan_of(planned, endpoint_now, (f"{endpoint_now.stable.name}-again",)),
            seconds=options.history,
            horizon=options.horizon,
            runs=options.runs,
            seed=options.seed,
            told=told,
        )

    def goes_on_by_itself(self, endpoint: str) -> bool:
        """Whether ``resume`` has more to do than to unpause: the open release has a plan, or the last one's end was not told."""
        now = endpoint_of(self._read().cluster, endpoint)
        return now.progress is not None or now.pending_notification is not None

    def unpause(self, endpoint: str, config: Config | None = None) -> Result:
        """Let a paused release go on, without driving it."""
        from mlflow_istio.releases.moving import shifting

        session = self._session(parse_options(DryRunOptions, config, cluster=self.target.kind))
        outcome = shifting.resume(session.context, endpoint)
        return session.result(outcome, views.endpoint_view(session.context.cluster, endpoint))

    def approve(self, endpoint: str, config: Config | None = None) -> str:
        """Let a release past the gate it waits at; the gate.

        Raises:
            StateConflict: Nothing waits for approval.
        """
        return self._answer(endpoint, "approve", config)

    def reject(self, endpoint: str, config: Config | None = None) -> str:
        """Refuse the gate a release waits at: its traffic returns to the stable.

        Raises:
            StateConflict: Nothing waits for approval.
        """
        return self._answer(endpoint, "reject", config)

    def _answer(self, endpoint: str, word: str, config: Config | None) -> str:
        from mlflow_istio.releases.driving.drive import answer

        options = parse_options(DryRunOptions, config, cluster=self.target.kind)
        refuse_dry_run(options, word, f"which answers a release: see 'mlflow-istio status {endpoint}'")
        return answer(self._session(options).context, endpoint, word)


def default_name(context: Context, model_uri: str) -> str:
    """``MODEL-vN`` of the version that the URI names now."""
    from mlflow_istio.core.basics.model_version import parse_model_uri

    reference = parse_model_uri(model_uri)
    version = reference if reference.version is not None else context.registry.resolve(reference)
    return dns_name(f"{version.model}-v{version.version}")


def _crew_for(
    place: Connection,
    context: Context,
    options: SourceOptions,
    plan: ReleasePlan,
    watch: Watch,
    endpoint: str,
    asked: TrafficRequest | None = None,
) -> DriverDependencies:
    """What drives a release.

    Args:
        place: The target with its adapters.
        context: The ports.
        options: Where figures come from.
        plan: The release's plan.
        watch: Shown every look.
        endpoint: The endpoint.
        asked: What a release that is to open asks of the traffic; None: it is open, and goes on.
    """
    from mlflow_istio.options.kpi import read_kpis
    from mlflow_istio.options.release_plan import STREAM_KINDS
    from mlflow_istio.releases.driving.drive import DriverDependencies
    from mlflow_istio.verbs.judging import judge_for
    from mlflow_istio.verbs.vouching import of_a_release, source_for

    metrics = None
    if plan.guards and plan.strategy != "shadow":  # a shadow is decided by its answers
        kpis = read_kpis(options.kpi)
        metrics = source_for(
            place.metrics,
            context.cluster,
            of_a_release(plan, endpoint, asked, randomised=options.randomised, kpi=bool(kpis)),
            going_on=context.warn if asked is None else None,
            source=options.metrics,
            prometheus_url=options.prometheus_url,
            envoy_url=options.envoy_url,
            kpis=kpis,
            errors=options.errors,
            streams=any(guard.kind in STREAM_KINDS for guard in plan.guards),
        )
    return DriverDependencies(
        metrics=metrics,
        ask=webhooks.ask,
        records=place.records,
        judge=judge_for(context, place.records, metrics, options, plan),
        watch=watch,
        timeout=options.confirm_timeout,
    )


def _result(context: Context, endpoint: str, ending: DriveResult) -> Result:
    try:
        view: Mapping[str, Any] = views.endpoint_view(context.cluster, endpoint)
    except MlflowIstioError:
        view = {}
    return Result(
        view={
            **view,
            "outcome": ending.outcome,
            "verdict": {"word": ending.word, "reason": ending.reason},
            "release_id": ending.release,
            "by_hand": ending.by_hand,
        }
    )
