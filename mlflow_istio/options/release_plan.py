"""From the options of a release to its plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from mlflow_istio.core.analysis.means import Direction
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.stored import parsed, shortened
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.moves.holdback import check_can_be_held_back
from mlflow_istio.core.release.guards.base import OPTIONAL_TERMS, GuardTerms
from mlflow_istio.core.release.guards.table import kind_of
from mlflow_istio.core.release.plan import (
    RULES,
    Approval,
    GuardPlan,
    ReleasePlan,
    Webhook,
    auto_guards,
    gross_guard,
    shown_address,
    stream_guards,
)
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.entries import above_zero_at, list_at, number_at, text_at
from mlflow_istio.options.kpi import read_kpis
from mlflow_istio.options.release import ReleaseOptions, SourceOptions

WARM_REQUESTS = 300
"""A fresh process is slow for its first hundreds of requests, and no clock knows when they were."""

STREAM_KINDS = frozenset({"ttft", "tpot", "tokens", "unfinished"})

PROMETHEUS_SETTLE = 60.0
"""Seconds until a change of weights is seen in Prometheus for sure, at the usual scrape intervals."""


_HOSTS_OF_SECRETS = (
    *(
        "hooks.slack.com",
        "discord.com",
        "discordapp.com",
        "webhook.office.com",
        "outlook.office.com",
        "hooks.zapier.com",
    ),
    *("api.telegram.org", "chat.googleapis.com", "api.opsgenie.com", "events.pagerduty.com", "logic.azure.com"),
)
"""Services whose webhooks are let in by who knows the path."""


def plan_of(
    options: ReleaseOptions, endpoint: Endpoint, candidates: tuple[str, ...], *, streams: bool = False
) -> ReleasePlan:
    """The plan that the options make for an endpoint as it is; ``streams``: whose answers may be streamed.

    Raises:
        InvalidInput: Names the option and what to do.
    """
    watched = endpoint.release is not None and endpoint.release.watching is not None
    if options.watch is not None and not watched:
        check_can_be_held_back(endpoint)
    return plan_against(options, endpoint.stable.name, candidates, streams=streams)


def plan_against(
    options: ReleaseOptions, stable: str, candidates: tuple[str, ...], *, streams: bool = False
) -> ReleasePlan:
    """The plan that the options make for candidates that are compared with this stable.

    Raises:
        InvalidInput: Names the option and what to do.
    """
    strategy = options.strategy or "canary"
    steps = options.steps or _usual_steps(strategy, len(candidates))
    if strategy in ("canary", "ab") and len(steps) > 1 and steps[-1] == 100:
        steps = steps[:-1]  # the switch to all is the promotion itself
    settle = options.settle
    if settle is None:
        settle = PROMETHEUS_SETTLE if options.source == "prometheus" else 0.0
    guards = _guards(options, streams=streams)
    return ReleasePlan(
        strategy=strategy,
        stable=stable,
        candidates=candidates,
        steps=steps,
        interval=options.interval,
        hold=options.hold,
        min_requests=options.min_requests,
        warmup=options.warmup,
        settle=settle,
        deadline=options.deadline,
        guards=guards,
        alpha=options.alpha,
        overdispersion=options.phi,
        phase=options.phase,
        label_delay=options.label_delay,
        warm_requests=_warm_requests(options),
        control=options.control if strategy == "canary" and guards else "none",
        rules=RULES,
        alone_limit=options.alone_limit,
        no_data=options.no_data,
        undecided=options.undecided,
        promote=options.promote,
        approval=_approval(options),
        webhooks=_webhooks(options.webhooks),
        source=source_of(options),
        capacity=options.capacity or "fixed",
        surge=options.surge,
        warm=options.warm,
        watch=0.0 if options.watch is None else options.watch.total_seconds(),
        holdback=options.holdback if options.watch is not None else 5,
        keep_old=None if options.keep_old is None else options.keep_old.total_seconds(),
    )


def source_of(options: SourceOptions) -> dict[str, Any]:
    """What ``resume`` needs to find the same figures; KPIs that are Python callables can't be stored."""
    named = {
        "metrics": options.metrics,
        "prometheus_url": _without_password(options.prometheus_url),
        "envoy_url": _without_password(options.envoy_url),
        "errors": options.errors,
        "compare": dict(options.compare) if isinstance(options.compare, Mapping) else options.compare,
        "delta": options.delta,
        "randomised": options.randomised,
    }
    source: dict[str, Any] = {
        name: value for name, value in named.items() if value != SourceOptions.model_fields[name].default
    }
    kpi = options.kpi
    if isinstance(kpi, Mapping) and all(isinstance(entry, Mapping) and "call" not in entry for entry in kpi.values()):
        source["kpi"] = {name: dict(entry) for name, entry in kpi.items()}
    return source


