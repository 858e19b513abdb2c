"""What holds after any verbs in any order, on our own VirtualService and on a user's that we adopted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.endpoint.deadlines import Deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import ClosedRelease
from mlflow_istio.core.endpoint.traffic import Arm, Destination, Mirror, SessionAffinity, Traffic, WeightedDestination
from mlflow_istio.core.mesh.virtual_service import changed, header_match, read_endpoint, write_endpoint
from mlflow_istio.core.moves import policies, transitions
from mlflow_istio.core.moves.strategies import STRATEGIES, TrafficRequest
from mlflow_istio.core.policy.settings import NO_POLICY, CustomRoute
from mlflow_istio.errors import MlflowIstioError
from tests.support import policy_values
from tests.support.endpoint_values import LEGACY, OTHER, TIME, a_release, a_stamp, adopted, an_endpoint, carrying, own
from tests.support.policy_values import MATCHES

Verb = Callable[[Endpoint], Endpoint]
OURS = ("v1", "v2", "v3", "v4")


@st.composite
def wishes(draw: st.DrawFn) -> TrafficRequest:
    """Any request, most of them one that some strategy takes."""
    weights = draw(st.none() | st.just({"v1": 60, "v2": 40}) | st.just({LEGACY.name: 10, "v2": 60, "other": 30}))
    return TrafficRequest(
        weight=draw(st.none() | st.integers(-1, 101)) if weights is None else None,
        weights=weights,
        mirror=draw(st.none() | st.none() | st.floats(0, 101, allow_nan=False)),
        header=draw(st.none() | st.none() | st.just("x-arm")),
        cookie=draw(st.none() | st.none() | st.just("arm")),
    )


def _start(strategy: str, candidates: Sequence[str], traffic_request: TrafficRequest, number: int) -> Verb:
    def start(now: Endpoint) -> Endpoint:
        release = a_release(
            strategy, *candidates, id=f"r{number}", traffic_request=traffic_request if strategy == "ab" else None
        )
        return transitions.start(now, release, traffic_request)

    return start


@st.composite
def verbs(draw: st.DrawFn) -> tuple[str, Verb]:
    """Any verb with any arguments."""
    kinds = (
        "start",
        "start",
        "shift",
        "promote",
        "abort",
        "rollback",
        "pause",
        "pin",
        "unpin",
        "policy",
        "rule",
        "fault",
    )
    name = draw(st.sampled_from(kinds))
    deployment = draw(st.sampled_from(OURS))
    if name == "start":
        strategy = draw(st.sampled_from(STRATEGIES))
        traffic_request = draw(wishes())
        candidates = draw(st.lists(st.sampled_from(OURS), min_size=1, max_size=2, unique=True))
        return name, _start(strategy, candidates, traffic_request, draw(st.integers(0, 5)))
    if name == "shift":
        traffic_request = draw(wishes())
        return name, lambda now: transitions.shift(now, traffic_request)
    if name == "promote":
        chosen = draw(st.none() | st.just(deployment))
        return name, lambda now: transitions.promote(now, chosen)
    if name == "policy":
        asked = draw(policy_values.wishes(OURS))
        return name, lambda now: policies.set_policy(now, asked)
    if name == "rule":
        rule = CustomRoute(
            name=draw(st.sampled_from(("r", "s"))), deployment=deployment, match=(draw(st.sampled_from(MATCHES)),)
        )
        return name, lambda now: policies.set_rule(now, rule)
    if name == "fault":
        fault = draw(st.none() | st.builds(policy_values.a_fault, match=st.sampled_from(((), (MATCHES[0],)))))
        if fault is None:
            return name, policies.end_fault
        return name, lambda now: policies.start_fault(now, fault)
    if name in ("pin", "unpin"):
        verb = getattr(transitions, name)
        return name, lambda now: verb(now, deployment)
    return name, getattr(transitions, name)


BASES = st.sampled_from((carrying(an_endpoint()), adopted(), adopted(mirrors=[{"destination": to_json(OTHER)}])))


def carried_out(virtual_service: Object, sequence: Sequence[tuple[str, Verb]]) -> list[Object]:
    """The object after each verb that was not refused, the first one included."""
    states = [virtual_service]
    for name, verb in sequence:
        now = read_endpoint(states[-1], "churn")
        try:
            after = changed(states[-1], verb(now), a_stamp(f"c{now.sequence + 1}", name))
        except MlflowIstioError:
            continue
        states.append(after)
    return states


def without_settings(virtual_service: Object) -> Object:
    """The object after every setting of ours was taken away: what stood under them is back."""
    endpoint = read_endpoint(virtual_service, "churn")
    return write_endpoint(virtual_service, replace(endpoint, traffic=replace(endpoint.traffic, policy=NO_POLICY)))


def not_ours(virtual_service: Object) -> Any:
    """What is somebody else's: without our routes, weights, settings and annotations."""
    rest = copy.deepcopy(without_settings(virtual_service))
    http = [r for r in rest["spec"].pop("http") if not str(r.get("name", "")).startswith("mlflow-istio.")]
    for route in http:
        if route.get("name") == "main":
            route["route"] = sorted(
                (
                    {key: value for key, value in entry.items() if key != "weight"}
                    for entry in route["route"]
                    if entry["destination"]["host"] != "churn"
                ),
                key=str,
            )
            route["mirrors"] = [m for m in route.get("mirrors", ()) if m["destination"]["host"] != "churn"]
    annotations = rest["metadata"].pop("annotations", {})
    return rest, http, {key: value for key, value in annotations.items() if "mlflow-istio.org" not in key}


