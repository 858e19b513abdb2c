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

OWNERS = "mlflow-istio.org/"
Way = tuple[str, str]
"""Host and subset (empty: none)."""


def objects_text(value: Any) -> str:
    """An object, or part of one, as comparable text."""
    return json.dumps(value, sort_keys=True)


# What the saboteur does. Each is given the world, the objects as they were at earlier times, and a source of chance.


@dataclass(kw_only=True)
class Times:
    """Objects as they were earlier: what Git, or somebody's export, may bring back.

    Attributes:
        carriers: Every state of the VirtualService that carries the endpoint, oldest first.
        rules: Every state of the DestinationRule.
        originals: The owner's VirtualService before anything of ours; empty where there was none.
    """

    carriers: list[Object] = field(default_factory=list)
    rules: list[Object] = field(default_factory=list)
    originals: list[Object] = field(default_factory=list)


Sabotage = Callable[[World, Times, random.Random], None]


def carrier_name(world: World) -> str:
    """The VirtualService that carries the endpoint, whatever state it is in."""
    return "shop" if world.cluster.get("VirtualService", "shop") else "churn"


def _edited(kind: str, change: Callable[[Object, random.Random], None], name: str = "") -> Sabotage:
    def act(world: World, _times: Times, chance: random.Random) -> None:
        found = world.cluster.get(kind, name or carrier_name(world))
        if found is None:
            return
        obj = copy.deepcopy(found)
        change(obj, chance)
        world.cluster.apply(obj)

    return act


def _http(obj: Object) -> list[Any]:
    return list(obj["spec"].get("http") or [])


def _main(obj: Object) -> Object | None:
    return next((route for route in _http(obj) if route.get("name") in ("main", "mlflow-istio.churn.split")), None)


def _rename_stable(obj: Object, chance: random.Random) -> None:
    main = _main(obj)
    for entry in (main or {}).get("route") or []:
        if entry["destination"]["host"].startswith("web"):
            entry["destination"]["host"] = f"web{chance.randint(2, 4)}"


