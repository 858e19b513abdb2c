"""Open a progressive release: deploy, try the candidate at no weight, store the plan, drive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_istio.core.analysis.measures import LATENCY
from mlflow_istio.core.basics.model_version import parse_model_uri
from mlflow_istio.core.basics.objects import name_of, wanted_replicas
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import ClosedRelease, Release
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.control_choice import Capacity, ControlChoice, choose_control
from mlflow_istio.core.release.edges import measures_with_edges, missing_edge, missing_in
from mlflow_istio.core.release.kpi_kinds import KPI_KINDS, misread_kpi
from mlflow_istio.core.release.least_time import late_proof, short_deadline
from mlflow_istio.core.release.on_endpoint import opened
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.progress import check_room, first_progress, progress_from_text
from mlflow_istio.core.release.same_plan import as_before_controls, as_stored, is_of_earlier_version
from mlflow_istio.errors import InvalidInput, MetricsError, NotReady, StateConflict
from mlflow_istio.ports.metrics import KnownEdges
from mlflow_istio.releases.context import Context, deployments_of, emit_warnings, endpoint_of, versions_of
from mlflow_istio.releases.deploying.controls import bring_up, check_free
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.deployments import deploy
from mlflow_istio.releases.deploying.preflight import preflight
from mlflow_istio.releases.driving.capacity import replicas_at_start
from mlflow_istio.releases.driving.drive import DriverDependencies, DriveResult
from mlflow_istio.releases.driving.progressive import drive
from mlflow_istio.releases.driving.warm_up import warm_up
from mlflow_istio.releases.ledger import check_run, flush_outbox, run_for
from mlflow_istio.releases.moving import proposal, scaling, shifting
from mlflow_istio.releases.reading.history import DAY, FINEST, read_history
from mlflow_istio.releases.reading.told_errors import check_told

READY = 300.0
"""Seconds for a control's pods, where nobody said how long the candidate's may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseRequest:
    """A progressive release to open.

    Attributes:
        endpoint: The endpoint; it must have a stable already.
        plan: Makes the plan, once it is known who is stable.
        candidates: Deployments to release.
        deployments: What to deploy first; empty when the candidates stand there already.
        pods: What was said of their pods, as JSON: part of the plan that the release's id stands for.
        strategy: canary, ab, blue-green or shadow.
        traffic_request: A/B: header or cookie, and values.
        release_id: Id to use; made anew when None.
        supersede: Whether to abort an open release first.
        reason: Why, for the ledger.
        force: Whether a different signature is taken.
        detach: Whether to return once the release is open; ``resume`` drives it.
        scarce: Whether one more server is dear, as on a laptop.
    """

    endpoint: str
    plan: Callable[[Endpoint], ReleasePlan]
    candidates: tuple[str, ...]
    deployments: tuple[DeployRequest, ...] = ()
    pods: Mapping[str, Any] = field(default_factory=dict)
    strategy: str = "canary"
    traffic_request: TrafficRequest = field(default_factory=TrafficRequest)
    release_id: str | None = None
    supersede: bool = False
    reason: str = ""
    force: bool = False
    detach: bool = False
    scarce: bool = False


