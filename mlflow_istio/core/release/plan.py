"""What a progressive release is to do: steps, guards, proof, gates and limits. Fixed when it starts, stored with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from mlflow_istio.core.analysis.interval import check_alpha, check_overdispersion, check_positive
from mlflow_istio.core.analysis.latency import LATENCY_MARGIN
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.stored import form, stored
from mlflow_istio.core.moves.strategies import STRATEGIES
from mlflow_istio.core.release.guards.base import GuardTerms
from mlflow_istio.core.release.guards.table import kind_of, said_by
from mlflow_istio.core.release.surge import check_surge_words
from mlflow_istio.errors import InvalidInput

NoData = Literal["hold", "rollback"]
Undecided = Literal["rollback", "hold"]
Default = Literal["approve", "reject"]
Event = Literal["start", "increase", "promotion", "rollback"]
Control = Literal["auto", "fresh", "none"]

PHASE_UNKNOWN = 60.0
"""Seconds that a slow phase may last where nobody knows: garbage collection, a backup, a neighbour's job."""

LONGEST_PHASE = 86400.0

LONGEST_WATCH = 2592000.0

LONGEST_WARMING = 60.0
"""Seconds after which a version that has not settled is taken as it is."""

RULES = 2
"""The rules of this version: blocks of time, a share of alpha for each guard, gross failure. 1: independent requests, averages."""

GROSS_WEIGHT = 0.1

COMPARABLE_LOADS = 1.5
"""Up to this ratio of what a replica of each side has to answer, their latencies are compared."""