@given(base=BASES, sequence=st.lists(verbs(), max_size=12))
def test_weights_sum_to_100_and_foreign_parts_stay_equal_after_any_verbs(
    base: Object, sequence: list[tuple[str, Verb]]
) -> None:
    kept = copy.deepcopy(base)
    for state in carried_out(base, sequence):
        endpoint = read_endpoint(state, "churn")
        assert sum(share.weight for share in endpoint.traffic.split) == 100
        assert not_ours(state) == not_ours(base)
    assert base == kept, "an input was changed"


@given(base=BASES, sequence=st.lists(verbs(), max_size=12), data=st.data())
def test_any_state_is_written_and_read_back_as_itself(
    base: Object, sequence: list[tuple[str, Verb]], data: st.DataObject
) -> None:
    state = data.draw(st.sampled_from(carried_out(base, sequence)))
    endpoint = read_endpoint(state, "churn")
    again = write_endpoint(state, endpoint)
    assert read_endpoint(again, "churn") == endpoint
    assert write_endpoint(again, endpoint) == again
    assert from_json(Traffic, to_json(endpoint.traffic)) == endpoint.traffic


@given(base=BASES, sequence=st.lists(verbs(), max_size=8), last=verbs())
def test_twice_is_once(base: Object, sequence: list[tuple[str, Verb]], last: tuple[str, Verb]) -> None:
    before = carried_out(base, sequence)[-1]
    name, verb = last
    try:
        once = changed(before, verb(read_endpoint(before, "churn")), a_stamp("x", name))
    except MlflowIstioError:
        return
    twice = changed(once, verb(read_endpoint(once, "churn")), a_stamp("y", name))
    assert twice == once


@given(base=BASES, sequence=st.lists(verbs(), max_size=8), release=verbs(), moves=st.lists(verbs(), max_size=5))
def test_rollback_restores_what_users_had_before_the_release(
    base: Object, sequence: list[tuple[str, Verb]], release: tuple[str, Verb], moves: list[tuple[str, Verb]]
) -> None:
    """Whatever was shifted, and after a promotion, too; a foreign weight that somebody set on purpose stays."""
    quiet = carried_out(base, [*sequence, ("rollback", transitions.rollback)])[-1]
    before = read_endpoint(quiet, "churn")
    name, verb = release
    if before.release is not None or name != "start":
        return
    shifts = [("shift", move) for kind, move in moves if kind == "shift"]
    for end in ((), (("promote", transitions.promote),)):
        states = carried_out(quiet, [("start", verb), *shifts, *end])
        after = read_endpoint(carried_out(states[-1], [("rollback", transitions.rollback)])[-1], "churn")
        if read_endpoint(states[-1], "churn") == before:
            continue  # the release was refused
        assert after.stable == before.stable
        assert after.release is None
        assert (after.traffic.arms, after.traffic.sticky) == ((), None)
        assert set(after.traffic.mirrors) == {m for m in before.traffic.mirrors if not before.owns(m.destination)}
        named = {share.destination.name: share.weight for share in after.traffic.split if share.weight}
        touched = any(OTHER.name in (weights or {}) for weights in _weights_of(states))
        if not touched:
            assert named == {share.destination.name: share.weight for share in before.traffic.split if share.weight}


def _weights_of(states: Sequence[Object]) -> list[dict[str, int]]:
    """Splits in which the weight of a destination that takes no part was changed."""
    weights = [read_endpoint(state, "churn").traffic.weights for state in states]
    return [found for found in weights if found.get(OTHER.name) != weights[0].get(OTHER.name)]


