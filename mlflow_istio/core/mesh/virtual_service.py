"""VirtualService <-> Traffic: reads and rewrites only our own routes and the one that carries the split.

Our routes of endpoint E stand together, right above the route that carries the split, in this order:
``mlflow-istio.E.probe``, ``.pin.DEPLOYMENT``..., ``.answer`` (redirect or maintenance), ``.rule.NAME``..., ``.arm.DEPLOYMENT``...,
``.expire.RELEASE``... (stale cookies), then ``mlflow-istio.E.split`` (or an adopted route). While a fault is on, each of the last
four kinds has a faulted copy right above it.
Every other route, and every field of the split's route that is not ours, stays an equal JSON value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_istio.core.basics.objects import UNREADABLE, Object, is_own_route, name_of, prefix, with_annotations
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.endpoint.endpoint import (
    ChangeMetadata,
    Endpoint,
    deployed_annotation,
    deployed_names,
    endpoint_from,
    route_name,
    state_annotations,
    with_change,
    writes_routes,
)
from mlflow_istio.core.endpoint.traffic import Arm, Destination, Mirror, SessionAffinity, Traffic, WeightedDestination
from mlflow_istio.core.matching.pin_guard import KEY_HEADER, OPEN, guard_match, has_gateway, is_key
from mlflow_istio.core.matching.probe import PIN_HEADER, PROBE_HEADER
from mlflow_istio.core.matching.shape import told_by_shape
from mlflow_istio.core.mesh.own_matches import PROBE, both, combined, outer_matches, subtracted
from mlflow_istio.core.mesh.standing_routes import as_they_stand
from mlflow_istio.core.policy.header_rules import Meeting, meetings, portable
from mlflow_istio.core.policy.overlay import flat_headers, met
from mlflow_istio.core.policy.routes import (
    Written,
    answer_of,
    deployment_headers,
    expiring,
    policy_annotation,
    rule_action,
    stale_match,
    with_entry_headers,
    with_route_policy,
    written_policy,
)
from mlflow_istio.core.policy.settings import Policy
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict

_INHERITED = ("timeout", "retries", "rewrite", "corsPolicy", "headers")
"""Fields that a temporary route takes over from the split's route, so that a pinned or assigned user gets the same treatment."""

_STICKY = re.compile(
    r"(?P<cookie>[^=]+)=(?P<release>[^.;]+)\.(?P<deployment>[^;]+); Path=/; Max-Age=(?P<age>\d+); SameSite=Lax"
)


def header_match(name: str, value: str) -> Object:
    """The match of requests that carry a header with exactly this value."""
    return {"headers": {name.lower(): {"exact": value}}}


def cookie_match(name: str, value: str) -> Object:
    """The match of requests whose ``cookie`` header holds this cookie; anchored, so no other cookie's end can match."""
    return {"headers": {"cookie": {"regex": f"(.*; ?)?{re.escape(name)}={re.escape(value)}(;.*)?"}}}


@told_by_shape
def read_endpoint(virtual_service: Mapping[str, Any], name: str) -> Endpoint:
    """Read one endpoint from its VirtualService.

    Args:
        virtual_service: The raw object.
        name: The endpoint.

    Raises:
        NotFound: The route that carries the split is missing.
        StateConflict: It is there twice, or holds something no split can.
        InvalidInput: The annotations are damaged.
    """
    base = split_route(virtual_service, name)
    own = [route for route in routes_of(virtual_service) if is_own_route(route, name)]
    policy = written_policy(virtual_service, name).policy
    deployed = deployed_names(virtual_service, name)
    try:
        traffic = _read_traffic(name, base, own, policy, deployed)
    except InvalidInput as exc:
        raise StateConflict(
            f"VirtualService '{name_of(virtual_service)}': route '{base['name']}' of endpoint '{name}' was edited to something no "
            f"split can be ({exc.message}): mend it, or delete the endpoint with 'mlflow-istio delete-endpoint --force'"
        ) from exc
    endpoint = endpoint_from(virtual_service, name, traffic)
    if deployed is None and endpoint.release is not None:
        for candidate in endpoint.release.candidates:
            endpoint = replace(endpoint, traffic=endpoint.traffic.with_pin(candidate))
    return as_they_stand(routes_of(virtual_service), base, endpoint)