def open_release(context: Context, dependencies: DriverDependencies, request: ReleaseRequest) -> str:
    """Bring a release to where driving begins: deployed, tried at no weight, open; the release's id.

    Given again while that release is open, nothing is done twice.

    Raises:
        NotFound: There is no such endpoint yet.
        StateConflict: Another release is open, or the candidate fails its preflight.
        InvalidInput: The plan does not fit.
    """
    name = request.endpoint
    endpoint_of(context.cluster, name)  # says which endpoints there are
    emit_warnings(context, flush_outbox(context, name, publish=False))
    emit_warnings(context, scaling.finish(context, endpoint_of(context.cluster, name)))
    endpoint = endpoint_of(context.cluster, name)
    if shifting.enforce_due(context, endpoint):  # such as the control of an earlier try
        endpoint = endpoint_of(context.cluster, name)
    plan = request.plan(endpoint)
    earlier = _opened_before(context, request, endpoint, plan)
    if earlier is not None:
        return earlier
    _check_opening(context, dependencies, request, endpoint, plan)
    control = control_for(context, request, plan, endpoint).name
    if control:
        check_free(context, endpoint, control)
    coming = {deployment.name: deployment.replicas for deployment in request.deployments}
    replicas = replicas_at_start(context, endpoint, plan, coming, control=control)
    for deployment in request.deployments:
        deploy(context, deployment)
    _look_at_candidates(context, dependencies, request, endpoint.stable.name)
    warmed = _warmed(context, dependencies, plan, name, request.candidates)
    if endpoint.release is not None:
        shifting.abort(
            context, name, action="supersede", reason=request.reason or "superseded", timeout=dependencies.timeout
        )
    endpoint = endpoint_of(context.cluster, name)
    traffic_request = _without_traffic(request, endpoint)
    release = proposal.plan(
        context,
        endpoint,
        request.strategy,
        request.candidates,
        traffic_request,
        request.release_id,
        options=_fixed(plan, request),
    )
    release = replace(release, replicas=replicas)
    phase = _learnt_phase(context, dependencies, name, plan)
    progress = replace(first_progress(plan, context.clock.now(), phase=phase), warmed=warmed)
    if late := short_deadline(plan) or late_proof(plan, progress.evidence.phase):
        context.warn(late)
    check_room(progress)
    opened(endpoint, release, traffic_request, progress)  # refuse what can't work before a run is opened for it
    if control and not _with_control(context, dependencies, request, plan, control):
        release = replace(release, replicas={name: count for name, count in replicas.items() if name != control})
    elif control:
        release = replace(release, control=control)
        warmed = _warmed(context, dependencies, plan, name, (control,)) and warmed
        progress = first_progress(plan, context.clock.now(), phase=phase, control=control)
        progress = replace(progress, warmed=warmed)
    run, warnings = run_for(context, name, release, new=True)
    emit_warnings(context, warnings)
    release = replace(
        release, run=run, model_uri=next((deployment.model_uri for deployment in request.deployments), "")
    )
    shifting.move(
        context,
        name,
        lambda now: opened(now, release, traffic_request, progress),
        action="start",
        reason=request.reason,
        timeout=dependencies.timeout,
    )
    return release.id


def _opened_before(context: Context, request: ReleaseRequest, endpoint: Endpoint, plan: ReleasePlan) -> str | None:
    """The id of the release that the same command has opened before; None where it has to be opened.

    Raises:
        StateConflict: The id has another plan, or another release is open.
    """
    current, last = endpoint.release, endpoint.last
    if request.release_id is not None:
        known = transitions.known_release(endpoint, request.release_id)
        if known is not None:
            _check_plan(context, request, endpoint, known, plan)
        if known is last and last is not None and current is None:
            return last.id  # a pipeline's step that is run again
        transitions.check_not_ended(endpoint, request.release_id)
    same = current is not None and (current.strategy, current.candidates) == (request.strategy, request.candidates)
    if current is not None and same and request.release_id in (None, current.id):
        return _known(context, endpoint, plan)
    if current is not None and not request.supersede:
        raise StateConflict(transitions.open_release(endpoint))
    return None


def _check_opening(
    context: Context,
    dependencies: DriverDependencies,
    request: ReleaseRequest,
    endpoint: Endpoint,
    plan: ReleasePlan,
) -> None:
    """Refuse what can't be judged, or can't be released, before anything is deployed for it.

    Raises:
        InvalidInput: A guard can't be judged by these figures, or the candidate is stable.
        NotFound: A candidate that is to stand there does not.
    """
    _check_figures(context, dependencies, plan, request.endpoint)
    if plan.guards:
        check_told(dependencies.metrics, endpoint)
    if endpoint.owns(endpoint.stable) and endpoint.stable.subset in request.candidates:
        raise InvalidInput(f"deployment '{endpoint.stable.name}' is stable already: a candidate must be another")
    for candidate in {*request.candidates} - {deployment.name for deployment in request.deployments}:
        transitions.check_deployed(endpoint, candidate)
    if request.release_id is not None:
        release = Release(
            id=request.release_id,
            strategy=request.strategy,
            candidates=request.candidates,
            opened=context.clock.now(),
        )
        check_run(context, request.endpoint, release)


def _look_at_candidates(
    context: Context, dependencies: DriverDependencies, request: ReleaseRequest, stable: str
) -> None:
    """Try each candidate at no weight.

    Raises:
        StateConflict: One fails its preflight.
    """
    if dependencies.models is None:
        return
    for candidate in request.candidates:
        context.tell(f"looking at '{candidate}' before it gets traffic")
        warnings = preflight(
            context,
            dependencies.models,
            dependencies.score,
            request.endpoint,
            stable=stable,
            candidate=candidate,
            force=request.force,
            timeout=dependencies.timeout,
        )
        emit_warnings(context, warnings)