_ALWAYS = stored(sparse=False, needed=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardPlan(GuardTerms):
    """One thing that is watched: terms that its kind can keep."""

    def __post_init__(self) -> None:
        kind = kind_of(self)
        check_positive(f"guard '{self.name}': weight", self.weight)
        if kind.has_limit != (self.limit is not None):
            raise InvalidInput(f"guard '{self.name}': a limit is what an objective has, and nothing else")
        if self.limit is not None and not 0 < self.limit < 1:
            raise InvalidInput(f"guard '{self.name}': limit is a rate between 0 and 1, such as 0.01; got {self.limit}")
        if list(self.edges) != sorted(set(self.edges)):
            raise InvalidInput(f"guard '{self.name}': edges must rise, got {list(self.edges)}")
        for proof in fields(NonInferiorityMargin):
            if getattr(self.allowed, proof.name) is not None and proof.name not in kind.proofs:
                raise InvalidInput(
                    f"guard '{self.name}': '{proof.name}' can't be allowed for {self.kind}; it takes: "
                    f"{', '.join(kind.proofs) or 'nothing'}"
                )

    def describe(self) -> str:
        """One line for people."""
        proof = self.allowed.describe()
        terms = said_by(self, lambda: str(kind_of(self).describe(self)), str)
        return f"{self.name}: {terms}" + (f"; promotion needs {proof}" if proof else "")


@form(sparse=True, closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """Where a person must say yes.

    Attributes:
        before: Steps' weights, as text, and ``promotion``.
        tag: Key of the model version's tag that approves (``approved`` or ``true``) or rejects; None: only by command.
        timeout: Seconds to wait for the answer.
        default: What no answer means.
    """

    before: tuple[str, ...]
    tag: str | None = None
    timeout: float = 86400.0
    default: Default = "reject"

    def __post_init__(self) -> None:
        check_positive("approval_timeout", self.timeout)
        if self.default not in get_args(Default):
            raise InvalidInput(f"approval_default is 'approve' or 'reject', not {self.default!r}")


@form(sparse=True, closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """An address that is asked by POST; only a 2xx lets the release go on.

    Attributes:
        url: The address, or ``env:NAME`` for one that each driver has in that environment variable.
        events: When it is asked. On ``rollback`` it is only told.
        timeout: Seconds for one answer.
    """

    url: str
    events: tuple[Event, ...] = ("start", "increase", "promotion", "rollback")
    timeout: float = 10.0

    def __post_init__(self) -> None:
        check_positive(f"webhook {self.shown}: timeout", self.timeout)
        for event in self.events:
            if event not in get_args(Event):
                raise InvalidInput(f"webhook {self.shown}: unknown event {event!r}: {nearest(event, get_args(Event))}")

    @property
    def shown(self) -> str:
        """What people and files are told of it; a path or query may hold a token."""
        return shown_address(self.url)


def shown_address(url: str) -> str:
    """Scheme and host of an address, or the name of the variable that holds it."""
    scheme, _, rest = url.partition("://")
    if not rest:
        return url
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    return f"{scheme}://{authority.rpartition('@')[2]}"


@form(sparse=True, closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasePlan:
    """A progressive release.

    Attributes:
        strategy: canary, ab, blue-green or shadow.
        stable: Deployment that is stable at the start.
        candidates: Deployments released; more than one only for ab.
        steps: Candidate's percent at each step (shadow: percent mirrored); the last is followed by promotion.
        interval: Seconds between two looks.
        hold: Seconds a step lasts at least.
        min_requests: Requests the candidate must have answered in a step.
        warmup: Seconds after the candidate's first traffic that count for nothing.
        settle: Seconds after a change of weights that don't enter the check of the traffic's shares.
        deadline: Seconds for the whole release.
        guards: What is watched; none: steps go by time alone.
        alpha: Probability of ever rolling back a candidate within every margin.
        overdispersion: Overdispersion of independent bursts, for experts.
        phase: The longest slow phase of a replica, in seconds: what is shorter is no difference between versions. 0: requests are
            independent; None: learnt from the stable's history where the source has one, else `PHASE_UNKNOWN`.
        label_delay: Seconds after which a KPI's events may still come.
        warm_requests: Requests that the candidate answers, after the warm-up, before its latency counts.
        control: Whom the candidate is compared with. fresh: a second deployment of the stable's version, of the candidate's size,
            age and share; none: the stable, in latency only while loads per replica are comparable; auto: a control where the
            plan's loads aren't. None: the stable, whatever the loads, as before there were controls.
        rules: By which rules it is judged: a release that began under earlier ones goes on by them.
        alone_limit: Largest acceptable error rate of a candidate whose stable serves nothing.
        no_data: What missing data mean.
        undecided: What happens to the traffic when the deadline has passed without proof.
        promote: Whether to promote by itself; else it stops before.
        approval: Where a person must agree, or None.
        webhooks: Who else is asked.
        source: Where figures come from, as ``resume`` must know it; plain JSON values.
        capacity: Whether replicas follow the traffic (``follow``) or are left alone (``fixed``).
        surge: Replicas that there may be beyond the stable's at the start, all versions together: a number, or a percent such as
            ``50%``; None: as many as are needed.
        watch: Seconds for which the promoted candidate is watched for a change that comes later; 0: it isn't.
        holdback: Percent of the traffic that stays on the stable meanwhile, to compare with.
        keep_old: Seconds after the promotion for which the stable stays deployed; None: until somebody deletes it.
        warm: Whether the candidate is asked before its first user until it is warm (``auto``), or not (``none``).
    """

    strategy: str
    stable: str
    candidates: tuple[str, ...]
    steps: tuple[float, ...]
    interval: float = 10.0
    hold: float = 60.0
    min_requests: int = 100
    warmup: float = 0.0
    settle: float = 0.0
    deadline: float = 86400.0
    guards: tuple[GuardPlan, ...] = field(default=(), metadata=_ALWAYS)
    alpha: float = 0.05
    overdispersion: float = field(default=1.0, metadata=stored(name="phi"))
    phase: float | None = 0.0
    label_delay: float = 0.0
    warm_requests: int = 0
    control: Control | None = None
    rules: int = 1
    alone_limit: float = 0.05
    no_data: NoData = "hold"
    undecided: Undecided = "rollback"
    promote: bool = True
    approval: Approval | None = field(default=None, metadata=_ALWAYS)
    webhooks: tuple[Webhook, ...] = field(default=(), metadata=_ALWAYS)
    source: Mapping[str, Any] = field(default_factory=dict, metadata=stored(sparse=False))
    capacity: Literal["fixed", "follow"] = "fixed"
    surge: str | None = None
    watch: float = 0.0
    holdback: int = 5
    keep_old: float | None = None
    warm: Literal["auto", "none"] = "none"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InvalidInput(f"unknown strategy {self.strategy!r}: {nearest(self.strategy, STRATEGIES)}")
        if not self.candidates:
            raise InvalidInput("a release needs a candidate")
        check_steps(self.strategy, self.steps)
        check_alpha(self.alpha)
        check_overdispersion(self.overdispersion)
        check_positive("interval", self.interval)
        check_positive("deadline", self.deadline)
        if min(self.hold, self.warmup, self.settle, self.min_requests, self.label_delay, self.warm_requests) < 0:
            raise InvalidInput("hold, warmup, settle, min_requests, label_delay and warm_requests can't be negative")
        if self.phase is not None and not 0 <= self.phase <= LONGEST_PHASE:
            raise InvalidInput(f"phase is from 0 to {LONGEST_PHASE:g} seconds, got {self.phase:g}")
        if not 1 <= self.rules <= RULES:
            raise InvalidInput(
                f"the release is judged by rules {self.rules}, which this version of mlflow-istio doesn't know: go on with the one "
                "that began it, or abort it"
            )
        if not 0 < self.alone_limit < 1:
            raise InvalidInput(f"alone_limit is a rate between 0 and 1, got {self.alone_limit}")
        if self.capacity not in ("fixed", "follow"):
            raise InvalidInput(f"capacity is 'fixed' or 'follow', not {self.capacity!r}")
        if self.surge is not None:
            check_surge_words(self.surge)
            if self.capacity == "fixed":
                raise InvalidInput(
                    "option 'surge' has no effect with capacity=fixed, which leaves replicas alone: leave it out"
                )
        names = [guard.name for guard in self.guards]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidInput(f"guard '{twice[0]}' is there twice: give each its own name")
        self._check_watch()
        known = [*(f"{step:g}" for step in self.steps), "promotion"]
        for gate in self.approval.before if self.approval else ():
            if gate not in known:
                raise InvalidInput(f"approval before {gate!r}: there is no such step; there are {', '.join(known)}")

    def _check_watch(self) -> None:
        if self.keep_old is not None and self.keep_old < 0:
            raise InvalidInput(f"keep_old can't be negative, got {self.keep_old:g} s")
        if not self.watch:
            return
        if not 0 < self.watch <= LONGEST_WATCH:
            raise InvalidInput(f"watch is from 0 to {LONGEST_WATCH:g} seconds, got {self.watch:g}")
        if not 1 <= self.holdback <= 50:
            raise InvalidInput(f"holdback is from 1 to 50 percent, got {self.holdback}")
        if not self.compares:
            raise InvalidInput(
                f"strategy={self.strategy} has no watch after promotion: use canary or blue-green, or leave it out"
            )
        if not self.guards:
            raise InvalidInput("a watch needs something to watch: analysis=none has no guards, so leave 'watch' out")
        if self.keep_old is not None and self.keep_old < self.watch:
            raise InvalidInput(
                f"watch={self.watch:g}s is longer than keep_old={self.keep_old:g}s: the old version must stay for as long as it is "
                "compared with"
            )

    @property
    def candidate(self) -> str:
        """The first candidate; the only one but for ab."""
        return self.candidates[0]

    @property
    def deployments(self) -> tuple[str, ...]:
        """Whose figures are read: the stable first."""
        return (self.stable, *self.candidates)

    @property
    def compares(self) -> bool:
        """Whether the verdict comes from the guards; an A/B/n and a shadow have a comparison of their own."""
        return self.strategy in ("canary", "blue-green")

    @property
    def guarded(self) -> bool:
        """Whether the guards can roll it back: those of several arms would blame the good for what a bad one does."""
        return bool(self.guards) and (self.compares or (self.strategy == "ab" and len(self.candidates) == 1))

    @property
    def heartbeat(self) -> float:
        """Seconds a driver counts as alive after its last sign of life."""
        return 3 * self.interval + 5

    def webhook_gates(self, event: Event) -> tuple[Webhook, ...]:
        """Who is asked at an event."""
        return tuple(hook for hook in self.webhooks if event in hook.events)


def check_steps(strategy: str, steps: tuple[float, ...]) -> None:
    """Refuse steps that the strategy can't take.

    Raises:
        InvalidInput: Says what it can take.
    """
    if not steps:
        raise InvalidInput("a release needs at least one step, such as 5,25,50")
    if any(not 0 <= step <= 100 for step in steps) or list(steps) != sorted(set(steps)):
        raise InvalidInput(f"steps must rise from 0 to 100 percent, got {', '.join(f'{step:g}' for step in steps)}")
    if strategy == "blue-green" and steps not in ((0, 100), (100,)):
        raise InvalidInput("strategy=blue-green switches everything at once: leave 'steps' out")
    if strategy in ("canary", "ab"):
        if any(step != int(step) for step in steps):
            raise InvalidInput("steps are whole percents")
        if steps[0] == 0 or steps[-1] == 100:
            whole = ", and strategy=blue-green switches everything at once" if steps == (100,) else ""
            raise InvalidInput(
                f"strategy={strategy} compares two versions that both have traffic: steps go from 1 to 99{whole}"
            )
    if strategy == "shadow" and steps[0] == 0:
        raise InvalidInput("a shadow gets more than 0 percent")


def auto_guards(margin: float | None = None, allowed: NonInferiorityMargin | None = None) -> tuple[GuardPlan, ...]:
    """What ``analysis=auto`` watches: errors, latency, and gross failure of either.

    Errors have four fifths of alpha: a failed request hurts, and a margin of 1.25 keeps slow answers from false alarms anyway.

    Args:
        margin: Odds ratio still acceptable for errors; latency's is never below its own default.
        allowed: What must be proven of both; None: odds within 1.5, or one percentage point of errors and five of slow answers.
    """
    return (
        GuardPlan(
            name="errors",
            kind="errors",
            weight=4.0,
            margin=1.0 if margin is None else margin,
            allowed=allowed or NonInferiorityMargin(odds_ratio=1.5, rate_difference=0.01),
        ),
        GuardPlan(
            name="latency",
            kind="latency",
            margin=max(LATENCY_MARGIN, margin or 0.0),
            allowed=allowed or NonInferiorityMargin(odds_ratio=1.5, rate_difference=0.05),
        ),
        gross_guard(),
    )


def stream_guards(margin: float | None = None, allowed: NonInferiorityMargin | None = None) -> tuple[GuardPlan, ...]:
    """What ``analysis=auto`` watches where answers may be streamed: errors, the first token, cut streams, and failure beyond doubt.

    How long a whole answer takes is none of it, since a longer one is not a slower one. What is asked of streams waits until the
    stable has given some.

    Args:
        margin: Odds ratio still acceptable for errors and cut streams; the first token's is never below latency's own default.
        allowed: As for ``auto_guards``; the first token's is latency's, and of cut streams nothing must be proven.
    """
    errors, latency, _ = auto_guards(margin, allowed)
    return (
        errors,
        replace(latency, name="ttft", kind="ttft", streams=True),
        GuardPlan(name="unfinished", kind="unfinished", margin=errors.margin, streams=True),
        gross_guard(streams=True),
    )


def gross_guard(*, streams: bool = False) -> GuardPlan:
    """The rule for what needs no statistics; it has a small share of alpha."""
    return GuardPlan(name="gross", kind="gross", weight=GROSS_WEIGHT, streams=streams)


def _dependence(plan: ReleasePlan) -> str:
    """What is taken for granted of how requests hang together."""
    bursts = "" if plan.overdispersion == 1 else f", phi {plan.overdispersion:g}"
    if plan.phase is None:
        return f"slow phases as long as the stable's history shows, else of up to {PHASE_UNKNOWN:g} s{bursts}"
    return (f"slow phases of up to {plan.phase:g} s" if plan.phase else "requests are independent") + bursts


def describe_plan(plan: ReleasePlan) -> tuple[str, ...]:
    """The plan in words, one line for each thing."""
    what = "mirrored" if plan.strategy == "shadow" else "of the traffic"
    steps = ", ".join(f"{step:g}%" for step in plan.steps)
    requests = f" and {plan.min_requests:,} requests of the candidate" if plan.guards else ""
    lines = [
        f"{plan.strategy} of {', '.join(plan.candidates)} against {plan.stable}",
        f"steps: {steps} {what}, each at least {plan.hold:g} s{requests}",
        f"looks: every {plan.interval:g} s; the first {plan.warmup:g} s of its traffic don't count",
        f"deadline: {plan.deadline:g} s; then inconclusive, and traffic "
        + ("returns to the stable" if plan.undecided == "rollback" else "stays as it is"),
    ]
    if plan.capacity == "follow":
        most = (
            "" if plan.surge is None else f"; all versions together at most {plan.surge} more than the stable has now"
        )
        lines.append(f"replicas: before each step as many as its share needs of the stable's, ready{most}")
    if plan.warm == "auto":
        lines.insert(
            1,
            f"first warmed by its input example, or recorded requests, until it has settled (at most {LONGEST_WARMING:g} s)",
        )
    if not plan.guards:
        lines.append("no guards: steps go by time alone")
    elif not plan.compares:
        compared = "what it answers" if plan.strategy == "shadow" else "each arm"
        lines.append(f"decided by comparing {compared} with the stable")
    if plan.guarded:
        lines += [f"guard {guard.describe()}" for guard in plan.guards]
        lines.append(
            f"rollback: at most {100 * plan.alpha:g}% of releases of a candidate within every margin ({_dependence(plan)}); "
            f"missing data: {plan.no_data}"
        )
    if plan.approval:
        by = f"tag '{plan.approval.tag}' or " if plan.approval.tag else ""
        lines.append(
            f"approval before {', '.join(plan.approval.before)}: by {by}'mlflow-istio approve'; without an answer in "
            f"{plan.approval.timeout:g} s: {plan.approval.default}"
        )
    lines += [f"webhook {hook.shown}: {', '.join(hook.events)}" for hook in plan.webhooks]
    lines.append("then promotion" if plan.promote else "then it stops before promotion")
    if plan.watch:
        lines.append(
            f"then a watch of {plan.watch:g} s: {plan.holdback}% of the traffic stays on {plan.stable}, and all of it returns if "
            f"{', '.join(plan.candidates)} turns worse (at most {100 * plan.alpha:g}% of watches of one that doesn't); slow "
            "answers are judged against the watch's own beginning"
        )
    if plan.keep_old is not None:
        lines.append(f"{plan.stable} is deleted {plan.keep_old:g} s after the promotion")
    return tuple(lines)