@told_by_shape
def write_endpoint(virtual_service: Mapping[str, Any], endpoint: Endpoint) -> Object:
    """A copy of the VirtualService in which one endpoint is as given; everything else is equal to what it was.

    A header route that is missing or bent is written again, since no user notices; any other only for who asks for it
    (``with_every_route``), since its deployment may be gone: until then one that somebody bent stays as it is.

    Raises:
        NotFound: The route that carries the split is missing.
        StateConflict: A foreign destination of that route would be lost.
        InvalidInput: The traffic can't be expressed beside what the route already holds.
    """
    base = split_route(virtual_service, endpoint.name)
    rendered, written = _render(base, endpoint, written_policy(virtual_service, endpoint.name))
    routes: list[Object] = []
    for route in routes_of(virtual_service):
        if route is base:
            routes.extend(rendered)
        elif not is_own_route(route, endpoint.name):
            routes.append(route)
    changed = {**virtual_service, "spec": {**virtual_service["spec"], "http": routes}}
    annotations = {**state_annotations(endpoint), **policy_annotation(endpoint.name, written)}
    return with_annotations(changed, {**annotations, **deployed_annotation(endpoint)})


def note_endpoint(virtual_service: Mapping[str, Any], endpoint: Endpoint) -> Object:
    """A copy of the VirtualService whose annotations say that the endpoint is as given; its routes stay as they stand."""
    return with_annotations({**virtual_service}, {**state_annotations(endpoint), **deployed_annotation(endpoint)})


def first_endpoint(virtual_service: Mapping[str, Any], endpoint: Endpoint, change_metadata: ChangeMetadata) -> Object:
    """A fresh VirtualService (rendered from its template, without routes) that carries a new endpoint."""
    bare: Object = {
        **virtual_service,
        "spec": {**virtual_service["spec"], "http": [{"name": endpoint.route, "route": []}]},
    }
    return write_endpoint(bare, with_change(None, endpoint, change_metadata, ""))


def with_guard(endpoint: Endpoint, change_metadata: ChangeMetadata, *front: Mapping[str, Any]) -> Endpoint:
    """The endpoint with a key for its pinned routes, if it is to have one and has none yet.

    Args:
        endpoint: The endpoint.
        change_metadata: Brings the key.
        front: The VirtualServices at which callers arrive; a gateway at any of them asks for a key.
    """
    if not change_metadata.fresh_key or endpoint.guard == OPEN or is_key(endpoint.guard):
        return endpoint
    if endpoint.guard is None and not any(has_gateway(obj) for obj in front):
        return endpoint
    return replace(endpoint, guard=change_metadata.fresh_key)


def changed(
    virtual_service: Object, after: Endpoint, change_metadata: ChangeMetadata, root: Object | None = None
) -> Object:
    """The VirtualService after a transition, with the change's entry in the same object.

    The same object comes back when the change is already there (a lost reply) or there is nothing to change. One that only
    pauses or resumes the open release, or notes its progress, writes no entry. Nor does a probe route that somebody took away or
    bent: it is written again, since without it no proxy could ever prove what is stored. Whatever writes an entry also guards the
    pins of an endpoint at a gateway that is not guarded yet.

    Args:
        virtual_service: The object.
        after: The endpoint after the transition.
        change_metadata: Who, when, why.
        root: The VirtualService that delegates to it, if one does.
    """
    before = read_endpoint(virtual_service, after.name)
    if before.has_change(change_metadata.id):
        return virtual_service
    if not writes_routes(before, after):
        noted = virtual_service if after == before else note_endpoint(virtual_service, after)
        return _with_probe(noted, after) if _lacks_probe(noted, after) else noted
    version = str(virtual_service["metadata"].get("resourceVersion", ""))
    after = with_guard(after, change_metadata, virtual_service, root or {})
    return write_endpoint(virtual_service, with_change(before, after, change_metadata, version))


def routes_of(virtual_service: Mapping[str, Any]) -> Sequence[Object]:
    """The http routes, in order."""
    return (virtual_service.get("spec") or {}).get("http") or []


