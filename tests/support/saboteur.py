"""Somebody who edits objects between any two calls of a command, and a watcher who holds DESIGN.md's invariants against each write.

Where live requests go is worked out from the objects alone, as proxies would: a second reading of them, so that what the code under
test believes of its own routes is never asked.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.basics.objects import Object, annotations_of, is_own_route, labels_of, name_of, ready_replicas
from mlflow_istio.core.matching.requests import Request, answering_route
from mlflow_istio.errors import Unsupported
from mlflow_istio.testing import InMemoryCluster
from tests.support.in_memory import World
from tests.support.sabotages import COPY, OWNERS, SABOTAGES, THEIRS, Times, carrier_name, routes_of

Way = tuple[str, str]
"""Host and subset (empty: none)."""


def objects_text(value: Any) -> str:
    """An object, or part of one, as comparable text."""
    return json.dumps(value, sort_keys=True)


REQUESTS: Mapping[str, Mapping[str, str]] = {
    "anybody": {},
    "staff": {"x-user": "staff"},
    "guests": {"x-user": "guest"},
    "arm": {"x-arm": "b"},
    "staff in the arm": {"x-user": "staff", "x-arm": "b"},
}
PATHS = {"shop": "/api/score", "churn": "/invocations"}


def flow(virtual_service: Object | None, headers: Mapping[str, str]) -> dict[Way, float]:
    """Share of requests by destination, as proxies deal them; empty where something else answers."""
    if virtual_service is None:
        return {}
    http = [route for route in routes_of(virtual_service) if route.get("name") not in ("above-authority", "above-mesh")]
    request = Request(path=PATHS[name_of(virtual_service)], headers=headers)
    try:
        route = answering_route({**virtual_service, "spec": {**virtual_service["spec"], "http": http}}, request)
    except Unsupported:
        return {}
    entries = (route or {}).get("route") or []
    if not entries or "redirect" in (route or {}) or "directResponse" in (route or {}):
        return {}
    weights = [100] if len(entries) == 1 else [entry.get("weight", 0) for entry in entries]
    shares: dict[Way, float] = {}
    for entry, weight in zip(entries, weights, strict=True):
        way = (str(entry["destination"]["host"]), str(entry["destination"].get("subset", "")))
        shares[way] = shares.get(way, 0) + weight
    return {way: share for way, share in shares.items() if share}


def theirs(obj: Object | None, *, destinations: bool = True) -> str:
    """All of an object that is none of ours, as text; the owner's destinations beside ours on demand."""
    if obj is None:
        return ""
    rest = copy.deepcopy(obj)
    metadata = rest["metadata"]
    metadata.pop("resourceVersion", None)
    metadata["annotations"] = {k: v for k, v in annotations_of(rest).items() if not k.startswith(OWNERS)}
    if rest["kind"] == "DestinationRule":
        ours = [subset for subset in rest["spec"].get("subsets") or [] if str(subset["name"]).startswith("churn-v")]
        rest["spec"]["subsets"] = [subset for subset in rest["spec"].get("subsets") or [] if subset not in ours]
    if rest["kind"] == "VirtualService":
        routes = []
        for route in routes_of(rest):
            if is_own_route(route) or route.get("delegate") == {"name": "churn"}:
                continue
            if route.get("name") in ("main", "another"):
                route.pop("timeout", None)  # a setting of ours, by one of the verbs
                entries = [entry for entry in route.get("route") or [] if entry["destination"]["host"] != "churn"]
                bare = sorted(objects_text({k: v for k, v in e.items() if k != "weight"}) for e in entries)
                route["route"] = bare if destinations else []
                mirrors = [mirror for mirror in route.pop("mirrors", ()) if mirror["destination"]["host"] != "churn"]
                route.update({"mirrors": mirrors} if mirrors else {})
            routes.append(route)
        rest["spec"]["http"] = routes
    return objects_text(rest)


