"""What somebody may do to an endpoint's objects at any moment: edits of the owner's, of GitOps, of another operator; losses.

Each is given the world, the objects as they were at earlier times, and a source of chance.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.basics.objects import Object, is_own_route, name_of
from tests.support.in_memory import World

OWNERS = "mlflow-istio.org/"


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


def routes_of(obj: Object) -> list[Any]:
    """The http routes, in a list of their own."""
    return list(obj["spec"].get("http") or [])


def _main(obj: Object) -> Object | None:
    return next((route for route in routes_of(obj) if route.get("name") in ("main", "mlflow-istio.churn.split")), None)


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
    http = routes_of(obj)
    chance.shuffle(http)
    obj["spec"]["http"] = http


def _drop_own(part: str) -> Callable[[Object, random.Random], None]:
    def drop(obj: Object, chance: random.Random) -> None:
        own = [route for route in routes_of(obj) if f".churn.{part}" in str(route.get("name"))]
        if own:
            gone = chance.choice(own)
            obj["spec"]["http"] = [route for route in routes_of(obj) if route is not gone]

    return drop


def _drop_all_own(obj: Object, _chance: random.Random) -> None:
    obj["spec"]["http"] = [
        route for route in routes_of(obj) if not is_own_route(route) or route["name"] == "mlflow-istio.churn.split"
    ]


def _drop_split(obj: Object, _chance: random.Random) -> None:
    main = _main(obj)
    obj["spec"]["http"] = [route for route in routes_of(obj) if route is not main]


def _rename_split(obj: Object, _chance: random.Random) -> None:
    main = _main(obj)
    if main is not None:
        main["name"] = "another"


def _bend_pin(obj: Object, chance: random.Random) -> None:
    pins = [route for route in routes_of(obj) if ".pin." in str(route.get("name"))]
    if pins:
        chance.choice(pins)["route"][0]["destination"]["subset"] = "another"


def _our_route(*parts: str) -> Callable[[Object, random.Random], Object | None]:
    def find(obj: Object, chance: random.Random) -> Object | None:
        found = [
            route
            for route in routes_of(obj)
            if str(route.get("name")).startswith(tuple(f"mlflow-istio.churn.{p}" for p in parts))
        ]
        return chance.choice(found) if found else None

    return find


def _bend(*parts: str) -> Callable[[Object, random.Random], None]:
    """Make a route of ours match or answer otherwise."""
    find = _our_route(*parts)

    def bend(obj: Object, chance: random.Random) -> None:
        route = find(obj, chance)
        if route is None:
            return
        how = chance.randint(0, 4)
        if how < 2:
            route.pop("directResponse", None)
            subset = f"churn-v{chance.randint(1, 3)}"
            route["route"] = [
                {"destination": {"host": "churn", "subset": subset}} if how else {"destination": {"host": "late"}}
            ]
        elif how == 2:
            route.pop("route", None)
            route["directResponse"] = {"status": 418}
        elif how == 3:
            for match in route.get("match") or []:
                match.setdefault("headers", {})["x-late"] = {"exact": "1"}
        else:
            route.pop("match", None)

    return bend


def _swap_own(obj: Object, chance: random.Random) -> None:
    http = routes_of(obj)
    ours = [index for index, route in enumerate(http) if is_own_route(route) and ".split" not in route["name"]]
    if len(ours) > 1:
        one, two = chance.sample(ours, 2)
        http[one], http[two] = http[two], http[one]
        obj["spec"]["http"] = http


def _bring_back(world: World, times: Times, chance: random.Random) -> None:
    """A route of ours that is not wanted any more comes back, with whatever it led to."""
    found = world.cluster.get("VirtualService", carrier_name(world))
    if found is None or not times.carriers:
        return
    there = {route.get("name") for route in routes_of(found)}
    older = [
        route
        for route in routes_of(chance.choice(times.carriers))
        if is_own_route(route) and route["name"] not in there
    ]
    if older:
        http = routes_of(found)
        http.insert(chance.randint(0, len(http) - 1), copy.deepcopy(chance.choice(older)))
        found["spec"]["http"] = http
        world.cluster.apply(found)


THEIRS, COPY = "theirs", "kept"
"""VirtualServices that somebody applies: one whose route goes to a deployment of ours, and a copy of the one that carries us."""


def _route_to_us(world: World, _times: Times, chance: random.Random) -> None:
    destination = {"host": "churn", "subset": f"churn-v{chance.randint(1, 3)}"}
    http = [{"name": "to-us", "route": [{"destination": destination}]}]
    spec = {"hosts": ["theirs.example"], "http": http}
    world.cluster.apply(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": THEIRS},
            "spec": spec,
        }
    )


def _copied(world: World, _times: Times, _chance: random.Random) -> None:
    found = world.cluster.get("VirtualService", carrier_name(world))
    if found is not None and found["spec"].get("hosts"):
        spec = {**found["spec"], "hosts": ["kept.example"]}
        world.cluster.apply({**found, "metadata": {**found["metadata"], "name": COPY}, "spec": spec})


def a_service(name: str) -> Object:
    """A Service of somebody else's."""
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}


def _owners_service_back(world: World, _times: Times, _chance: random.Random) -> None:
    world.cluster.apply(a_service("web"))


def _prune(obj: Object, _chance: random.Random) -> None:
    obj["metadata"].get("annotations", {}).pop(f"{OWNERS}unrecorded.churn", None)


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
        *routes_of(obj),
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
    obj["spec"]["http"] = [copy.deepcopy(chance.choice(ABOVE)), *routes_of(obj)]


def _remove_above(obj: Object, _chance: random.Random) -> None:
    obj["spec"]["http"] = [route for route in routes_of(obj) if not str(route.get("name")).startswith("above-")]


def _drop_delegates(obj: Object, _chance: random.Random) -> None:
    obj["spec"]["http"] = [route for route in routes_of(obj) if "delegate" not in route] or [ABOVE[-1]]


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
    "bend a route of its own": _edited("VirtualService", _bend("rule.", "arm.")),
    "bend a copy": _edited("VirtualService", _bend("fault.", "expire.")),
    "bend an answer": _edited("VirtualService", _bend("answer")),
    "swap our routes": _edited("VirtualService", _swap_own),
    "bring a route back": _bring_back,
    "prune what waits": _edited("VirtualService", _prune),
    "route to us": _route_to_us,
    "no route to us": _deleted("VirtualService", THEIRS),
    "copy": _copied,
    "no copy": _deleted("VirtualService", COPY),
    "delete the owner's Service": _deleted("Service", "web"),
    "the owner's Service again": _owners_service_back,
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