def split_route(virtual_service: Mapping[str, Any], endpoint: str) -> Object:
    """The route that carries an endpoint's split: ours, or an adopted one.

    Raises:
        NotFound: It is missing.
        StateConflict: It is there twice, or can't carry a split.
    """
    if UNREADABLE in virtual_service:
        raise InvalidInput(str(virtual_service[UNREADABLE]))
    wanted = route_name(virtual_service, endpoint)
    named = [route for route in routes_of(virtual_service) if route.get("name") == wanted]
    where = f"VirtualService '{name_of(virtual_service)}'"
    if not named:
        raise NotFound(
            f"{where} has no http route named '{wanted}', which carries the traffic of endpoint '{endpoint}': "
            "somebody renamed or removed it; restore it, or delete the endpoint with 'mlflow-istio delete-endpoint --force'"
        )
    if len(named) > 1:
        raise StateConflict(f"{where} has {len(named)} http routes named '{wanted}': give each its own name")
    for field in ("redirect", "directResponse", "delegate"):
        if field in named[0]:
            raise StateConflict(f"{where}: route '{wanted}' is a {field}, which carries no split: name another route")
    return named[0]


def with_every_route(endpoint: Endpoint) -> Endpoint:
    """The endpoint with all of its routes wanted back as they were written; equal where they are."""
    return replace(endpoint, missing=(), bent={}, order=())


def _with_probe(virtual_service: Object, endpoint: Endpoint) -> Object:
    """The VirtualService with the probe route that belongs there above the others, which stay as they stand."""
    base, probe = split_route(virtual_service, endpoint.name), f"{prefix(endpoint.name)}{PROBE}"
    others = [route for route in routes_of(virtual_service) if route.get("name") != probe]
    ours = [index for index, route in enumerate(others) if route is base or is_own_route(route, endpoint.name)]
    others.insert(ours[0], _temporary(PROBE, _asked(endpoint), {"directResponse": _proof(endpoint)}, base, endpoint))
    return {**virtual_service, "spec": {**virtual_service["spec"], "http": others}}


def _lacks_probe(virtual_service: Mapping[str, Any], endpoint: Endpoint) -> bool:
    """Whether no route above the split answers with the endpoint's newest change."""
    for route in routes_of(virtual_service):
        if route.get("name") == endpoint.route:
            break
        if route.get("name") == f"{prefix(endpoint.name)}{PROBE}":
            return route.get("directResponse") != _proof(endpoint)
    return True


def _asked(endpoint: Endpoint) -> list[Object]:
    """The match of requests that ask for the newest change."""
    return [{"headers": {PROBE_HEADER: {"exact": "1"}, **guard_match(endpoint.guard)}}]


def _proof(endpoint: Endpoint) -> Object:
    """The answer by which a proxy proves that it has the endpoint's newest change."""
    return {"status": 200, "body": {"string": endpoint.change}}


def _read_traffic(
    endpoint: str, base: Object, own: Sequence[Object], policy: Policy, deployed: Sequence[str] | None
) -> Traffic:
    entries = base.get("route") or []
    cookies = [sticky for entry in entries if (sticky := _read_sticky(entry))]
    pins = [_last(route, endpoint, "pin.") for route in own] if deployed is None else deployed
    outer = outer_matches(endpoint, own, base)
    arms = [
        Arm(deployment=name, match=subtracted(outer, route.get("match") or []))
        for route in own
        if (name := _last(route, endpoint, "arm."))
    ]
    return Traffic(
        split=tuple(_read_share(entry, endpoint, alone=len(entries) == 1) for entry in entries),
        pins=tuple(sorted({pin for pin in pins if pin})),
        arms=tuple(arms),
        mirrors=tuple(read_mirror(mirror, endpoint) for mirror in base.get("mirrors") or []),
        sticky=cookies[0] if cookies else None,
        policy=policy,
    )


def _read_share(entry: Mapping[str, Any], endpoint: str, *, alone: bool) -> WeightedDestination:
    weight = 100 if alone else entry.get("weight", 0)  # Istio: an only destination gets all, whatever its weight
    return WeightedDestination(
        destination=from_json(Destination, entry["destination"], endpoint=endpoint), weight=weight
    )