def waiting(obj: Object | None) -> dict[str, int]:
    """Changes that the registry does not have yet, by id, with their numbers."""
    text = annotations_of(obj or {"metadata": {}}).get(f"{OWNERS}unrecorded.churn", "[]")
    return {str(entry["id"]): int(entry["sequence"]) for entry in json.loads(text)}


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(kw_only=True)
class Watched:
    """The Cluster port of a command: sabotage before its nth call, and a look at each of its writes.

    Attributes:
        world: The world.
        plan: What is done before which call, counted over all commands of a run.
        chance: Where the saboteur's choices come from.
        times: What was there earlier.
        log: What happened, for whoever has to understand a failure.
    """

    world: World
    plan: dict[int, str]
    chance: random.Random
    times: Times = field(default_factory=Times)
    log: list[str] = field(default_factory=list)
    calls: int = 0
    forced: bool = False
    deleting: bool = False
    driving: bool = False
    stored: set[str] = field(default_factory=set)
    undone: set[str] = field(default_factory=set)
    seen_ready: set[str] = field(default_factory=set)
    seen_there: set[str] = field(default_factory=set)
    seen_subsets: set[str] = field(default_factory=set)
    seen_service: bool = False
    seen_theirs: dict[str, bool] = field(default_factory=dict)
    seen_to_us: set[str] | None = None
    fresh: set[str] = field(default_factory=set)
    taken_off: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.cluster.before_write = lambda _kind, _name: self._call()  # between the read and the write of an edit, too

    def begin(self, name: str, *, forced: bool = False, deleting: bool = False, driving: bool = False) -> None:
        """A command begins: it knows nothing yet."""
        self.log.append(f"> {name}")
        self.forced, self.deleting, self.driving = forced, deleting, driving
        self.seen_ready, self.seen_there, self.seen_subsets, self.seen_service = set(), set(), set(), False
        self.seen_theirs, self.seen_to_us, self.fresh, self.taken_off = {}, None, set(), set()

    def end(self, *, whole: bool) -> None:
        """A command ends; unless it did all of its work, what somebody took off the object meanwhile need not be recorded."""
        if not whole or self.world.registry.down:
            self.undone |= self.taken_off

    @property
    def cluster(self) -> InMemoryCluster:
        return self.world.cluster

    @property
    def scope(self) -> str:
        return self.cluster.scope

    @property
    def place(self) -> str:
        return self.cluster.place

    def sabotage(self, what: str) -> None:
        """Somebody does this now."""
        before = waiting(self._carrier())
        SABOTAGES[what](self.world, self.times, self.chance)
        self.log.append(f"  [{self.calls}] {what}")
        after = waiting(self._carrier())
        gone = {change for change in before if change not in after}
        self.undone |= gone - self.fresh
        self.taken_off |= gone & self.fresh
        if what == "registry":
            self.undone |= self.fresh  # whether the registry was down in between is not followed up

    def _carrier(self) -> Object | None:
        return self.cluster.get("VirtualService", carrier_name(self.world))

    def _call(self) -> None:
        self.calls += 1
        if self.calls in self.plan:
            self.sabotage(self.plan[self.calls])

    def get(self, kind: str, name: str) -> Object | None:
        self._call()
        found = self.cluster.get(kind, name)
        self._looked(kind, name, [found] if found else [])
        return found

    def list(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        self._call()
        found = self.cluster.list(kind, labels)
        self._looked(kind, "", found)
        return found

    def apply(self, obj: Object) -> Object:
        self._call()
        before = self.cluster.get(str(obj["kind"]), name_of(obj))
        after = self.cluster.apply(obj)
        self._wrote(before, after)
        return after

    def edit(self, kind: str, name: str, change: Callable[[Object | None], Object]) -> tuple[Object | None, Object]:
        self._call()
        before, after = self.cluster.edit(kind, name, change)
        if kind == "DestinationRule":
            self._saw_rule(after)
        if before != after:
            self._wrote(before, after)
        return before, after

    def delete(self, kind: str, name: str) -> bool:
        self._call()
        found = self.cluster.get(kind, name)
        if kind == "Deployment" and not self.forced:
            if self.seen_to_us is None:
                raise Broken(f"Deployment '{name}' was deleted, and nobody looked whose routes go to it")
            if name in self.seen_to_us:
                raise Broken(f"Deployment '{name}' was deleted, and somebody's route goes to it")
        if found is not None and not labels_of(found).get(f"{OWNERS}endpoint") and not name.startswith("churn"):
            raise Broken(f"{kind} '{name}' is not ours, and was deleted")
        return self.cluster.delete(kind, name)

    def wait_ready(self, deployment: str, timeout: float) -> None:
        self._call()
        self.cluster.wait_ready(deployment, timeout)
        self.seen_ready.add(deployment)
        self.seen_there.add(deployment)

    def wait_routed(self, probe: Any, timeout: float) -> Sequence[str]:
        self._call()
        return self.cluster.wait_routed(probe, timeout)

    def address(self, virtual_service: str) -> Any:
        self._call()
        return self.cluster.address(virtual_service)

    def _looked(self, kind: str, name: str, found: Sequence[Object]) -> None:
        if kind == "Deployment":
            self.seen_ready = {name_of(obj) for obj in found if ready_replicas(obj)}
            self.seen_there = {name_of(obj) for obj in found}
        elif kind == "Service" and name == "churn":
            self.seen_service = bool(found)
        elif kind == "Service":
            self.seen_theirs[name] = bool(found)
        elif kind == "VirtualService" and not name:
            theirs = [obj for obj in found if name_of(obj) == THEIRS]
            entries = [entry for obj in theirs for route in routes_of(obj) for entry in route["route"]]
            led_to = {str(entry["destination"]["subset"]) for entry in entries}
            self.seen_to_us = led_to if self.seen_to_us is None else led_to & self.seen_to_us  # whenever it looked
        elif kind == "DestinationRule" and name == "churn":
            self._saw_rule(found[0] if found else None)

    def _saw_rule(self, rule: Object | None) -> None:
        subsets = (rule or {}).get("spec", {}).get("subsets") or []
        self.seen_subsets = {str(one["name"]) for one in subsets if one.get("labels") == {"version": one["name"]}}

    def _wrote(self, before: Object | None, after: Object) -> None:
        kind = str(after["kind"])
        if kind == "Service" and name_of(after) == "churn":
            self.seen_service = True
        if kind == "DestinationRule":
            self._saw_rule(after)
            self.times.rules.append(copy.deepcopy(after))
        if before is not None and kind in ("VirtualService", "DestinationRule"):
            kept = not self.deleting or 'host\\": \\"web' in theirs(
                before
            )  # whoever has nothing left gets back what was there
            was, now = theirs(before, destinations=kept), theirs(after, destinations=kept)
            if was != now:
                raise Broken(f"{kind} '{name_of(after)}': something of somebody else's was changed\n{was}\n{now}")
        if kind == "VirtualService" and name_of(after) != "models":
            new = waiting(after).keys() - waiting(before).keys()
            self.stored, self.fresh = self.stored | new, self.fresh | new
            self.times.carriers.append(copy.deepcopy(after))
            self._check_users(before, after)

    def _check_users(self, before: Object | None, after: Object) -> None:
        for who, headers in REQUESTS.items():
            was, now = flow(before, headers), flow(after, headers)
            for way, share in now.items():
                if share > was.get(way, 0) and (problem := self._dead(way, before, was)):
                    raise Broken(f"{who}: {share}% of requests go to {'/'.join(way)}, which {problem} ({was} -> {now})")

    def _dead(self, way: Way, before: Object | None, was: Mapping[Way, float]) -> str:
        """Why nobody can answer there, as far as the command could know when it last looked; empty: somebody can."""
        host, subset = way
        if host != "churn":
            there = {
                entry["destination"]["host"]
                for route in routes_of(before or {"spec": {}})
                for entry in route.get("route") or []
            }
            if host not in there and not self.deleting:
                return "its owner has nowhere"
            known = json.loads(annotations_of(before or {"metadata": {}}).get(f"{OWNERS}state.churn", "{}"))
            asked = host in ((known.get("adopted") or {}).get("services") or ())
            excused = self.forced or (
                self.deleting and not was
            )  # who got an answer of ours gets what the owner has again
            there_now = (
                self.cluster.get("Service", host) is not None
            )  # what nobody looked at does no harm while it is there
            return "" if not asked or excused or self.seen_theirs.get(host, there_now) else "its owner has deleted"
        if self.deleting:
            return ""
        for problem, holds in (
            ("has no Deployment", subset in self.seen_there),
            ("has no ready replica", self.forced or subset in self.seen_ready or self._leaves_the_dead(was)),
            ("has no Service", self.seen_service),
            ("has no subset", subset in self.seen_subsets),
        ):
            if not holds:
                return problem
        return ""

    def _leaves_the_dead(self, was: Mapping[Way, float]) -> bool:
        """Whether a driver that has to end takes users from whom nobody living is known."""
        return self.driving and not any(host != "churn" or subset in self.seen_ready for host, subset in was)


def ended(world: World) -> Iterator[str]:
    """What a deletion has left behind."""
    for kind in ("Service", "DestinationRule"):
        if world.cluster.get(kind, "churn"):
            yield f"{kind} 'churn'"
    yield from (f"Deployment '{name_of(obj)}'" for obj in world.cluster.list("Deployment", {}))
    for obj in world.cluster.list("VirtualService", {}):
        if name_of(obj) in (THEIRS, COPY):
            continue  # somebody else's, who was told
        yield from (f"route '{route['name']}'" for route in routes_of(obj) if is_own_route(route))
        yield from (f"annotation '{key}'" for key in annotations_of(obj) if key.startswith(OWNERS))
        for route in routes_of(obj):
            for entry in route.get("route") or []:
                if entry["destination"]["host"] == "churn":
                    yield f"destination in route '{route.get('name')}'"
