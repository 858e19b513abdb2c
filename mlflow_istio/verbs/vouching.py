"""Where figures come from, and who vouches for callers where the source can't tell which of them chose their deployment.

The only way from a verb that judges versions to its source: ``release``, ``resume``, ``analyse`` and ``declare`` all go through
``source_for``, so that none of them takes for evidence what strangers at a gateway can make.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.matching.pin_guard import has_gateway
from mlflow_istio.core.policy.routes import answer_of
from mlflow_istio.errors import InvalidInput
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.releases.context import endpoint_of, root_of, virtual_service_of

if TYPE_CHECKING:
    from mlflow_istio.core.moves.strategies import TrafficRequest
    from mlflow_istio.core.policy.settings import CustomRoute
    from mlflow_istio.core.release.kpi import Kpi
    from mlflow_istio.core.release.plan import ReleasePlan
    from mlflow_istio.options.release import ResumeOptions
    from mlflow_istio.ports.cluster import Cluster
    from mlflow_istio.verbs.base import Session

ARMS = "an arm's header, cookie or match"
OF_A_KPI = ("rate", "mean")
"""Kinds of guards whose figures are a user's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counting:
    """What a verb would take from a source of figures.

    Attributes:
        endpoint: Name of the endpoint.
        deployments: Whose figures count; none: those of the arms of its open A/B release.
        figures: Which of the source's own figures decide; KPIs are a user's own.
        choosing: What of a release that is still to open lets callers choose; empty: nothing.
        vouched: Whether a user says that nobody who means harm chooses.
    """

    endpoint: str
    figures: Sequence[str]
    deployments: Collection[str] = ()
    choosing: str = ""
    vouched: bool = False


def source_for(
    connect: Callable[..., Metrics | None],
    cluster: Cluster,
    counting: Counting,
    *,
    kpis: Sequence[Kpi] = (),
    going_on: Callable[[str], None] | None = None,
    **how: Any,
) -> Metrics | None:
    """The source of figures, where it may be believed.

    Args:
        connect: Makes it (``Connection.metrics``).
        cluster: The cluster.
        counting: What is to be taken from it.
        kpis: KPIs to count beside.
        going_on: Told in place of a refusal, for a release that is open: stopped in the middle it would help nobody.
        how: What else ``connect`` is to know.

    Raises:
        InvalidInput: An address is missing; or strangers can make what it counts, and nobody vouches for them.
    """
    source = connect(kpis=kpis, chosen=counting.vouched, **how)
    if source is None or not source.counts_chosen or not counting.figures or counting.vouched:
        return source
    words = unvouched(cluster, counting, source.name)
    if words and going_on is None:
        raise InvalidInput(words)
    if words and going_on is not None:
        going_on(words)
    return source


def of_a_release(
    plan: ReleasePlan, name: str, asked: TrafficRequest | None, *, randomised: bool | None, kpi: bool
) -> Counting:
    """What a release takes from its source of figures: for its guards, and for its arms where no KPI decides them."""
    guards = [guard.name for guard in plan.guards if plan.guarded and guard.kind not in OF_A_KPI]
    arms = of_arms(name, randomised=randomised, kpi=kpi).figures if plan.strategy == "ab" else ()
    return Counting(
        endpoint=name,
        deployments=plan.deployments,
        figures=[*guards, *(figure for figure in arms if plan.guards and figure not in guards)],
        choosing=_asked(plan, asked),
        vouched=randomised is True,
    )


def of_arms(name: str, *, randomised: bool | None, kpi: bool) -> Counting:
    """What a comparison of open arms takes: failed requests, unless a KPI decides, or nobody can win since callers chose."""
    figures = () if kpi or randomised is False else ("errors",)
    return Counting(endpoint=name, figures=figures, vouched=randomised is True)