def read_mirror(entry: Mapping[str, Any], endpoint: str | None = None) -> Mirror:
    """A mirror of an endpoint as Istio writes it."""
    percentage = entry.get("percentage", {"value": 100.0}).get("value", 0.0)  # Istio: no percentage means all
    return Mirror(destination=from_json(Destination, entry["destination"], endpoint=endpoint), percentage=percentage)


def _last(route: Object, endpoint: str, part: str) -> str:
    start = prefix(endpoint) + part
    name = str(route.get("name", ""))
    return name[len(start) :] if name.startswith(start) else ""


def _read_sticky(entry: Mapping[str, Any]) -> SessionAffinity | None:
    cookie = entry.get("headers", {}).get("response", {}).get("add", {}).get("set-cookie", "")
    parts = _STICKY.fullmatch(cookie)
    if not parts or parts["deployment"] != entry["destination"].get("subset"):
        return None
    return SessionAffinity(cookie=parts["cookie"], release=parts["release"], max_age=int(parts["age"]))


def _render(base: Object, endpoint: Endpoint, before: Written) -> tuple[list[Object], Written]:
    """All of the endpoint's routes, and what of the split's route is ours now."""
    traffic, policy = endpoint.traffic, endpoint.traffic.policy
    with_policy, under = with_route_policy(base, before, policy)
    split, under_entries = _render_split(with_policy, endpoint, before)
    inherited = {field: with_policy[field] for field in _INHERITED if field in with_policy}

    def temporary(name: str, match: Sequence[Object], action: Object) -> Object:
        return _temporary(name, match, action, base, endpoint)

    carried = _carried(base, endpoint)

    def to(deployment: str) -> Object:
        headers = deployment_headers(policy, deployment, carried)
        return {"destination": to_json(endpoint.destination(deployment)), **({"headers": headers} if headers else {})}

    guard = guard_match(endpoint.guard)
    routes = [temporary(PROBE, _asked(endpoint), {"directResponse": _proof(endpoint)})]
    pinned = _without_key(inherited) if guard else inherited
    routes += [
        temporary(f"pin.{pin}", [{"headers": {PIN_HEADER: {"exact": pin}, **guard}}], {"route": [to(pin)], **pinned})
        for pin in traffic.pins
    ]
    answer = answer_of(policy.route)
    live: list[tuple[str, Sequence[Object], Object]] = [
        *([("answer", (), answer)] if answer is not None else []),
        *(
            (f"rule.{rule.name}", rule.match, rule_action(rule, to(rule.deployment), inherited))
            for rule in policy.rules
        ),
        *((f"arm.{arm.deployment}", arm.match, {"route": [to(arm.deployment)], **inherited}) for arm in traffic.arms),
        *((f"expire.{stale.release}", [stale_match(stale)], expiring(stale, split)) for stale in policy.stale),
    ]
    for name, match, action in live:
        if name in endpoint.missing and not name.startswith("arm."):
            continue
        kept = endpoint.bent.get(name) if not name.startswith("expire.") else None
        if kept is not None:
            routes += [*_faulted_as_it_stands(policy, name, kept, endpoint), kept]
        else:
            routes += [*_faulted(policy, name, match, action, temporary), temporary(name, match, action)]
    same = {key: value for key, value in split.items() if key not in ("name", "match")}
    routes += [*_faulted(policy, "split", (), same, temporary), split]
    return routes, Written(policy=policy, originals={"": under, **under_entries}, carried=carried)


def _temporary(name: str, match: Sequence[Object], action: Object, base: Object, endpoint: Endpoint) -> Object:
    """A route of ours, whose matches stand inside those of the split's route."""
    whole = combined(base.get("match"), match or [{}], base)
    return {"name": prefix(endpoint.name) + name, **({"match": whole} if whole != [{}] else {}), **action}


