"""Options of a progressive release; its plan, which needs scipy, is made in ``release_plan``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from mlflow_istio.core.release.surge import check_surge_words
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.analysis import CompareOptions
from mlflow_istio.options.base import ConnectionOptions, CreateOptions, DryRunOptions, ReadOptions, parse_options
from mlflow_istio.options.combinations import (
    Idle,
    check_compare,
    heed_attached,
    is_said,
    refuse_idle,
    without,
    without_traffic_of_other_strategies,
)
from mlflow_istio.options.shared import SETTINGS, Classed, Confirmed, Judged, Tested
from mlflow_istio.options.values import (
    IN_SECONDS,
    ByTarget,
    Duration,
    Names,
    Percents,
    Probability,
    Structured,
    checked,
)


def _as_text(value: Any) -> Any:
    """A number of replicas as Python gives it."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class SourceOptions(ConnectionOptions, Confirmed, Judged):
    """Where a release's figures come from; what is not said again on ``resume`` is as it was."""

    envoy_url: str | None = Field(
        default=None,
        description="port 15090 (or the admin port) of the gateway's Envoy, for metrics=envoy (cluster only)",
    )
    compare: Structured = Field(
        default=None,
        description='shadow: JSON with options of compare, such as {"answers": "numbers", "relative": 0.01}',
    )


class Planned(BaseModel):
    """What makes the plan of a release: its steps, what is watched, and what must be proven."""

    steps: Percents | None = Field(
        default=None, description="candidate's percents, such as 5,25,50; promotion follows (a last 100 says just that)"
    )
    analysis: Structured = Field(
        default="auto",
        description="what is judged: auto (errors and latency, or the first token of what streams, against the stable), none, or a "
        "JSON list of guards (or its file)",
    )
    interval: Annotated[float, IN_SECONDS, Field(ge=0.2, le=3600)] = Field(
        default=10.0, description="seconds between two looks"
    )
    hold: Annotated[float, IN_SECONDS, Field(ge=0, le=604800)] = Field(
        default=60.0, description="seconds a step lasts at least"
    )
    min_requests: Annotated[int, Field(ge=0)] = Field(
        default=100, description="requests the candidate must have answered in a step"
    )
    deadline: Annotated[float, IN_SECONDS, Field(gt=0, le=2592000)] = Field(
        default=86400.0, description="seconds for the whole release; then it is inconclusive"
    )
    warmup: Annotated[float, IN_SECONDS, Field(ge=0, le=86400)] = Field(
        default=30.0, description="seconds after the candidate's first traffic that don't count"
    )
    settle: Annotated[float, IN_SECONDS, Field(ge=0, le=3600)] | None = Field(
        default=None,
        description="seconds after a change of weights in which shares aren't checked (60 with prometheus, else 0)",
    )
    warm_requests: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="requests the candidate answers, after the warmup, before its latency counts (300; without warmup 0)",
    )
    alpha: Probability = Field(
        default=0.05, description="probability of ever rolling back a candidate within every margin"
    )
    margin: Annotated[float, Field(ge=0.1, le=10)] | None = Field(
        default=None, description="odds ratio that is still acceptable (default: 1 for errors, 1.25 for latency)"
    )
    allowed: Structured = Field(
        default=None,
        description="what must be proven before promotion: an odds ratio above 1, a difference of rates below 1, or JSON with "
        "odds_ratio, rate_difference, difference",
    )
    alone_limit: Probability = Field(
        default=0.05, description="error rate that is acceptable of a candidate whose stable serves nothing"
    )
    no_data: Literal["hold", "rollback"] = Field(default="hold", description="what missing data mean: hold or rollback")
    undecided: Literal["rollback", "hold"] = Field(
        default="rollback", description="where traffic goes when the deadline passes without proof: rollback or hold"
    )


