"""The whole configuration of the mesh's Envoy, from objects to JSON. Pure.

Envoy reads four kinds of files: a bootstrap that never changes while it runs, the listeners (one for each
VirtualService, on a port of its own, for any ``Host``, and one for its statistics), the clusters, and one file of routes
for each VirtualService, so that a change of traffic rewrites only that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from mlflow_istio.adapters.local.envoy import stats, types
from mlflow_istio.adapters.local.envoy.route_table import hosts
from mlflow_istio.adapters.local.envoy.types import Config
from mlflow_istio.adapters.local.supported_fields import Field, read
from mlflow_istio.core.basics.objects import oldest_first
from mlflow_istio.errors import StateConflict

CONNECTION_LIMIT = 20_000
LISTENERS = PurePosixPath("listeners/listeners.json")
CLUSTERS = PurePosixPath("clusters/clusters.json")
BOOTSTRAP = PurePosixPath("bootstrap.json")
STATISTICS_PATH = "/stats/prometheus"
STATISTICS = "_statistics"
"""Name of the listener of Envoy's statistics. No DNS name has an underscore, so no endpoint's counts are mixed up with these."""
_ONLY = f"only GET {STATISTICS_PATH} is served here\n"
# The default of 100 refuses ordinary cookie patterns.
_REGEX_LIMIT = 32_768


def routes_file(virtual_service: str) -> PurePosixPath:
    """Where a VirtualService's routes stand, below Envoy's folder; alone in theirs, so that Envoy rereads only them."""
    return PurePosixPath("routes") / virtual_service / "routes.json"


def bootstrap(*, mesh: str, admin: PurePosixPath, folder: PurePosixPath) -> Config:
    """What Envoy starts with.

    Args:
        mesh: Name of the mesh.
        admin: Absolute path of the socket of Envoy's admin interface.
        folder: Absolute path of Envoy's folder.
    """
    return {
        "node": {"id": f"local-{mesh}", "cluster": "mlflow-istio"},
        "admin": {
            # Its owner's alone: whoever reaches it can end the mesh.
            "address": {"pipe": {"path": str(admin), "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "static_resources": {"clusters": [_admin_cluster(admin)]},
        "dynamic_resources": {
            "cds_config": _file_source(folder / CLUSTERS),
            "lds_config": _file_source(folder / LISTENERS),
        },
        "layered_runtime": {
            "layers": [{"name": "mesh", "static_layer": {"re2.max_program_size.error_level": _REGEX_LIMIT}}]
        },
        **stats.stats_settings(),
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": types.CONNECTION_LIMIT,
                        "max_active_downstream_connections": CONNECTION_LIMIT,
                    },
                }
            ]
        },
    }


def listeners(ports: Mapping[str, int], folder: PurePosixPath, *, statistics: int) -> list[Config]:
    """One listener for each VirtualService, and that of the statistics.

    None is in the bootstrap: an Envoy whose port of the statistics another program took while it was down would not start.

    Args:
        ports: Port of each VirtualService, by its name.
        folder: Absolute path of Envoy's folder.
        statistics: Port on 127.0.0.1 on which Envoy serves its statistics and nothing else.
    """
    return [*(_listener(name, ports[name], folder) for name in sorted(ports)), _statistics_listener(statistics)]


def check_hosts(virtual_services: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a second VirtualService for one host: proxies of a mesh would carry out only one of them.

    Raises:
        StateConflict: Names both.
    """
    owners: dict[str, str] = {}
    for virtual_service in sorted(virtual_services, key=oldest_first):
        name = str(virtual_service["metadata"]["name"])
        for index, host in enumerate(hosts(virtual_service)):
            if host in owners:
                raise StateConflict(
                    f"VirtualService {name}: spec.hosts[{index}] {host!r} already has the VirtualService "
                    f"{owners[host]}: change that one"
                )
            owners[host] = name


