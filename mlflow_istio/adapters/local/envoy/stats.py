"""What the mesh's Envoy counts apart: live traffic of a split and of its arms, each deployment by itself.

A subset's cluster counts whatever reaches the subset: pinned, mirrored and probing requests too. Envoy counts a request
a second time under ``cluster.NAME.TREE.*`` when it carries ``x-envoy-upstream-alt-stat-name: TREE``, a header that it
takes off callers' requests and off what it sends on. A filter sets it on the routes of live traffic; a mirrored copy is
made after it was taken off. (Istio's API can't say this: header rules of a route act too late.)

What a call over gRPC ended with stands in its trailers, which no counter of a cluster looks at: its HTTP status is always 200.
So each call is also counted at its end, by its status, cluster and route; the reader knows the routes of live traffic by their
names. The trees of routes that calls take have another name, and only their histograms are read: a call is counted once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlflow_istio.adapters.local.envoy.types import Config
from mlflow_istio.core.basics.objects import DOMAIN, annotations_of, prefix
from mlflow_istio.core.endpoint.endpoint import PROTOCOL, route_name

SPLIT_TREE = "split"
"""Counts the requests that the weights gave a deployment."""
ARM_TREE = "arm"
"""Counts the requests that came to a deployment by an arm's header or cookie."""

CALL_TREES = {SPLIT_TREE: "split_calls", ARM_TREE: "arm_calls"}
"""The trees of the same routes of an endpoint that speaks gRPC."""

COUNTING_FILTER = "envoy.filters.http.header_mutation"
_TYPES = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3."
_HEADER = "x-envoy-upstream-alt-stat-name"
_OWN_ROUTE = re.compile(r"mlflow-istio\.[^.]+\.(?:fault\.)?(?P<part>split|arm|expire)(\..*)?")
_TREES = {"split": SPLIT_TREE, "arm": ARM_TREE, "expire": SPLIT_TREE}
_STATE = f"{DOMAIN}/state."

# Two significant digits, which is how exactly Envoy keeps its histograms, about 10% apart: a version that is 20% slower
# crosses two edges, wherever it was.
_STEPS = "10 11 12 13 15 16 18 20 22 24 27 30 33 36 39 43 47 51 56 62 68 75 82 91"
_DECADES = (0.1, 1.0, 10.0, 100.0, 1000.0)
EDGES_MS = (0.5, *(round(int(step) * decade, 1) for decade in _DECADES for step in _STEPS.split()))
"""Upper edges of the latency histograms of live traffic, from half a millisecond to a minute and a half."""


def counting_filter() -> Config:
    """The filter that sets the header; without a route's own configuration it does nothing."""
    return {"name": COUNTING_FILTER, "typed_config": {"@type": f"{_TYPES}HeaderMutation"}}


def counted_in(tree: str) -> Config:
    """A route's own configuration of the filter: count its requests in a tree, too."""
    append = {"header": {"key": _HEADER, "value": tree}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    mutations = {"request_mutations": [{"append": append}]}
    return {COUNTING_FILTER: {"@type": f"{_TYPES}HeaderMutationPerRoute", "mutations": mutations}}


def live_routes(virtual_service: Mapping[str, Any]) -> dict[str, str]:
    """The routes of live traffic by name, with the tree that counts them; adopted ones are named by the annotations."""
    routes = virtual_service.get("spec", {}).get("http") or ()
    names = [str(http.get("name", "")) for http in routes if isinstance(http, Mapping)]
    own_trees = {name: _TREES[match["part"]] for name in names if (match := _OWN_ROUTE.fullmatch(name))}
    endpoints = [key.removeprefix(_STATE) for key in annotations_of(virtual_service) if key.startswith(_STATE)]
    adopted = {route_name(virtual_service, endpoint): SPLIT_TREE for endpoint in endpoints}
    calls = [endpoint for endpoint in endpoints if _speaks_grpc(virtual_service, endpoint)]
    trees = {**adopted, **own_trees}
    return {
        name: CALL_TREES[tree] if name.startswith(tuple(prefix(endpoint) for endpoint in calls)) else tree
        for name, tree in trees.items()
    }


def _speaks_grpc(virtual_service: Mapping[str, Any], endpoint: str) -> bool:
    try:
        state = json.loads(annotations_of(virtual_service)[f"{_STATE}{endpoint}"])
        return bool(state["settings"][PROTOCOL] == "grpc")
    except (
        ValueError,
        TypeError,
        LookupError,
    ):  # one that somebody damaged says so where it is read for more than this
        return False


def calls_log() -> Config:
    """Counts each call over gRPC at its end; whatever else a listener answers isn't in it."""
    labels = {
        "envoy_cluster_name": "%UPSTREAM_CLUSTER_RAW%",
        "route": "%ROUTE_NAME%",
        "grpc_status": "%GRPC_STATUS_NUMBER%",
        "flags": "%RESPONSE_FLAGS%",
    }
    tags = [{"name": name, "value_format": text} for name, text in labels.items()]
    return {
        "name": "envoy.access_loggers.stats",
        "filter": {
            "header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}
        },
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
            "stat_prefix": "mlflow_istio",
            "counters": [{"stat": {"name": "calls", "tags": tags}, "value_fixed": 1}],
        },
    }


def stats_settings() -> Config:
    """The part of Envoy's bootstrap that says what is counted and how.

    Histograms lag the counters by the flush interval at most.
    """
    buckets = [
        {"match": {"suffix": f".{tree}.upstream_rq_time"}, "buckets": list(EDGES_MS)}
        for tree in (*CALL_TREES, *CALL_TREES.values())
    ]
    return {"stats_config": {"histogram_bucket_settings": buckets}, "stats_flush_interval": "1s"}