class ReleaseOptions(CreateOptions, SourceOptions, Planned, Tested):
    """Options of ``release``: those of ``create`` for the candidate's pods, and the plan."""

    name: str | None = Field(default=None, description="the candidate deployment's name (default: MODEL-vN)")
    candidate: Names | None = Field(
        default=None,
        description="deployments that stand there already, instead of a model URI; several with strategy=ab",
    )
    control: Literal["auto", "fresh", "none"] = Field(
        default="auto",
        description="whom the candidate is compared with: fresh (the stable's version once more, with the candidate's replicas, "
        "age and share), none (the stable; in latency only while loads per replica are comparable), auto (fresh where they aren't)",
    )
    approval: Structured = Field(
        default=None,
        description='where a person must agree: promotion, a step (50), several (25,promotion), or JSON with "tag"',
    )
    approval_timeout: Annotated[float, IN_SECONDS, Field(gt=0, le=2592000)] = Field(
        default=86400.0, description="seconds to wait for the answer"
    )
    approval_default: Literal["approve", "reject"] = Field(default="reject", description="what no answer means")
    webhooks: Structured = Field(
        default=None,
        description='addresses to ask, comma-separated, or JSON list of {"url": ..., "events": ["start", "increase", "promotion"]}',
    )
    capacity: Annotated[Literal["fixed", "follow"] | None, ByTarget(local="fixed", cluster="follow")] = Field(
        default=None,
        description="replicas: follow (before each step the candidate gets its share of as many as the stable had) or fixed (left "
        "alone) (default: follow on a cluster, fixed on istio-local)",
    )
    surge: Annotated[str, checked(check_surge_words), BeforeValidator(_as_text)] | None = Field(
        default=None,
        description="capacity=follow: replicas beyond the stable's at the start that all versions may have together, such as 2 or "
        "50% (default: as many as needed)",
    )
    promote: bool = Field(default=True, description="false: stop before promotion and leave it to a person")
    warm: Literal["auto", "none"] = Field(
        default="auto",
        description="auto: ask the candidate before its first user, with its input example or recorded requests, until it is warm",
    )
    watch: Duration = Field(
        default=None,
        description="how long the promoted version is watched, such as 2h, and taken back if it turns worse than the replaced one",
    )
    holdback: Annotated[int, Field(ge=1, le=50)] = Field(
        default=5, description="percent of the traffic that stays on the replaced version meanwhile; with 'watch'"
    )
    keep_old: Duration = Field(
        default=None,
        description="delete the replaced deployment so long after the promotion, such as 24h (default: it stays)",
    )
    force: bool = Field(default=False, description="take a candidate with another signature")
    detach: bool = Field(default=False, description="open the release and return; 'mlflow-istio resume' drives it")

    @property
    def source(self) -> str:
        """Where figures come from, with ``auto`` decided by what was given."""
        if self.metrics != "auto":
            return self.metrics
        return "prometheus" if self.prometheus_url else "auto"


class ResumeOptions(SourceOptions, DryRunOptions):
    """Options of ``resume``."""

    force: bool = Field(default=False, description="take over from a process that still counts as alive")


class RehearseOptions(ReadOptions, Classed, Planned, Tested):
    """Options of ``rehearse``: the plan of a release, and how it is rehearsed."""

    strategy: Literal["canary", "blue-green"] = Field(
        default="canary", description="strategy of the release: canary or blue-green"
    )
    history: Annotated[float, IN_SECONDS, Field(ge=60, le=2592000)] = Field(
        default=86400.0, description="seconds of the endpoint's own past that are dealt out again"
    )
    horizon: Annotated[float, IN_SECONDS, Field(ge=60, le=604800)] = Field(
        default=14400.0, description="seconds that each rehearsed release may last"
    )
    runs: Annotated[int, Field(ge=1, le=100000)] = Field(
        default=200, description="releases of the same version, and of each worse one"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="the same seed deals out the same")

    @property
    def planned(self) -> dict[str, Any]:
        """The options of ``release`` among them."""
        return {
            name: getattr(self, name)
            for name in (*Planned.model_fields, *Tested.model_fields, *Classed.model_fields, "strategy")
        }


_OF_A_NEW_ENDPOINT = (
    "host",
    "foreign_host",
    "export_to",
    "pins",
    "under",
    "path",
    "match_header",
    "virtual_service",
    "route",
    "stable",
)