def _warmed(
    context: Context, dependencies: DriverDependencies, plan: ReleasePlan, name: str, deployments: tuple[str, ...]
) -> bool:
    """Whether these were warmed until they answered as fast as they will."""
    return (
        dependencies.models is not None
        and plan.warm == "auto"
        and warm_up(
            context,
            dependencies.models,
            dependencies.score,
            name,
            deployments,
            records=dependencies.records,
            timeout=dependencies.timeout,
        )
    )


def control_for(context: Context, request: ReleaseRequest, plan: ReleasePlan, endpoint: Endpoint) -> ControlChoice:
    """Whether the release will take a control, and what is said of it.

    Raises:
        InvalidInput: One is asked for, and the stable can't have one.
    """
    standing = {name_of(obj): wanted_replicas(obj) for obj in deployments_of(context.cluster, endpoint.name)}
    asked = next((deployment.replicas for deployment in request.deployments), None)
    capacity = Capacity(
        stable=max(1, standing.get(plan.stable, 1)),
        candidate=max(1, asked or standing.get(plan.candidate, 1)),
        follows=plan.capacity == "follow",
        scarce=request.scarce,
    )
    return choose_control(plan, endpoint, capacity)


def _with_control(
    context: Context, dependencies: DriverDependencies, request: ReleaseRequest, plan: ReleasePlan, control: str
) -> bool:
    """Bring the control up; False where it was nobody's wish and finds no room."""
    try:
        bring_up(
            context,
            request.endpoint,
            control=control,
            candidate=plan.candidate,
            ready_timeout=max((deployment.ready_timeout for deployment in request.deployments), default=READY),
            timeout=dependencies.timeout,
        )
    except NotReady as exc:
        if plan.control == "fresh":
            raise
        context.warn(f"no control, so the candidate is compared with '{plan.stable}' itself: {exc.message}")
        return False
    return True


def _check_figures(context: Context, dependencies: DriverDependencies, plan: ReleasePlan, name: str) -> None:
    """Refuse an edge that the source of figures does not have, and a KPI that its guard can't judge, as far as it can be known.

    What the stable has answered tells the edges of every source. Where it has answered nothing yet, a source may know its own; else
    the driver says it once there are answers.

    Raises:
        InvalidInput: Names the guard, the edge and its neighbours, or the KPI.
    """
    metrics = dependencies.metrics
    measures = measures_with_edges(plan)
    kpis = any(guard.kind in KPI_KINDS for guard in plan.guards)
    if metrics is None or not (measures or kpis):
        return
    edges: Sequence[float] = metrics.latency_edges if isinstance(metrics, KnownEdges) else ()
    problem = missing_edge(plan, edges, metrics.name)
    if kpis or not edges or measures != (LATENCY,):
        try:
            read = metrics.read(name, (plan.stable,))
            problem = problem or missing_in(plan, read, metrics.name) or misread_kpi(plan, read)
        except MetricsError as exc:
            what = (
                "there are the latency edges and others that guards name"
                if measures
                else "KPIs are of their guards' kinds"
            )
            context.warn(f"whether {what} could not be looked up: {exc.message}")
    if problem:
        raise InvalidInput(problem)


def _learnt_phase(context: Context, dependencies: DriverDependencies, endpoint: str, plan: ReleasePlan) -> float | None:
    """The longest slow phase in the stable's last day, if the plan leaves it open and the source remembers enough to say."""
    if plan.phase is not None or not plan.guards:
        return None
    try:
        history = read_history(dependencies.metrics, endpoint, plan.stable, DAY, max(FINEST, plan.interval))
    except MetricsError as exc:
        context.warn(f"how long slow phases of '{plan.stable}' are could not be learnt: {exc.message}")
        return None
    if history is None:
        return None
    phase = history.phase()
    hours = f"{history.seconds / 3600:.1f} h of '{plan.stable}'"
    if phase is None:
        context.tell(f"{hours} tell too little about slow phases")
    else:
        context.tell(f"{hours} show " + (f"slow phases of up to {phase:g} s" if phase else "no slow phases"))
    return phase