def _faulted(
    policy: Policy,
    name: str,
    match: Sequence[Object],
    action: Object,
    temporary: Callable[[str, Sequence[Object], Object], Object],
) -> list[Object]:
    """The copy of a live route that carries the fault, for the requests that match both."""
    fault = policy.fault
    if fault is None or "route" not in action:
        return []
    if "fault" in action and "fault" not in policy.replaced:
        raise StateConflict(
            f"the split's route has a fault of its own ({action['fault']}): it stays, unless you say -C replace=true"
        )
    merged = [
        both(route_condition, fault_condition, {"name": name}, same=True)
        for route_condition in match or [{}]
        for fault_condition in fault.match or [{}]
    ]
    return [
        temporary(
            f"fault.{name}", [condition for condition in merged if condition], {**action, "fault": fault.as_istio()}
        )
    ]


def _faulted_as_it_stands(policy: Policy, name: str, kept: Object, endpoint: Endpoint) -> list[Object]:
    """The copy with the fault of a route that somebody bent; none where nobody's request can be meant by both."""
    action = {key: value for key, value in kept.items() if key not in ("name", "match")}
    if policy.fault is None or "fault" in action:
        return []

    def whole(name: str, match: Sequence[Object], action: Object) -> Object:
        return _temporary(name, match, action, {}, endpoint)

    try:
        return _faulted(policy, name, kept.get("match") or [], action, whole)
    except InvalidInput:
        return []


def _render_split(base: Object, endpoint: Endpoint, before: Written) -> tuple[Object, dict[str, Any]]:
    traffic = endpoint.traffic
    old_entries = {from_json(Destination, entry["destination"]): entry for entry in base.get("route") or []}
    _keep_foreign(old_entries, {share.destination for share in traffic.split}, endpoint, base)
    entries, under, carried = [], {}, _carried(base, endpoint)
    for share in traffic.split:
        entry, name = old_entries.get(share.destination), share.destination.name
        rendered = _with_weight(share, entry, endpoint)
        if endpoint.owns(share.destination):
            if _read_sticky(rendered):
                rendered = _with_cookie(rendered, None)
            rendered, under[name] = with_entry_headers(
                rendered, name, before, traffic.policy, carried, fresh=entry is None
            )
        entries.append(_with_cookie(rendered, traffic.sticky if endpoint.owns(share.destination) else None))
    split: Object = {**base, "route": entries}
    old_mirrors = {from_json(Destination, mirror["destination"]): mirror for mirror in base.get("mirrors") or []}
    _keep_foreign(old_mirrors, {mirror.destination for mirror in traffic.mirrors}, endpoint, base)
    if traffic.mirrors and "mirror" in base:
        raise InvalidInput(
            f"route '{base.get('name')}' has a 'mirror' of its own, which Istio does not allow beside 'mirrors': "
            "write yours as an entry of 'mirrors'"
        )
    split.pop("mirrors", None)
    if traffic.mirrors:
        split["mirrors"] = [_render_mirror(mirror, old_mirrors.get(mirror.destination)) for mirror in traffic.mirrors]
    return split, under


def owners_destination(route: Object, endpoint: Endpoint) -> Object | None:
    """The destination of an adopted route that users had before us, as it stands there today; None: nothing tells which it is."""
    if endpoint.adopted is None:
        return None
    entries = {from_json(Destination, entry["destination"]): entry for entry in route.get("route") or []}
    theirs = {destination: entry for destination, entry in entries.items() if not endpoint.owns(destination)}
    only = next(iter(theirs.values()), None) if len(theirs) == 1 else None
    return theirs.get(endpoint.adopted.stable) or theirs.get(endpoint.stable) or only


def _carried(base: Object, endpoint: Endpoint) -> Object:
    """Header rules of the owner's destination that our own have, too, so that users keep them wherever they are sent."""
    owners = owners_destination(base, endpoint) or {}
    return portable(owners.get("headers"), sticky=endpoint.traffic.sticky is not None)[0]


