"""Take over one named route of a VirtualService that was there before us, and give it back.

The VirtualService, its name, its hosts and every other route stay its owner's. What we add are our own routes right above the
named one, destinations in it, and our annotations; all of that goes again, and the destinations become what they were.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import (
    UNREADABLE,
    Object,
    annotations_of,
    is_own_route,
    name_of,
    prefix,
    with_annotations,
)
from mlflow_istio.core.basics.stored import from_json, parsed
from mlflow_istio.core.endpoint.adopted import Adopted
from mlflow_istio.core.endpoint.endpoint import (
    PARTS,
    ChangeMetadata,
    Endpoint,
    annotation,
    has_endpoint,
    route_name,
    with_change,
)
from mlflow_istio.core.endpoint.traffic import Destination, Traffic, WeightedDestination, attached_host
from mlflow_istio.core.matching.entrance import entrance_at
from mlflow_istio.core.matching.shape import told_by_shape
from mlflow_istio.core.mesh.virtual_service import (
    header_meetings,
    owners_destination,
    read_endpoint,
    read_mirror,
    routes_of,
    split_route,
    with_guard,
    write_endpoint,
)
from mlflow_istio.core.policy.header_rules import portable
from mlflow_istio.core.policy.settings import NO_POLICY
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict


def endpoints_in(virtual_service: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the endpoints that the VirtualService carries, in order."""
    if UNREADABLE in virtual_service:
        return (name_of(virtual_service),)  # whoever reads it is told why
    start = annotation("", "state")
    names = (key.removeprefix(start) for key in annotations_of(virtual_service) if key.startswith(start))
    return tuple(sorted(name for name in names if has_endpoint(virtual_service, name)))


def several_carriers(virtual_services: Iterable[Mapping[str, Any]], name: str) -> str:
    """What is to be said where more than one VirtualService carries an endpoint; empty where that isn't so."""
    carriers = [name_of(obj) for obj in virtual_services if has_endpoint(obj, name)]
    if len(carriers) < 2:
        return ""
    both = " and ".join(f"'{carrier}'" for carrier in sorted(carriers))
    return (
        f"{len(carriers)} VirtualServices carry endpoint '{name}', {both}: somebody applied an older one, or a copy; delete the "
        f"one that does not count, or take its annotations '*.{name}' and its routes '{prefix(name)}*' away"
    )