@given(base=BASES, sequence=st.lists(verbs(), max_size=15))
def test_unrecorded_changes_are_in_order_and_chained(base: Object, sequence: list[tuple[str, Verb]]) -> None:
    states = carried_out(base, sequence)
    first, endpoint = read_endpoint(states[0], "churn"), read_endpoint(states[-1], "churn")
    entries = endpoint.outbox
    assert [entry.sequence for entry in entries] == list(range(first.sequence + 1, endpoint.sequence + 1))
    assert len({entry.id for entry in entries}) == len(entries)
    for one, next_one in pairwise(entries):
        assert next_one.before == one.after
    if entries:
        assert entries[-1].after == endpoint.traffic
        assert entries[-1].id == endpoint.change


@given(base=BASES, sequence=st.lists(verbs(), max_size=12))
def test_no_weight_and_no_copy_goes_to_what_is_neither_deployed_nor_foreign(
    base: Object, sequence: list[tuple[str, Verb]]
) -> None:
    known = {LEGACY, OTHER}
    for state in carried_out(base, sequence):
        endpoint = read_endpoint(state, "churn")
        reached = {share.destination for share in endpoint.traffic.split if share.weight}
        reached |= {mirror.destination for mirror in endpoint.traffic.mirrors}
        reached |= {endpoint.destination(arm.deployment) for arm in endpoint.traffic.arms}
        reached |= {endpoint.destination(rule.deployment) for rule in endpoint.traffic.policy.rules}
        assert reached <= known | {endpoint.destination(pin) for pin in endpoint.traffic.pins}


# Values of any shape

NAMES = st.sampled_from(OURS)
DESTINATIONS = (*map(own, OURS), LEGACY, OTHER, Destination(host="h", subset="s", port=1))
OUTER = (None, [{"uri": {"prefix": "/a"}}], [{"method": {"exact": "GET"}}, {"uri": {"exact": "/"}}])
HEADERS = st.sampled_from(("x-a", "x-b"))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    destinations = draw(st.lists(st.sampled_from(DESTINATIONS), min_size=1, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(destinations) - 1, max_size=len(destinations) - 1)))
    weights = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
    arms = draw(st.dictionaries(NAMES, st.lists(st.tuples(HEADERS, TEXTS), min_size=1, max_size=2, unique=True)))
    pinned = tuple(sorted(draw(st.sets(NAMES))))
    sticks = any(d.host == "churn" and d.subset in pinned for d in destinations)
    return Traffic(
        split=tuple(WeightedDestination(destination=d, weight=w) for d, w in zip(destinations, weights, strict=True)),
        pins=pinned,
        arms=tuple(
            Arm(deployment=name, match=tuple(header_match(header, text) for header, text in matches))
            for name, matches in arms.items()
        ),
        mirrors=tuple(
            Mirror(destination=own(name), percentage=draw(st.floats(0, 100) | st.integers(0, 100)))
            for name in draw(st.sets(NAMES))
        ),
        sticky=draw(st.none() | st.just(SessionAffinity(cookie="arm", release="r1", max_age=9))) if sticks else None,
        policy=draw(policy_values.policies(OURS)),
    )


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    closed = ClosedRelease(
        id=draw(TEXTS), strategy="ab", outcome="promoted", candidates=("v1", "v2"), previous=LEGACY, sequence=3
    )
    return an_endpoint(
        traffic=draw(traffics()),
        stable=draw(st.sampled_from((own("v1"), LEGACY))),
        sequence=draw(st.integers(0, 10**6)),
        change=draw(TEXTS),
        release=draw(st.none() | st.builds(a_release, st.just("ab"), id=TEXTS, who=TEXTS, run=st.none() | TEXTS)),
        last=draw(st.none() | st.just(closed)),
        settings=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
        deleting=draw(st.booleans()),
        deadlines=draw(
            st.sampled_from(((), (Deadline(kind="fault", at=TIME), Deadline(kind="keep", at=TIME, what="v1"))))
        ),
    )


@given(endpoint=endpoints(), outer=st.sampled_from(OUTER))
def test_whatever_an_endpoint_holds_it_is_read_as_it_was_written(
    endpoint: Endpoint, outer: list[Object] | None
) -> None:
    bare = {
        "metadata": {"name": "churn"},
        "spec": {"http": [{"name": endpoint.route, "route": [], **({"match": outer} if outer else {})}]},
    }
    assert read_endpoint(write_endpoint(bare, endpoint), "churn") == endpoint
    assert from_json(Traffic, to_json(endpoint.traffic)) == endpoint.traffic