_RELEASE: tuple[Idle[ReleaseOptions], ...] = (
    Idle(
        ("weight", "weights", "mirror"),
        lambda _: True,
        "has no effect on 'release', which moves traffic by itself: use 'steps'",
    ),
    Idle(
        _OF_A_NEW_ENDPOINT,
        lambda _: True,
        "has no effect on 'release', whose endpoint is there already: leave it out, or make the endpoint with it first",
    ),
    Idle(
        ("holdback",),
        lambda release: release.watch is None,
        "has no effect without 'watch': leave it out, or say for how long, such as watch=2h",
    ),
    Idle(("watch", "keep_old"), lambda release: not release.promote, "has no effect with promote=false: leave it out"),
    Idle(
        ("control",),
        lambda release: release.control == "fresh" and release.strategy == "ab",
        "can't be fresh with strategy=ab: its stable is an arm like the others, with weights of its own; leave it out",
    ),
    Idle(
        ("control",),
        lambda release: release.control == "fresh" and release.strategy == "blue-green",
        "can't be fresh with strategy=blue-green: one version has all the traffic at any time, and nothing is left for a control; "
        "leave it out",
    ),
    Idle(
        ("control",),
        lambda release: release.control == "fresh" and release.strategy == "shadow",
        "can't be fresh with strategy=shadow: its answers are compared, not its load; leave it out",
    ),
    Idle(
        ("control",),
        lambda release: release.control == "fresh" and release.analysis == "none",
        "can't be fresh with analysis=none, which compares nothing: leave one out",
    ),
    Idle(("wait",), lambda _: True, "can't be false for 'release': a candidate must be ready; use 'detach'"),
    Idle(
        ("surge",),
        lambda release: release.capacity == "fixed",
        "has no effect with capacity=fixed, which leaves replicas alone: leave it out, or say capacity=follow",
    ),
)


def check_release_options(options: ReleaseOptions, given: Collection[str] | None = None) -> ReleaseOptions:
    """The options that mean something for a release that moves traffic by itself.

    Args:
        options: The options.
        given: Names of those that the call gives; the environment may hold more, for other verbs. None: all are the call's.

    Raises:
        InvalidInput: The call says one that has no effect; names it and what to use instead.
    """
    options = heed_attached(options, options.model_fields_set if given is None else given)
    if options.attach is not None and options.candidate:
        raise InvalidInput("option 'attach' has no effect with 'candidate', which is deployed already: leave one out")
    names = [name for name in options.model_fields_set if is_said(options, name) and (given is None or name in given)]
    refuse_idle(options, _RELEASE, names)
    if options.settings([name for name in (*SETTINGS, "subset", "replace") if name in names]) is not None:
        raise InvalidInput(
            "settings of the route have no effect on 'release': set them with 'mlflow-istio policy' beside it"
        )
    _check_figures(options)
    _check_candidates(options)
    idle = ["weight", "weights", "mirror", "wait", *_OF_A_NEW_ENDPOINT, *SETTINGS, "subset", "replace"]
    if "watch" not in names and not _can_be_watched(options):
        idle += ["watch", "holdback"]
    if options.capacity == "fixed":
        idle += ["surge"]
    return without_traffic_of_other_strategies(without(options, idle), options.strategy, names)


def _check_figures(options: ReleaseOptions) -> None:
    """Refuse a comparison that can't be made, and counts that stand still.

    Raises:
        InvalidInput: Says which.
    """
    if options.compare is not None:
        if not isinstance(options.compare, Mapping):
            raise InvalidInput(f"option 'compare' must be JSON of options of compare, not {repr(options.compare)[:40]}")
        check_compare(parse_options(CompareOptions, options.compare, cluster="istio"), options.compare)
    kpis = options.kpi if isinstance(options.kpi, Mapping) else {}
    counted = [name for name, kpi in kpis.items() if isinstance(kpi, Mapping) and kpi.get("counts")]
    if counted:
        raise InvalidInput(
            f"option 'kpi': counts of '{counted[0]}' stand still while a release goes on: give queries or a callable, or "
            "use analyse and declare"
        )


def _check_candidates(options: ReleaseOptions) -> None:
    """Refuse more candidates than the strategy, or what judges them, can take.

    Raises:
        InvalidInput: Says which.
    """
    if options.candidate is None or len(options.candidate) < 2:
        return
    if options.strategy != "ab":
        raise InvalidInput(f"strategy={options.strategy or 'canary'} takes one candidate: use strategy=ab for several")
    if options.analysis not in ("auto", "none"):
        raise InvalidInput(
            "option 'analysis' has no guards with several arms, each of which is compared with the stable: use auto or none, and "
            "'kpi' for what decides"
        )


def _can_be_watched(options: ReleaseOptions) -> bool:
    """Whether something can be watched after a promotion, as the environment may ask of every release."""
    return options.strategy not in ("ab", "shadow") and options.analysis != "none" and options.promote