def discovery(resources: Sequence[Config]) -> bytes:
    """The content of a file that Envoy reads: the resources and a version made from them."""
    text = json.dumps(list(resources), separators=(",", ":"))
    version = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f'{{"version_info":"{version}","resources":{text}}}'.encode()


def delicate_parts(virtual_service: Mapping[str, Any]) -> dict[str, Field]:
    """The patterns and header templates of a VirtualService, which only Envoy itself can check, and where they stand."""
    return dict(_delicate(read(virtual_service).member("spec")))


def for_validation(routes: Config) -> Config:
    """A bootstrap that holds the routes and nothing else, for Envoy's validation mode."""
    inline = {key: value for key, value in routes.items() if key != "@type"}
    manager = {**_connection_manager("check"), "route_config": inline}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {
        "layered_runtime": {
            "layers": [{"name": "mesh", "static_layer": {"re2.max_program_size.error_level": _REGEX_LIMIT}}]
        },
        "static_resources": {
            "listeners": [{"name": "check", "address": address, "filter_chains": [_filter_chain(manager)]}]
        },
    }


def _delicate(field: Field) -> Iterator[tuple[str, Field]]:
    if isinstance(field.value, Mapping):
        if field.key == "uriRegexRewrite":
            yield json.dumps(field.value, sort_keys=True), field
        for _, member in field.pairs():
            yield from _delicate(member)
    elif isinstance(field.value, list):
        for member in field.each():
            yield from _delicate(member)
    elif isinstance(field.value, str) and (field.key == "regex" or "%" in field.value):
        yield field.value, field


def _listener(name: str, port: int, folder: PurePosixPath) -> Config:
    source = {"route_config_name": name, "config_source": _file_source(folder / routes_file(name))}
    return {
        "@type": types.LISTENER,
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        # Two proxies must never share a port in silence.
        "enable_reuse_port": False,
        "filter_chains": [_filter_chain({**_connection_manager(name), "rds": source})],
    }


def _admin_cluster(admin: PurePosixPath) -> Config:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(admin)}}}}
    return {
        "name": STATISTICS,
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": STATISTICS, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _statistics_listener(port: int) -> Config:
    """What Prometheus, and other users of the machine, get of the admin interface: GET of one page.

    A web page that had its own name resolved to this machine gets nothing, by the host that it asks for.
    """
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    routes = [
        {"match": {"path": STATISTICS_PATH, "headers": [get]}, "route": {"cluster": STATISTICS, "timeout": "30s"}},
        {"match": {"prefix": "/"}, "direct_response": {"status": 403, "body": {"inline_string": _ONLY}}},
    ]
    manager = {
        "@type": types.CONNECTION_MANAGER,
        "stat_prefix": STATISTICS,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {
            "name": STATISTICS,
            "ignore_port_in_host_matching": True,
            "virtual_hosts": [{"name": STATISTICS, "domains": ["127.0.0.1", "localhost"], "routes": routes}],
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": types.ROUTER}}],
    }
    return {
        "@type": types.LISTENER,
        "name": STATISTICS,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "enable_reuse_port": False,
        "ignore_global_conn_limit": True,
        "filter_chains": [_filter_chain(manager)],
    }


def _filter_chain(manager: Config) -> Config:
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}


def _connection_manager(name: str) -> Config:
    return {
        "@type": types.CONNECTION_MANAGER,
        "stat_prefix": name,
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "request_id_extension": {"typed_config": {"@type": types.UUID_REQUEST_ID, "pack_trace_reason": False}},
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "use_remote_address": False,
        "stream_idle_timeout": "0s",
        "access_log": [stats.calls_log()],
        "http_filters": [
            {"name": types.FAULT_FILTER, "typed_config": {"@type": types.FAULT}},
            stats.counting_filter(),
            {"name": "envoy.filters.http.router", "typed_config": {"@type": types.ROUTER}},
        ],
    }


def _file_source(path: PurePosixPath) -> Config:
    return {
        "path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}},
        "resource_api_version": "V3",
    }