def _split_stable(obj: Object, _chance: random.Random) -> None:
    main = _main(obj)
    entries = (main or {}).get("route") or []
    theirs = [entry for entry in entries if entry["destination"]["host"].startswith("web")]
    if main is not None and len(theirs) == 1:
        weight = theirs[0].get("weight", 100 if len(entries) == 1 else 0)
        more = [
            {"destination": {"host": host}, "weight": part}
            for host, part in (("web8", weight // 2), ("web9", weight - weight // 2))
        ]
        main["route"] = [entry for entry in entries if entry is not theirs[0]] + more


def _drop_stable(obj: Object, _chance: random.Random) -> None:
    main = _main(obj)
    ours = [entry for entry in (main or {}).get("route") or [] if entry["destination"]["host"] == "churn"]
    if main is not None and ours and sum(entry.get("weight", 0) for entry in ours) > 0:
        ours[0]["weight"] = 100 - sum(entry.get("weight", 0) for entry in ours[1:])
        main["route"] = ours


def _shuffle(obj: Object, chance: random.Random) -> None:
    http = _http(obj)
    chance.shuffle(http)
    obj["spec"]["http"] = http


def _drop_own(part: str) -> Callable[[Object, random.Random], None]:
    def drop(obj: Object, chance: random.Random) -> None:
        own = [route for route in _http(obj) if f".churn.{part}" in str(route.get("name"))]
        if own:
            gone = chance.choice(own)
            obj["spec"]["http"] = [route for route in _http(obj) if route is not gone]

    return drop


def _drop_all_own(obj: Object, _chance: random.Random) -> None:
    obj["spec"]["http"] = [
        route for route in _http(obj) if not is_own_route(route) or route["name"] == "mlflow-istio.churn.split"
    ]


def _drop_split(obj: Object, _chance: random.Random) -> None:
    main = _main(obj)
    obj["spec"]["http"] = [route for route in _http(obj) if route is not main]


def _rename_split(obj: Object, _chance: random.Random) -> None:
    main = _main(obj)
    if main is not None:
        main["name"] = "another"


def _bend_pin(obj: Object, chance: random.Random) -> None:
    pins = [route for route in _http(obj) if ".pin." in str(route.get("name"))]
    if pins:
        chance.choice(pins)["route"][0]["destination"]["subset"] = "another"


def _move_weights(obj: Object, chance: random.Random) -> None:
    entries = (_main(obj) or {}).get("route") or []
    if len(entries) > 1:
        part = chance.choice((0, 30, 100))
        for entry in entries:
            entry["weight"] = 0
        entries[0]["weight"], entries[1]["weight"] = part, 100 - part


def _foreign_fields(obj: Object, chance: random.Random) -> None:
    obj["metadata"].setdefault("labels", {})["late"] = str(chance.random())
    obj["metadata"].setdefault("annotations", {})["theirs"] = str(chance.random())
    main = _main(obj)
    if main is not None:
        main["tomorrow"] = {"x": chance.random()}
        for entry in main.get("route") or []:
            if entry["destination"]["host"] != "churn":
                entry["tomorrow"] = chance.random()
    obj["spec"]["http"] = [
        *_http(obj),
        {"name": f"late-{chance.random()}", "route": [{"destination": {"host": "late"}}]},
    ]


ABOVE: Sequence[Object] = (
    {
        "name": "above-authority",
        "match": [{"authority": {"exact": "admin.example"}}],
        "route": [{"destination": {"host": "admin"}}],
    },
    {"name": "above-down", "directResponse": {"status": 503}},
    {"name": "above-moved", "match": [{"uri": {"prefix": "/api"}}], "redirect": {"uri": "/new"}},
    {"name": "above-mesh", "match": [{"gateways": ["mesh"]}], "route": [{"destination": {"host": "late"}}]},
    {"name": "above-all", "route": [{"destination": {"host": "late"}}]},
)


def _insert_above(obj: Object, chance: random.Random) -> None:
    obj["spec"]["http"] = [copy.deepcopy(chance.choice(ABOVE)), *_http(obj)]


def _remove_above(obj: Object, _chance: random.Random) -> None:
    obj["spec"]["http"] = [route for route in _http(obj) if not str(route.get("name")).startswith("above-")]


def _drop_delegates(obj: Object, _chance: random.Random) -> None:
    obj["spec"]["http"] = [route for route in _http(obj) if "delegate" not in route] or [ABOVE[-1]]


def _heal(world: World, times: Times, _chance: random.Random) -> None:
    """Git's ``spec`` comes back; annotations stay."""
    found = world.cluster.get("VirtualService", carrier_name(world))
    if found is not None and times.originals:
        world.cluster.apply({**found, "spec": copy.deepcopy(times.originals[0]["spec"])})


def _replaced(world: World, times: Times, _chance: random.Random) -> None:
    """``kubectl replace`` with what stands in Git: annotations go, too."""
    if times.originals:
        world.cluster.apply(copy.deepcopy(times.originals[0]))


def _older(world: World, times: Times, chance: random.Random) -> None:
    if times.carriers and world.cluster.get("VirtualService", name_of(times.carriers[0])):
        world.cluster.apply(copy.deepcopy(chance.choice(times.carriers)))


def _older_rule(world: World, times: Times, chance: random.Random) -> None:
    if times.rules:
        world.cluster.apply(copy.deepcopy(chance.choice(times.rules)))


def _scaled(world: World, _times: Times, chance: random.Random) -> None:
    found = world.cluster.list("Deployment", {})
    if found:
        obj = chance.choice(found)
        obj["spec"]["replicas"] = 0
        world.cluster.apply(obj)


def _unready(world: World, _times: Times, chance: random.Random) -> None:
    world.cluster.unready.add(f"churn-v{chance.randint(1, 3)}")


def _ready(world: World, _times: Times, _chance: random.Random) -> None:
    world.cluster.unready.clear()


def _without_deployment(world: World, _times: Times, chance: random.Random) -> None:
    world.cluster.delete("Deployment", f"churn-v{chance.randint(1, 3)}")


def _deleted(kind: str, name: str = "churn") -> Sabotage:
    def act(world: World, _times: Times, _chance: random.Random) -> None:
        world.cluster.delete(kind, name)

    return act


def _without_carrier(world: World, _times: Times, _chance: random.Random) -> None:
    world.cluster.delete("VirtualService", carrier_name(world))


def _drop_subset(obj: Object, chance: random.Random) -> None:
    subsets = obj["spec"].get("subsets") or []
    if subsets:
        gone = chance.choice(subsets)
        obj["spec"]["subsets"] = [subset for subset in subsets if subset is not gone]


def _bend_subset(obj: Object, chance: random.Random) -> None:
    subsets = obj["spec"].get("subsets") or []
    if subsets:
        chance.choice(subsets)["labels"] = {"version": "another"}


def _rule_fields(obj: Object, chance: random.Random) -> None:
    obj["spec"]["tomorrow"] = chance.random()
    obj["spec"].setdefault("subsets", []).append({"name": f"theirs{chance.random()}", "labels": {"app": "theirs"}})


def _registry(world: World, _times: Times, _chance: random.Random) -> None:
    world.registry.down = not world.registry.down


SABOTAGES: Mapping[str, Sabotage] = {
    "rename stable": _edited("VirtualService", _rename_stable),
    "split stable": _edited("VirtualService", _split_stable),
    "drop stable": _edited("VirtualService", _drop_stable),
    "shuffle routes": _edited("VirtualService", _shuffle),
    "drop a header route": _edited("VirtualService", _drop_own("pin.")),
    "drop the probe": _edited("VirtualService", _drop_own("probe")),
    "drop a route of its own": _edited("VirtualService", _drop_own("rule.")),
    "drop an arm": _edited("VirtualService", _drop_own("arm.")),
    "drop our routes": _edited("VirtualService", _drop_all_own),
    "drop the split": _edited("VirtualService", _drop_split),
    "rename the split": _edited("VirtualService", _rename_split),
    "bend a header route": _edited("VirtualService", _bend_pin),
    "move weights": _edited("VirtualService", _move_weights),
    "add fields": _edited("VirtualService", _foreign_fields),
    "insert above": _edited("VirtualService", _insert_above),
    "remove above": _edited("VirtualService", _remove_above),
    "insert above the delegate": _edited("VirtualService", _insert_above, "models"),
    "drop the delegate": _edited("VirtualService", _drop_delegates, "models"),
    "delete the root": _deleted("VirtualService", "models"),
    "self-heal": _heal,
    "replace": _replaced,
    "older copy": _older,
    "older rule": _older_rule,
    "scale to 0": _scaled,
    "unready": _unready,
    "ready again": _ready,
    "delete a deployment": _without_deployment,
    "delete the Service": _deleted("Service"),
    "delete the DestinationRule": _deleted("DestinationRule"),
    "delete the VirtualService": _without_carrier,
    "drop a subset": _edited("DestinationRule", _drop_subset, "churn"),
    "bend a subset": _edited("DestinationRule", _bend_subset, "churn"),
    "add to the rule": _edited("DestinationRule", _rule_fields, "churn"),
    "registry": _registry,
}


# What proxies would do, and what is somebody else's.


REQUESTS: Mapping[str, Mapping[str, str]] = {"anybody": {}, "staff": {"x-user": "staff"}, "arm": {"x-arm": "b"}}
PATHS = {"shop": "/api/score", "churn": "/invocations"}


def flow(virtual_service: Object | None, headers: Mapping[str, str]) -> dict[Way, float]:
    """Share of requests by destination, as proxies deal them; empty where something else answers."""
    if virtual_service is None:
        return {}
    http = [route for route in _http(virtual_service) if route.get("name") not in ("above-authority", "above-mesh")]
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
        for route in _http(rest):
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
    stored: set[str] = field(default_factory=set)
    undone: set[str] = field(default_factory=set)
    seen_ready: set[str] = field(default_factory=set)
    seen_there: set[str] = field(default_factory=set)
    seen_subsets: set[str] = field(default_factory=set)
    seen_service: bool = False

    def __post_init__(self) -> None:
        self.cluster.before_write = lambda _kind, _name: self._call()  # between the read and the write of an edit, too

    def begin(self, name: str, *, forced: bool = False, deleting: bool = False) -> None:
        """A command begins: it knows nothing yet."""
        self.log.append(f"> {name}")
        self.forced, self.deleting = forced, deleting
        self.seen_ready, self.seen_there, self.seen_subsets, self.seen_service = set(), set(), set(), False

    @property
    def cluster(self) -> InMemoryCluster:
        return self.world.cluster

    @property
    def scope(self) -> str:
        return self.cluster.scope

    def sabotage(self, what: str) -> None:
        """Somebody does this now."""
        before = waiting(self._carrier())
        SABOTAGES[what](self.world, self.times, self.chance)
        self.log.append(f"  [{self.calls}] {what}")
        after = waiting(self._carrier())
        self.undone |= {change for change in before if change not in after}

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
            self.stored |= waiting(after).keys() - waiting(before).keys()
            self.times.carriers.append(copy.deepcopy(after))
            self._check_users(before, after)

    def _check_users(self, before: Object | None, after: Object) -> None:
        for who, headers in REQUESTS.items():
            was, now = flow(before, headers), flow(after, headers)
            for way, share in now.items():
                if share > was.get(way, 0) and (problem := self._dead(way, before)):
                    raise Broken(f"{who}: {share}% of requests go to {'/'.join(way)}, which {problem} ({was} -> {now})")

    def _dead(self, way: Way, before: Object | None) -> str:
        """Why nobody can answer there, as far as the command could know when it last looked; empty: somebody can."""
        host, subset = way
        if host != "churn":
            there = {
                entry["destination"]["host"]
                for route in _http(before or {"spec": {}})
                for entry in route.get("route") or []
            }
            return "" if host in there or self.deleting else "its owner has nowhere"
        if self.deleting:
            return ""
        for problem, holds in (
            ("has no Deployment", subset in self.seen_there),
            ("has no ready replica", self.forced or subset in self.seen_ready),
            ("has no Service", self.seen_service),
            ("has no subset", subset in self.seen_subsets),
        ):
            if not holds:
                return problem
        return ""


def ended(world: World) -> Iterator[str]:
    """What a deletion has left behind."""
    for kind in ("Service", "DestinationRule"):
        if world.cluster.get(kind, "churn"):
            yield f"{kind} 'churn'"
    yield from (f"Deployment '{name_of(obj)}'" for obj in world.cluster.list("Deployment", {}))
    for obj in world.cluster.list("VirtualService", {}):
        yield from (f"route '{route['name']}'" for route in _http(obj) if is_own_route(route))
        yield from (f"annotation '{key}'" for key in annotations_of(obj) if key.startswith(OWNERS))
        for route in _http(obj):
            for entry in route.get("route") or []:
                if entry["destination"]["host"] == "churn":
                    yield f"destination in route '{route.get('name')}'"
