"""Which options mean nothing beside which others: a table for each verb, read from the top, and what is said of the first.

What a call says is refused. What only the environment says is a default for whichever verb it may concern: where it means nothing,
it is as if it had not been said, and no abort is refused for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mlflow_istio.core.moves.strategies import traffic_options
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.analysis import CompareOptions
from mlflow_istio.options.base import ConnectionOptions, CreateOptions, TrafficAsked, UpdateEndpointOptions
from mlflow_istio.options.routes import FaultOptions, RouteOptions
from mlflow_istio.options.shared import SETTINGS

Model = TypeVar("Model", bound=ConnectionOptions)


@dataclass(frozen=True, slots=True)
class Idle(Generic[Model]):
    """Options that would do nothing.

    Attributes:
        options: Their names; the first that is given is refused.
        when: When they would do nothing.
        words: Beside what, and what to do instead, with values of other options in braces.
    """

    options: tuple[str, ...]
    when: Callable[[Model], bool]
    words: str


AnyTraffic = TypeVar("AnyTraffic", bound=TrafficAsked)

AnyCreate = TypeVar("AnyCreate", bound=CreateOptions)

_OF_A_NEW_ENDPOINT = ("champion_alias", "challenger_alias", "host", "foreign_host", "export_to", "pins")
_ASKS = ("weight", "weights", "mirror", "header", "cookie", "values", "match", "arms")
_MOVES = ("action", "strategy", "candidate", *_ASKS, "supersede", "force", "release_id", "keep_old", "to", "redeploy")

_UPDATE_ENDPOINT: tuple[Idle[UpdateEndpointOptions], ...] = (
    Idle(
        ("to",),
        lambda update: update.action != "rollback",
        "goes with action=rollback only: it names the change to go back to",
    ),
    Idle(("redeploy",), lambda update: update.to is None, "has no effect without 'to': leave it out"),
    Idle(
        (*_ASKS, "strategy", "candidate", "release_id"),
        lambda update: update.to is not None,
        "has no effect with action=rollback and 'to': leave it out",
    ),
    Idle(
        ("keep_old",),
        lambda update: update.action != "promote",
        "has no effect without action=promote: leave it out",
    ),
    Idle(
        (*_ASKS, "strategy"),
        lambda update: update.action is not None,
        "has no effect with action={action}: give one or the other",
    ),
    Idle(
        ("candidate",),
        lambda update: update.action not in (None, "promote"),
        "has no effect with action={action}: leave it out",
    ),
    Idle(
        ("release_id",),
        lambda update: update.action in ("pause", "resume"),
        "has no effect with action={action}: leave it out",
    ),
)

_CREATE: tuple[Idle[CreateOptions], ...] = (
    Idle(
        ("path", "match_header"),
        lambda create: create.under is None,
        "has no effect without 'under': name the host that the endpoint shares",
    ),
    Idle(("foreign_host",), lambda create: not create.host, "has no effect without 'host': leave it out"),
    Idle(
        ("export_to",),
        lambda create: create.under is not None,
        "has no effect with 'under': who sees '{under}' sees what stands under it; leave it out",
    ),
    Idle(
        ("stable",),
        lambda create: create.virtual_service is None and create.route is None,
        "has no effect without 'virtual_service' and 'route': leave it out",
    ),
    Idle(
        ("under",),
        lambda create: create.virtual_service is not None,
        "has no effect with 'virtual_service', whose hosts and routes stay: leave one out",
    ),
    Idle(
        ("export_to",),
        lambda create: create.virtual_service is not None,
        "has no effect with 'virtual_service', whose exportTo stays as it is: leave it out",
    ),
    Idle(
        ("host",),
        lambda create: create.virtual_service is not None,
        "has no effect with 'virtual_service', whose hosts stay as they are: leave it out",
    ),
)

_OF_OUR_PODS = (
    *(
        "replicas",
        "env",
        "env_manager",
        "max_body",
        "drain",
        "image",
        "serving_image",
        "command",
        "args",
        "model_source",
        "model_path",
        "resources",
    ),
    *(
        "service_account",
        "node_selector",
        "tolerations",
        "annotations",
        "image_pull_secrets",
        "env_from_secret",
        "hardened",
    ),
    *("service_account_token", "disk_limit", "wait"),
)
_ATTACHED: tuple[Idle[Any], ...] = (
    Idle(
        _OF_OUR_PODS,
        lambda create: create.attach is not None,
        "has no effect with attach={attach}, whose owner says how it runs and is scaled: leave it out",
    ),
    Idle(
        ("port",),
        lambda create: create.attach is not None and "://" in create.attach,
        "has no effect with attach={attach}, which has a port: leave it out",
    ),
)

_ROUTE: tuple[Idle[RouteOptions], ...] = (
    Idle(("to", "match", "name"), lambda route: route.remove is not None, "has no effect with 'remove': leave it out"),
)

_FAULT: tuple[Idle[FaultOptions], ...] = (
    Idle(("delay", "abort", "match"), lambda fault: fault.end, "has no effect with 'end': leave it out"),
)

_COMPARE: tuple[Idle[CompareOptions], ...] = (
    Idle(
        ("absolute", "relative"),
        lambda compare: compare.answers != "numbers",
        "has no effect with answers={answers}: it goes with numbers",
    ),
    Idle(
        ("similarity", "scorer"),
        lambda compare: compare.answers != "text",
        "has no effect with answers={answers}: it goes with text",
    ),
)

_KINDS: Mapping[str, tuple[str, ...]] = {
    "policy": (*SETTINGS, "subset", "route", "replace"),
    "route": ("add_route", "remove_route"),
    "fault": ("fault",),
    "traffic": _MOVES,
}
"""The changes that ``update-endpoint`` makes, with the options that each takes; one call makes one of them."""


def check_update_endpoint(options: UpdateEndpointOptions, given: Collection[str]) -> UpdateEndpointOptions:
    """The options of ``update-endpoint`` that mean something together.

    Args:
        options: All of them.
        given: Names of the options of the call.

    Raises:
        InvalidInput: The call says one that means nothing; names the first.
    """
    options = _heeded(options, _UPDATE_ENDPOINT, given)
    candidates = options.candidate or ()
    if options.action == "promote" and len(candidates) > 1:
        raise InvalidInput(f"only one candidate can be promoted, not {len(candidates)}")
    if options.strategy is not None or len(candidates) > 1:
        return without_traffic_of_other_strategies(options, options.strategy or "ab", given)
    return without(options, [name for name in ("header", "cookie", "values", "arms") if name not in given])


def check_create(
    options: CreateOptions, given: Collection[str] = CreateOptions.model_fields, *, exists: bool = True
) -> CreateOptions:
    """The options of ``create`` that mean something together.

    Args:
        options: All of them.
        given: Names of the options of the call.
        exists: Whether the endpoint does: its first deployment gets all the traffic, and its aliases are chosen with it.

    Raises:
        InvalidInput: The call says one that means nothing, or something is missing; names the first.
    """
    adopts = {"virtual_service": options.virtual_service, "route": options.route}
    missing = [name for name, value in adopts.items() if value is None]
    if len(missing) == 1:
        (option,) = adopts.keys() - set(missing)
        if option in given:
            raise InvalidInput(
                f"to take over a route give both 'virtual_service' and 'route': '{missing[0]}' is missing"
            )
        options = without(options, [option])
    options = heed_attached(_heeded(options, _CREATE, given), given)
    only_first = not exists and options.virtual_service is None
    passed_over = ("strategy", *_ASKS) if only_first else _OF_A_NEW_ENDPOINT if exists else ()
    options = without(options, [name for name in passed_over if name not in given])
    return without_traffic_of_other_strategies(options, options.strategy, given)


def heed_attached(options: AnyCreate, given: Collection[str]) -> AnyCreate:
    """The options without what only the environment says of pods of ours, where something else is attached.

    Raises:
        InvalidInput: The call says one; names the first.
    """
    heeded: AnyCreate = _heeded(options, _ATTACHED, given)
    return heeded


def without_traffic_of_other_strategies(
    options: AnyTraffic, strategy: str | None, given: Collection[str]
) -> AnyTraffic:
    """The options without what only the environment says of the traffic and the strategy does not take.

    Args:
        options: All of them.
        strategy: The strategy; None: whichever a weight or a match means.
        given: Names of the options of the call.
    """
    takes = traffic_options(strategy or "canary")
    return without(options, [name for name in _ASKS if name not in takes and name not in given])


def check_route(options: RouteOptions, given: Collection[str]) -> RouteOptions:
    """The options of ``route`` that mean something together.

    Args:
        options: All of them.
        given: Names of the options of the call.

    Raises:
        InvalidInput: The call says one that means nothing, or something is missing; names it.
    """
    options = _heeded(options, _ROUTE, given)
    if options.remove is None and (options.to is None or not options.match):
        missing = "to" if options.to is None else "match"
        raise InvalidInput(f"a route of its own needs 'to' (a deployment) and 'match': '{missing}' is missing")
    return options


def check_fault(options: FaultOptions, given: Collection[str]) -> FaultOptions:
    """The options of ``fault`` that mean something together.

    Args:
        options: All of them.
        given: Names of the options of the call.

    Raises:
        InvalidInput: The call says one that means nothing; names the first.
    """
    return _heeded(options, _FAULT, given)


def check_compare(options: CompareOptions, given: Collection[str] = CompareOptions.model_fields) -> CompareOptions:
    """The options of ``compare`` that mean something together.

    Args:
        options: All of them.
        given: Names of the options of the call.

    Raises:
        InvalidInput: The call says one that means nothing; names the first.
    """
    return _heeded(options, _COMPARE, given)


IDLE_IN_REDEPLOY = frozenset(
    {
        *("virtual_service", "route", "stable", "under", "path", "match_header", *_OF_A_NEW_ENDPOINT),
        *(*_MOVES, *SETTINGS, "subset", "replace"),
        *(*ConnectionOptions.model_fields, "dry_run", "reason", "wait", "templates", "take_over"),
    }
)
"""What ``create`` takes for a new endpoint, for a release or for itself, and not for the pods of a deployment that comes back."""


def check_redeploy(redeploy: Collection[str]) -> None:
    """Refuse options that do nothing for a deployment that comes back.

    Raises:
        InvalidInput: Names the first.
    """
    for name in redeploy:
        if name in IDLE_IN_REDEPLOY:
            raise InvalidInput(
                f"option '{name}' has no effect in 'redeploy', which says how the pods of a deployment come back: leave it out"
            )


def kind_of_update(given: Collection[str]) -> str:
    """Which change ``update-endpoint`` is asked for: ``policy``, ``route``, ``fault`` or ``traffic``.

    Args:
        given: Names of the options of the call.

    Raises:
        InvalidInput: It is asked for two of them.
    """
    named = {kind: [name for name in names if name in given] for kind, names in _KINDS.items()}
    if named["fault"] and named["policy"] == ["replace"]:
        named["policy"] = []  # which is about the fault that is there
    asked = [kind for kind, names in named.items() if names]
    if len(asked) > 1:
        first, other = named[asked[0]][0], named[asked[-1]][0]
        raise InvalidInput(f"'{first}' and '{other}' are changes of two kinds: give each a call of its own")
    return asked[0] if asked else "traffic"


def options_of_kind(kind: str) -> tuple[str, ...]:
    """The options of one kind of change."""
    return _KINDS[kind]


def without_defaults_of_other_kinds(
    options: UpdateEndpointOptions, kind: str, given: Collection[str]
) -> UpdateEndpointOptions:
    """The options without what only the environment says of changes of other kinds than the one that is asked for."""
    others = [name for other, names in _KINDS.items() if other != kind for name in names]
    return without(options, [name for name in others if name not in given])


def without(options: Model, names: Collection[str]) -> Model:
    """The options as if some had not been said."""
    return options.model_copy(update={name: _usual(options, name) for name in names})


def _heeded(options: Model, table: Sequence[Idle[Model]], given: Collection[str]) -> Model:
    for row in table:
        for name in row.options:
            if not row.when(options) or not is_said(options, name):
                continue
            if name in given:
                raise _no_effect(options, name, row)
            options = without(options, [name])
    return options


def refuse_idle(options: Model, table: Sequence[Idle[Model]], given: Collection[str]) -> None:
    """Refuse options that mean nothing beside others; the environment's stay, for the verb to pass over.

    Args:
        options: All of them.
        table: What means nothing beside what.
        given: Names of the options of the call.

    Raises:
        InvalidInput: The call says one that means nothing; names the first.
    """
    for row in table:
        for name in row.options:
            if name in given and row.when(options) and is_said(options, name):
                raise _no_effect(options, name, row)


def _no_effect(options: Model, name: str, row: Idle[Model]) -> InvalidInput:
    return InvalidInput(f"option '{name}' {row.words.format_map(dict(options))}")


def is_said(options: ConnectionOptions, name: str) -> bool:
    """Whether an option is another than it is by default."""
    return bool(getattr(options, name) != _usual(options, name))


def _usual(options: ConnectionOptions, name: str) -> object:
    """What an option is that nobody says."""
    usual: object = type(options).model_fields[name].get_default(call_default_factory=True)
    return usual