def header_meetings(virtual_service: Mapping[str, Any], name: str) -> tuple[Meeting, ...]:
    """The headers that an endpoint's route treats together with one of its destinations, whoever wrote either; each once."""
    base, endpoint = split_route(virtual_service, name), read_endpoint(virtual_service, name)
    policy, carried = endpoint.traffic.policy, _carried(base, endpoint)
    entries = {
        from_json(Destination, entry["destination"], endpoint=name).name: entry.get("headers")
        for entry in base["route"]
    }
    own = {pin: deployment_headers(policy, pin, carried) for pin in policy.headers}
    meeting_headers = [
        meeting
        for pin, headers in {**own, **entries}.items()
        for meeting in meetings(base.get("headers"), headers, pin)
    ]
    for rule in policy.rules:
        meeting_headers += meetings(
            rule.policy.headers, deployment_headers(policy, rule.deployment, carried), rule.deployment
        )
    return tuple(
        {
            (meeting.side, meeting.header, meeting.route, meeting.destination): meeting
            for meeting in reversed(meeting_headers)
        }.values()
    )[::-1]


def headers_said_twice(virtual_service: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The headers of which somebody says something at the same place as we, since we did: both are carried out."""
    base, written = split_route(virtual_service, name), written_policy(virtual_service, name)
    places = {f"route '{base['name']}'": (base, flat_headers(written.policy.route.headers))}
    for entry in base.get("route") or []:
        if (pin := entry["destination"].get("subset")) in written.policy.headers:
            places[f"destination '{pin}'"] = (entry, flat_headers(written.policy.headers[pin]))
    return tuple(
        f"{where} has {'.'.join(path)} beside our rule for that header, and proxies carry out both"
        for where, (document, settings) in places.items()
        for path in met(document, settings)
    )


def _with_weight(share: WeightedDestination, old: Object | None, endpoint: Endpoint) -> Object:
    """A destination of the split; what it says already stays as it is, so that an untouched one is equal."""
    unsaid = 100 if len(endpoint.traffic.split) == 1 else 0
    if old is None or old.get("weight", unsaid) != share.weight:
        return {**(old or {"destination": to_json(share.destination)}), "weight": share.weight}
    return old


def _render_mirror(mirror: Mirror, old: Object | None) -> Object:
    if old is not None and read_mirror(old) == mirror:
        return old
    return {
        **(old or {"destination": to_json(mirror.destination)}),
        "percentage": {"value": mirror.percentage},
    }


def _keep_foreign(
    old: Mapping[Destination, Object], wanted: set[Destination], endpoint: Endpoint, base: Object
) -> None:
    lost = [d.name for d in old if d not in wanted and not endpoint.owns(d)]
    if lost:
        raise StateConflict(
            f"route '{base.get('name')}' has destination '{lost[0]}', which endpoint '{endpoint.name}' does not own: "
            "it is never removed; give it a weight (0 will do)"
        )


def _with_cookie(entry: Object, sticky: SessionAffinity | None) -> Object:
    headers = entry.get("headers", {})
    response = headers.get("response", {})
    add = dict(response.get("add", {}))
    subset = entry["destination"].get("subset")
    if any(name.lower() == "set-cookie" for name in add) and not _read_sticky(entry):
        if sticky:
            raise InvalidInput(
                f"destination '{subset}' already adds a 'set-cookie' header: stickiness by cookie can't add another"
            )
        return entry
    if not sticky and "set-cookie" not in add:
        return entry
    add.pop("set-cookie", None)
    if sticky:
        add["set-cookie"] = f"{sticky.cookie}={sticky.release}.{subset}; Path=/; Max-Age={sticky.max_age}; SameSite=Lax"
    rest = {key: value for key, value in response.items() if key != "add"}
    new_response = {**rest, **({"add": add} if add else {})}
    other = {key: value for key, value in headers.items() if key != "response"}
    new_headers = {**other, **({"response": new_response} if new_response else {})}
    bare = {key: value for key, value in entry.items() if key != "headers"}
    return {**bare, **({"headers": new_headers} if new_headers else {})}


def _without_key(inherited: Object) -> Object:
    """What a pinned route takes over, and that the key goes no further than the proxy."""
    headers = inherited.get("headers") or {}
    request = headers.get("request") or {}
    removed = [*(request.get("remove") or ()), KEY_HEADER]
    return {**inherited, "headers": {**headers, "request": {**request, "remove": removed}}}