def resume_options(plan: ReleasePlan, kind: str, config: Mapping[str, Any] | None = None) -> ResumeOptions:
    """Options of a release that is open: what is said now, and what was said when it started.

    Args:
        plan: Its plan, with what was said.
        kind: Kind of the target.
        config: What is said now.

    Raises:
        InvalidInput: An option can't be right.
    """
    from mlflow_istio.options.base import parse_options
    from mlflow_istio.options.kpi import without_retired_keys
    from mlflow_istio.options.release import ResumeOptions

    stored = {**plan.source, "kpi": without_retired_keys(plan.source.get("kpi"))}
    return parse_options(ResumeOptions, {**stored, **(config or {})}, cluster=kind)


def refuse_way_in(session: Session, kind: str, now: Endpoint, rule: CustomRoute) -> None:
    """Refuse a route by which callers would choose a version that an open release judges by what its source counts.

    Args:
        session: With the ports.
        kind: Kind of the target.
        now: The endpoint.
        rule: The route of its own that is to be.

    Raises:
        InvalidInput: Its requests would be evidence. Nothing is applied.
    """
    if now.progress is None:
        return
    # A release brings numpy; routes alone need none.
    from mlflow_istio.core.release.progress import progress_from_text
    from mlflow_istio.options.kpi import read_kpis

    plan = progress_from_text(now.progress).plan
    if rule.deployment not in plan.deployments or plan.strategy == "shadow" or answer_of(rule.policy):
        return
    options = resume_options(plan, kind)
    counting = of_a_release(plan, now.name, None, randomised=options.randomised, kpi=bool(read_kpis(options.kpi)))
    source_for(
        session.place.metrics,
        session.context.cluster,
        replace(counting, choosing=f"route '{rule.name}'"),
        source=options.metrics,
        prometheus_url=options.prometheus_url,
        envoy_url=options.envoy_url,
        errors=options.errors,
    )


def unvouched(cluster: Cluster, counting: Counting, source: str) -> str:
    """What strangers can do to a release, in one line; empty where they can't. Behind no gateway, callers are the mesh's own."""
    endpoint = endpoint_of(cluster, counting.endpoint)
    ways = [counting.choosing, *standing(endpoint, counting.deployments or _arms_of(endpoint))]
    choosing = list(dict.fromkeys(way for way in ways if way))
    if not choosing:
        return ""
    front = (virtual_service_of(cluster, counting.endpoint), root_of(cluster, endpoint) or {})
    if not any(has_gateway(virtual_service) for virtual_service in front):
        return ""
    return (
        f"callers at the gateway of endpoint '{counting.endpoint}' choose their deployment by {' and '.join(choosing)}, and what "
        f"they make it fail at would count for {', '.join(counting.figures)}, since {source} can't tell them from those that the "
        "weights dealt: say randomised=true where you vouch for callers (your gateway or frontend sets what decides), judge by a "
        "KPI of yours, or take that way away"
    )


def standing(endpoint: Endpoint, deployments: Collection[str]) -> list[str]:
    """What of an endpoint's traffic lets callers choose one of the deployments, in words.

    Not its pins: they ask for a key, or somebody said ``pins=open``, which vouches for who pins.
    """
    traffic = endpoint.traffic
    arms = [arm.deployment for arm in traffic.arms if arm.deployment in deployments]
    rules = [
        rule.name for rule in traffic.policy.rules if rule.deployment in deployments and not answer_of(rule.policy)
    ]
    return [
        *([ARMS] if arms else ()),
        *(f"route '{name}'" for name in rules),
    ]


def _arms_of(endpoint: Endpoint) -> tuple[str, ...]:
    release = endpoint.release
    return (endpoint.stable.name, *release.candidates) if release is not None and release.strategy == "ab" else ()


def _asked(plan: ReleasePlan, asked: TrafficRequest | None) -> str:
    """What a release that is to open will let callers choose by; what one that is open does stands in its traffic."""
    if asked is None:
        return ""
    if plan.strategy == "ab":
        return ARMS
    return "the canary's match" if asked.match else ""