def copied_state(virtual_services: Iterable[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    """What is to be said of VirtualServices that hold an endpoint's state and do not carry it."""
    key = annotation(name, "state")
    return tuple(
        f"VirtualService '{name_of(obj)}' is a copy of one that carries endpoint '{name}': no change reaches its routes; delete "
        f"it, or take its annotations '*.{name}' and its routes '{prefix(name)}*' away"
        for obj in virtual_services
        if key in annotations_of(obj) and not has_endpoint(obj, name)
    )


@told_by_shape
def adopt(
    virtual_service: Object,
    name: str,
    route: str,
    change_metadata: ChangeMetadata,
    *,
    stable: str | None = None,
    settings: Mapping[str, str] | None = None,
    sequence: int = 0,
    guard: str | None = None,
    services: Sequence[str] = (),
) -> Object:
    """The VirtualService with one of its routes carrying an endpoint; its present destination is stable.

    The same object comes back when the endpoint has that route already.

    Args:
        virtual_service: Somebody's object.
        name: The endpoint; also the name of the Service and DestinationRule its deployments will have.
        route: Name of the http route.
        change_metadata: Who, when, why.
        stable: Which destination is stable, where several have weight: its subset, HOST or HOST:PORT.
        settings: Small settings of the endpoint.
        sequence: How many changes an endpoint of that name had before.
        guard: What guards its pinned routes; None: it depends on whether there is a gateway.
        services: Hosts behind which a Service stands.

    Raises:
        NotFound: There is no such route.
        StateConflict: It is there twice, carries no split, or belongs to another endpoint.
        InvalidInput: It can't be told which destination is stable, or no request of ours could reach the route.
    """
    where = f"VirtualService '{name_of(virtual_service)}'"
    if has_endpoint(virtual_service, name):
        adopted = read_endpoint(virtual_service, name)
        if adopted.adopted and adopted.route == route:
            return virtual_service
        raise StateConflict(
            f"{where} already carries endpoint '{name}' in route '{adopted.route}': use another endpoint name"
        )
    base = _adoptable(virtual_service, route, where)
    entrance_at(virtual_service, base)
    entries = [dict(entry) for entry in base["route"]]
    shares = _shares(entries, name, where, route)
    chosen = _stable(shares, stable, where, route)
    mine = [share.destination.host for share in shares if share.destination.host.split(".")[0] == name]
    if mine:
        raise StateConflict(
            f"{where}: route '{route}' already goes to a Service '{mine[0]}', and endpoint '{name}' needs one of that name for "
            "its own deployments: give the endpoint another name"
        )
    endpoint = Endpoint(
        name=name,
        traffic=Traffic(split=shares, mirrors=tuple(read_mirror(mirror, name) for mirror in base.get("mirrors") or [])),
        stable=chosen,
        route=route,
        sequence=sequence,
        settings=dict(settings or {}),
        guard=guard,
        adopted=Adopted(
            virtual_service=name_of(virtual_service), stable=chosen, route=tuple(entries), services=tuple(services)
        ),
    )
    version = str(virtual_service["metadata"].get("resourceVersion", ""))
    endpoint = with_guard(endpoint, change_metadata, virtual_service)
    return write_endpoint(_marked(virtual_service, endpoint), with_change(None, endpoint, change_metadata, version))


@told_by_shape
def given_back(virtual_service: Object, name: str) -> Object:
    """The VirtualService without the endpoint: the adopted route has its destinations back, everything else stays as it is now.

    What its owner changed meanwhile stays: fields of the destinations, too, and where other destinations than at the adoption
    stand in the route now, those keep their weights.

    Raises:
        StateConflict: The endpoint adopted nothing.
        NotFound: The route is gone.
        InvalidInput: The annotations are damaged.
    """
    endpoint = read_endpoint(virtual_service, name)
    if endpoint.adopted is None:
        raise StateConflict(f"endpoint '{name}' adopted no route: there is nothing to give back")
    plain = replace(endpoint, traffic=replace(endpoint.traffic, policy=NO_POLICY))
    virtual_service = write_endpoint(virtual_service, plain)  # its owner's fields under ours are back
    base = split_route(virtual_service, name)
    return without_endpoint(virtual_service, name, base, _former(base.get("route") or [], name, endpoint.adopted))


def without_endpoint(virtual_service: Object, name: str, base: Object | None, entries: Sequence[Object]) -> Object:
    """The VirtualService without an endpoint's routes and annotations, and with these destinations in the route it had."""
    routes: list[Object] = []
    for route in routes_of(virtual_service):
        if is_own_route(route, name):
            continue
        routes.append(_restored(route, name, entries) if route is base else route)
    changed = {**virtual_service, "spec": {**virtual_service["spec"], "http": routes}}
    return with_annotations(changed, {annotation(name, part): None for part in PARTS})


@told_by_shape
def torn_out(virtual_service: Object, name: str) -> Object:
    """The VirtualService without an endpoint whose annotations can't be read any more, as well as can be told.

    Raises:
        StateConflict: A route would be left without a destination; says which, and what to do.
    """
    carrying = (r for r in routes_of(virtual_service) if not is_own_route(r, name))
    base = next((r for r in carrying if any(_is_ours(entry, name) for entry in r.get("route") or [])), None)
    if base is None:
        return without_endpoint(virtual_service, name, None, ())
    former = None
    with contextlib.suppress(KeyError, TypeError, InvalidInput):  # what of the annotation can't be read
        state = parsed(annotations_of(virtual_service)[annotation(name, "state")], "the state")
        former = _former(base["route"], name, from_json(Adopted, state["adopted"], endpoint=name))
    if former is not None:
        return without_endpoint(virtual_service, name, base, former)
    theirs = [entry for entry in base["route"] if not _is_ours(entry, name)]
    if not theirs:
        raise StateConflict(
            f"VirtualService '{name_of(virtual_service)}': route '{base.get('name')}' has no destinations but endpoint '{name}', "
            "and what it had before can't be read: write its destination into the route, then delete again"
        )
    return without_endpoint(virtual_service, name, base, _filled_up(theirs, 0))


def header_warnings(virtual_service: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """What becomes otherwise of headers by a deployment of ours beside, or in the place of, its owner's destinations.

    Rules of the destination that users had are carried over to deployments; those of others, and a few that no deployment can
    have, are not. Where the route treats the same header, its value rests on how many destinations there are.
    """
    base, endpoint = split_route(virtual_service, name), read_endpoint(virtual_service, name)
    kept, sticky = owners_destination(base, endpoint), endpoint.traffic.sticky is not None
    warnings = [str(meeting) for meeting in header_meetings(virtual_service, name)]
    for entry in base.get("route") or []:
        rules = (entry.get("headers") or {}) if not _is_ours(entry, name) else {}
        rules_here = portable(rules, sticky=sticky)[1] if entry is kept else _rules_said(rules)
        if rules_here:
            destination = from_json(Destination, entry["destination"], endpoint=name)
            warnings.append(
                f"destination '{destination.name}' of route '{base['name']}' has headers of its own ({'; '.join(rules_here)}), "
                f"which users of endpoint '{name}' don't get from a deployment: write them at the route, whose "
                "headers are for all of its users"
            )
    return tuple(warnings)


def _rules_said(rules: Mapping[str, Any]) -> list[str]:
    return [
        f"{side} {operation} {', '.join(map(str, headers))}"
        for side, operations in rules.items()
        for operation, headers in (operations or {}).items()
    ]


def looks_adopted(virtual_service: Mapping[str, Any], name: str) -> bool:
    """Whether an endpoint that can't be read has its routes in somebody's VirtualService, not in one of its own.

    Its stored state says so or, where that is damaged, the routes that are left.
    """
    with contextlib.suppress(KeyError, TypeError, InvalidInput):
        state = parsed(annotations_of(virtual_service)[annotation(name, "state")], "the state")
        if state["adopted"]["virtualService"] == name_of(virtual_service):
            return True
    own = [route for route in routes_of(virtual_service) if is_own_route(route, name)]
    return bool(own) and all(route["name"] != f"{prefix(name)}split" for route in own)


def _adoptable(virtual_service: Object, route: str, where: str) -> Object:
    """The route of that name, if it can carry a split."""
    spec = virtual_service.get("spec", {})
    if not spec.get("hosts"):
        raise StateConflict(
            f"{where} has no hosts, so it is a delegate, and another one chooses its requests: adopt a route of one with hosts"
        )
    routes = routes_of(virtual_service)
    named = [entry for entry in routes if entry.get("name") == route]
    if len(named) > 1:
        raise StateConflict(f"{where} has {len(named)} http routes named '{route}': give each its own name")
    if not named:
        raise NotFound(_missing(spec, routes, route, where))
    for field in ("redirect", "directResponse", "delegate"):
        if field in named[0]:
            raise StateConflict(f"{where}: route '{route}' is a {field}, which carries no split: name another route")
    if is_own_route(named[0]):
        raise StateConflict(f"{where}: route '{route}' is one of mlflow-istio's own: name another route")
    for other in endpoints_in(virtual_service):
        if route_name(virtual_service, other) == route:
            raise StateConflict(
                f"{where}: route '{route}' is adopted by endpoint '{other}' already: delete that one first"
            )
    if not named[0].get("route"):
        raise StateConflict(f"{where}: route '{route}' has no destination: name another route")
    return named[0]


def _missing(spec: Mapping[str, Any], routes: Sequence[Object], route: str, where: str) -> str:
    named = [str(entry["name"]) for entry in routes if entry.get("name")]
    unnamed = [index for index, entry in enumerate(routes) if not entry.get("name")]
    text = f"{where} has no http route named '{route}': {nearest(route, named)}"
    if unnamed:
        text += (
            f"; {'one' if len(unnamed) == 1 else len(unnamed)} without a name (spec.http[{unnamed[0]}]): give the one you mean "
            f"a name (spec.http[{unnamed[0]}].name: {route}) and run the command again"
        )
    others = [kind for kind in ("tls", "tcp") if spec.get(kind)]
    if others and not routes:
        text += f"; its {' and '.join(others)} routes carry no HTTP requests, so they can't be adopted"
    return text


def _shares(entries: Sequence[Object], endpoint: str, where: str, route: str) -> tuple[WeightedDestination, ...]:
    """The route's destinations with weights that sum to 100, as Istio understands them."""
    destinations = [from_json(Destination, entry["destination"], endpoint=endpoint) for entry in entries]
    weights = [100 if len(entries) == 1 else int(entry.get("weight", 0)) for entry in entries]
    live = [index for index, weight in enumerate(weights) if weight > 0]
    if len(live) == 1:
        weights = [100 if index == live[0] else 0 for index in range(len(weights))]
    if sum(weights) != 100:
        listed_weights = ", ".join(f"{d.name}={w}" for d, w in zip(destinations, weights, strict=True))
        raise InvalidInput(
            f"{where}: weights of route '{route}' must sum to 100, not {sum(weights)} ({listed_weights}): set them first"
        )
    shares = tuple(WeightedDestination(destination=d, weight=w) for d, w in zip(destinations, weights, strict=True))
    twice = sorted({d.name for d in destinations if [other.name for other in destinations].count(d.name) > 1})
    if twice:
        raise InvalidInput(f"{where}: route '{route}' has destination '{twice[0]}' twice: join the two first")
    return shares


def _stable(shares: Sequence[WeightedDestination], stable: str | None, where: str, route: str) -> Destination:
    names = [share.destination.name for share in shares]
    if stable is not None:
        chosen = [share.destination for share in shares if share.destination.name == stable]
        if not chosen:
            raise InvalidInput(f"{where}: route '{route}' has no destination '{stable}': {nearest(stable, names)}")
        return chosen[0]
    live = [share.destination for share in shares if share.weight]
    if len(live) > 1:
        raise InvalidInput(
            f"{where}: route '{route}' splits between {' and '.join(d.name for d in live)}, so it can't be told which of them a "
            f"candidate is to replace: say so with -C stable={live[0].name}, or give one of them all the weight first"
        )
    return live[0]


def _marked(virtual_service: Object, endpoint: Endpoint) -> Object:
    """The object with the one fact that rewriting it needs: which route carries the endpoint's split."""
    return with_annotations(
        virtual_service, {annotation(endpoint.name, "state"): json.dumps({"route": endpoint.route})}
    )


def _is_ours(entry: Mapping[str, Any], name: str) -> bool:
    destination = entry.get("destination") or {}
    own = attached_host(str(destination["subset"])) if destination.get("subset") else name
    return bool(destination.get("host") in (name, own))


def _former(entries: Sequence[Object], name: str, adopted: Adopted) -> list[Object]:
    """The destinations as they were, with what their owner changed meanwhile."""
    theirs = {from_json(Destination, e["destination"]): e for e in entries if not _is_ours(e, name)}
    before = {from_json(Destination, entry["destination"]): entry for entry in adopted.route}
    if not theirs:
        return list(adopted.route)
    if theirs.keys() == before.keys():
        return [_weighing(theirs[destination], entry.get("weight")) for destination, entry in before.items()]
    stable = list(theirs).index(adopted.stable) if adopted.stable in theirs else 0
    return _filled_up(list(theirs.values()), stable)


def _filled_up(entries: Sequence[Object], stable: int) -> list[Object]:
    """Destinations with what is missing from 100 given to one of them; an only one gets everything as it is."""
    missing = 100 - sum(int(entry.get("weight", 0)) for entry in entries)
    if len(entries) == 1 or missing <= 0:
        return list(entries)
    return [
        {**entry, "weight": int(entry.get("weight", 0)) + missing} if index == stable else entry
        for index, entry in enumerate(entries)
    ]


def _weighing(entry: Object, weight: int | None) -> Object:
    rest = {key: value for key, value in entry.items() if key != "weight"}
    return rest if weight is None else {**rest, "weight": weight}


def _restored(route: Object, name: str, entries: Sequence[Object]) -> Object:
    restored: Object = {**route, "route": list(entries)}
    mirrors = [mirror for mirror in route.get("mirrors") or [] if not _is_ours(mirror, name)]
    if mirrors != (route.get("mirrors") or []):
        restored.pop("mirrors")
        if mirrors:
            restored["mirrors"] = mirrors
    return restored