def _without_traffic(request: ReleaseRequest, endpoint: Endpoint) -> TrafficRequest:
    """What is asked of the strategy, with no traffic for the candidates yet."""
    if request.strategy == "shadow":
        return request.traffic_request
    if len(request.candidates) > 1:
        return replace(
            request.traffic_request, weights={endpoint.stable.name: 100, **dict.fromkeys(request.candidates, 0)}
        )
    return replace(request.traffic_request, weight=0)


def _fixed(plan: ReleasePlan, request: ReleaseRequest) -> dict[str, Any]:
    """What the plan fixes whoever is stable, which a promotion changes; with what earlier versions left out of the digest."""
    return {**_fixed_before(plan), "match": _matches(request.traffic_request), "pods": dict(request.pods)}


def _fixed_before(plan: ReleasePlan) -> dict[str, Any]:
    """What earlier versions wrote down of it."""
    return {key: value for key, value in to_json(plan).items() if key not in ("stable", "warm")}


def _matches(traffic_request: TrafficRequest) -> list[Any]:
    """The requests that the candidate gets whatever the weight; names of headers have no case."""
    return [
        {
            key: {name.lower(): wanted for name, wanted in value.items()}
            if key in ("headers", "withoutHeaders")
            else value
            for key, value in match.items()
        }
        for match in traffic_request.match or ()
    ]


def _check_plan(
    context: Context, request: ReleaseRequest, endpoint: Endpoint, known: Release | ClosedRelease, plan: ReleasePlan
) -> None:
    """Refuse a release whose id has or had another plan, before anything of it is deployed.

    The URI that the known one was asked for still means its version: promotion takes the challenger's alias away, and an alias
    or ``latest`` may have moved since. What an earlier version did not write down is read off the deployments that stand; what
    it left out of the digest it can't be held to.

    Raises:
        StateConflict: Names the plan that the id has.
    """
    standing = versions_of(deployments_of(context.cluster, request.endpoint))
    versions = {**{name: standing[name] for name in known.candidates if standing.get(name)}, **known.versions}
    asked = {
        deployment.name: versions.get(deployment.name, "")
        if known.model_uri == deployment.model_uri
        else _label(context, deployment.model_uri)
        for deployment in request.deployments
    }
    plans = (plan, *as_before_controls(plan))
    digests = [
        proposal.options_digest(request.traffic_request, part)
        for each in plans
        for part in (_fixed(each, request), _fixed_before(each))
    ]
    intended = Release(
        id=known.id,
        strategy=request.strategy,
        candidates=request.candidates,
        opened=context.clock.now(),
        versions={name: asked.get(name) or standing.get(name, "") for name in request.candidates},
        options=known.options if known.options in digests else digests[0],
    )
    release, last = endpoint.release, endpoint.last
    if release is known and release is not None:
        endpoint = replace(endpoint, release=replace(release, versions=versions))
    elif last is not None:
        endpoint = replace(endpoint, last=replace(last, versions=versions))
    transitions.check_plan(endpoint, intended)


def _label(context: Context, model_uri: str) -> str:
    """``MODEL/VERSION`` of a URI; the registry, which may be down, is asked only for what the URI doesn't say."""
    reference = parse_model_uri(model_uri)
    return reference.label or context.registry.resolve(reference).label


def _known(context: Context, endpoint: Endpoint, plan: ReleasePlan) -> str:
    """The release that the same command opened before, if it has the same plan."""
    release = endpoint.release
    if release is None or endpoint.progress is None:
        raise StateConflict(
            f"{transitions.open_release(endpoint)}; it was opened without a plan, so it can't go on by itself"
        )
    known = progress_from_text(endpoint.progress).plan
    plan = as_stored(plan, known)
    if known != (
        replace(plan, stable=known.stable) if release.watching else plan
    ):  # who is stable changed by the promotion
        raise StateConflict(
            f"release '{release.id}' of endpoint '{endpoint.name}' is open with another plan: run 'mlflow-istio resume "
            f"{endpoint.name}' to go on with it, or give supersede=true"
        )
    if is_of_earlier_version(known):
        context.tell(
            f"release '{release.id}' was opened by an earlier version of mlflow-istio, and goes on by its plan"
        )
    return release.id


def release(context: Context, dependencies: DriverDependencies, request: ReleaseRequest) -> DriveResult | None:
    """Open a release and drive it to its end; None when it was only opened.

    Raises:
        MlflowIstioError: As for ``open_release`` and ``drive``.
    """
    opened_now = open_release(context, dependencies, request)
    return None if request.detach else drive(context, dependencies, request.endpoint, release=opened_now)