def _without_password(url: str | None) -> str | None:
    """The address as everybody may read it on the object; who resumes gives the password again, or has it in the environment."""
    if url is None:
        return None
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{re.split('[?#]', rest, maxsplit=1)[0].rpartition('@')[2]}"


def _warm_requests(options: ReleaseOptions) -> int:
    if options.warm_requests is not None:
        return options.warm_requests
    return WARM_REQUESTS if options.warmup else 0


def _usual_steps(strategy: str, arms: int) -> tuple[float, ...]:
    return {
        "canary": (5.0, 25.0, 50.0),
        "blue-green": (0.0, 100.0),
        "shadow": (100.0,),
        "ab": (float(100 // (arms + 1)),),
    }[strategy]


def _guards(options: ReleaseOptions, *, streams: bool) -> tuple[GuardPlan, ...]:
    given = options.analysis
    if isinstance(given, str) and given not in ("auto", "none"):
        given = _read_file(given)
    allowed = _allowed(options.allowed, "allowed")
    if given == "none":
        return ()
    if given == "auto":
        guards = (stream_guards if streams else auto_guards)(options.margin, allowed)
    elif isinstance(given, list):
        guards = tuple(_guard(entry, options.margin, allowed) for entry in given)
        if guards and not any(guard.kind == "gross" for guard in guards):
            kinds = {guard.kind for guard in guards}
            guards = (*guards, gross_guard(streams="latency" not in kinds and bool(kinds & STREAM_KINDS)))
            if any(guard.name == guards[-1].name for guard in guards[:-1]):
                raise InvalidInput(
                    f"option 'analysis': the name '{guards[-1].name}' belongs to the rule for gross failure, which every "
                    "release has: give your guard another"
                )
    else:
        raise InvalidInput(f"option 'analysis' must be auto, none or a list of guards, not {given!r}")
    return (*guards, *_kpi_guards(options.kpi, {guard.name for guard in guards}))


def _read_file(path: str) -> Any:
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as exc:  # ValueError: no path can be this text
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidInput(
            f"option 'analysis' is {shortened(repr(path))}: neither auto nor none, and no file that can be read ({why})"
        ) from exc
    return parsed(content, f"file '{path}' (option 'analysis')")


def _like(kind: str) -> tuple[str, ...]:
    """The kinds whose terms are usually those of this one."""
    return ("ttft", "tpot") if kind == "ttft" else (kind,)


_GUARD_KEYS = ("guard", "name", "margin", "weight", "allowed", "worse", "limit", "slower_than", "edges")


def _guard(entry: Any, margin: float | None, allowed: NonInferiorityMargin | None) -> GuardPlan:
    """One guard of the option ``analysis``."""
    if not isinstance(entry, Mapping) or "guard" not in entry:
        raise InvalidInput(f'option \'analysis\': a guard is an object such as {{"guard": "errors"}}, not {entry!r}')
    unknown = [key for key in entry if key not in _GUARD_KEYS]
    if unknown:
        raise InvalidInput(f"option 'analysis': unknown key {unknown[0]!r}: {nearest(unknown[0], _GUARD_KEYS)}")
    kind = str(entry["guard"])
    reads = kind_of(GuardTerms(name=kind, kind=kind)).reads
    for key in OPTIONAL_TERMS:
        if key in entry and key not in reads:
            raise InvalidInput(f"option 'analysis': '{key}' has no effect on guard '{kind}': leave it out")
    usual = {
        **{
            kind: replace(guard, streams=False)
            for guard in stream_guards(margin, allowed)
            for kind in _like(guard.kind)
        },
        **{guard.kind: guard for guard in auto_guards(margin, allowed)},
    }
    base = usual.get(kind)
    terms = {key: _term(kind, key, value) for key, value in entry.items() if key not in ("guard", "allowed")}
    proof = _allowed(entry.get("allowed"), f"analysis: allowed of {kind}")
    values: dict[str, Any] = {"name": kind, "kind": kind, **terms}
    if base is not None:
        values = {"name": kind, "kind": kind, "margin": base.margin, "weight": base.weight, **terms}
    values["allowed"] = proof or (base.allowed if base else NonInferiorityMargin())
    return GuardPlan(**values)


def _term(kind: str, key: str, value: Any) -> Any:
    """A term of a guard as its kind reads it: what JSON holds may be anything."""
    place = f"option 'analysis': {key} of guard '{kind}'"
    if key == "edges":
        return tuple(above_zero_at(place, edge) for edge in list_at(place, value))
    if key == "worse":
        if value not in get_args(Direction):
            raise InvalidInput(f"{place} is 'higher' or 'lower', not {value!r}")
        return value
    if key in ("limit", "slower_than") and value is None:
        return None
    reading = {"name": text_at, "slower_than": above_zero_at}.get(key, number_at)
    return reading(place, value)


def _kpi_guards(kpis: Any, taken: set[str]) -> tuple[GuardPlan, ...]:
    """A guard for every KPI that the analysis does not name itself; a callable without a kind counts events."""
    guards = []
    for kpi in read_kpis(kpis):
        if kpi.name in taken:
            continue
        numeric = "sum" in kpi.queries
        proof = (
            NonInferiorityMargin(difference=kpi.equivalence_margin)
            if numeric
            else NonInferiorityMargin(odds_ratio=kpi.equivalence_margin)
        )
        guards.append(
            GuardPlan(
                name=kpi.name,
                kind="mean" if numeric else "rate",
                margin=kpi.margin if kpi.margin is not None else (0.0 if numeric else 1.0),
                worse="lower" if kpi.better == "higher" else "higher",
                allowed=proof,
            )
        )
    return tuple(guards)


def _allowed(value: Any, what: str) -> NonInferiorityMargin | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        known = ("odds_ratio", "rate_difference", "difference")
        for key in value:
            if key not in known:
                raise InvalidInput(f"option '{what}': unknown key {key!r}: {nearest(key, known)}")
        return NonInferiorityMargin(
            **{key: number_at(f"option '{what}': {key}", number) for key, number in value.items()}
        )
    try:
        number = number_at(what, value)
    except InvalidInput as exc:
        raise InvalidInput(f"option '{what}' must be a number or JSON, not {shortened(repr(value))}") from exc
    return NonInferiorityMargin(odds_ratio=number) if number > 1 else NonInferiorityMargin(rate_difference=number)


def _approval(options: ReleaseOptions) -> Approval | None:
    given = options.approval
    if given is None:
        return None
    values: dict[str, Any] = {"timeout": options.approval_timeout, "default": options.approval_default}
    if isinstance(given, Mapping):
        known = ("before", "tag")
        for key in given:
            if key not in known:
                raise InvalidInput(f"option 'approval': unknown key {key!r}: {nearest(key, known)}")
        values["tag"] = given.get("tag")
        given = given.get("before", "promotion")
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    return Approval(before=tuple(str(part).strip() for part in parts), **values)


def _shown(entry: Any) -> str:
    """An entry that can't be read; what of it is an address is shown as scheme and host."""
    return re.sub(r"https?://\S+", lambda match: shown_address(match.group()), str(entry))


def _secret_in(url: str) -> str:
    """What of an address may be a secret; empty where nothing looks like one, which is no proof."""
    if url.startswith("env:"):
        return ""
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in authority:
        return "a user"
    if "?" in url:
        return "a query"
    path = rest.removeprefix(authority)
    host = authority.partition(":")[0].lower()
    if path.strip("/") and any(host == known or host.endswith(f".{known}") for known in _HOSTS_OF_SECRETS):
        return "a path that is the key to it"
    runs = re.findall(r"[A-Za-z0-9]{16,}", path)
    if any(re.search("[0-9]", run) and re.search("[A-Za-z]", run) for run in runs):
        return "what looks like a token in its path"
    return ""


def _webhooks(given: Any) -> tuple[Webhook, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    hooks = []
    for entry in given if isinstance(given, list) else [given]:
        values: dict[str, Any] = (
            {"url": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
        )
        unknown = [key for key in values if key not in ("url", "events", "timeout")]
        url = str(values.get("url", ""))
        if unknown or not re.fullmatch(r"https?://.+|env:[A-Za-z_][A-Za-z0-9_]*", url, re.DOTALL):
            raise InvalidInput(
                f"option 'webhooks': {_shown(entry)!r} needs a 'url' (http, https, or env:NAME for what a variable of the driver's "
                "environment holds), and may have 'events' and 'timeout'"
            )
        secret = _secret_in(url)
        if secret:
            raise InvalidInput(
                f"option 'webhooks': the address at {shown_address(url)} has {secret}, which may be a secret and would stand on "
                "the endpoint's object: put it into an environment variable of whoever drives the release, and give 'env:NAME'"
            )
        place = f"option 'webhooks': {{}} of {shown_address(url)}".format
        if "events" in values:
            events = list_at(place("events"), values["events"])
            values["events"] = tuple(text_at(place("events"), event) for event in events)
        if "timeout" in values:
            values["timeout"] = number_at(place("timeout"), values["timeout"])  # 1 and 1.0 are one plan
        hooks.append(Webhook(**values))
    return tuple(hooks)
