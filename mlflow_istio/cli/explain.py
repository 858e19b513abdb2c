"""Which version answers a request, and why: explain-route."""

from __future__ import annotations

import json
from typing import Any

import click

from mlflow_istio.cli.options import json_option, read_options, target_option, verbs_on
from mlflow_istio.cli.output import echo

View = dict[str, Any]

_KINDS = {
    "split": "the split",
    "pin": "the header route of one deployment",
    "arm": "an arm of the A/B release",
    "probe": "the route that proves routing changes",
    "other": "a route that is not ours",
    "redirect": "a redirect",
    "directResponse": "a direct response",
    "delegate": "a delegate that is not known here",
}


@click.command("explain-route")
@click.argument("endpoint", required=False)
@click.option("--path", default=None, help="Path, with its query.  [default: that of scoring]")
@click.option("--method", default="POST", show_default=True, help="HTTP method.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Header; as often as needed.")
@click.option("--query", "queries", multiple=True, metavar="NAME=VALUE", help="Query parameter.")
@click.option("--cookie", "cookies", multiple=True, metavar="NAME=VALUE", help="Cookie.")
@click.option("--user", default=None, help="User id: as that user's arm of the open A/B release is called.")
@click.option("--host", default=None, help="Host it is sent to.  [default: the endpoint's address]")
@click.option("--port", default=None, type=click.IntRange(1, 65535), help="Port of the proxy, for matches on it.")
@click.option("--scheme", default="http", show_default=True, type=click.Choice(["http", "https"]))
@click.option(
    "--gateway", default=None, help="Gateway it arrives at; mesh: a sidecar.  [default: whichever has its host]"
)
@click.option(
    "--file", "-f", default=None, type=click.Path(dir_okay=False), help="YAML with the VirtualService; asks no cluster."
)
@target_option
@json_option
def explain_route(
    endpoint: str | None,
    target: str,
    as_json: bool,
    headers: tuple[str, ...],
    queries: tuple[str, ...],
    cookies: tuple[str, ...],
    **given: Any,
) -> None:
    """Say which route and version answers a request, and why; no request is sent."""
    view = verbs_on(target).explain_route(
        endpoint,
        headers=read_options(headers),
        query=read_options(queries),
        cookies=read_options(cookies),
        **given,
    )
    echo(json.dumps(view, indent=2) if as_json else explanation_text(view))


def explanation_text(view: View) -> str:
    """The explanation as people read it: who answers, by which route, and why no route above it does."""
    request = view["request"]
    query = "&".join(f"{name}={value}" for name, value in request["query"].items())
    lines = [f"{request['method']} {request['path']}{'?' + query if query else ''}"]
    lines += [f"assigned: {name}: {value}" for name, value in view["assigned"].items()]
    if view["gateways"] and view["gateways"] != ["mesh"]:
        lines.append(f"at: {' or '.join(map(_gateway_text, view['gateways']))}")
    lines += [f"only if {condition}" for condition in view["provided"]]
    for passed in view["perhaps"]:
        lines.append(f"perhaps answered by route {passed['route']}: {'; '.join(passed['because'])}")
    start = "otherwise " if view["perhaps"] else "perhaps " if view["provided"] else ""
    if view["route"] is None:
        why = view["nobody"] or "no route takes it, so the proxy answers 404"
        lines.append(f"{start}answered by nobody: {why}")
    else:
        who = "by nobody" if view["nobody"] else "by"
        lines.append(f"{start}answered {who}: {view['nobody'] or _who_text(view)}")
        lines.append(f"route: {view['route']} ({_KINDS[view['kind']] if view['kind'] in _KINDS else view['kind']})")
        lines += [f"  because {reason}" for reason in view["why"]] or ["  because it takes every request"]
    lines += [f"copied to: {_share_text(mirror)}" for mirror in view["mirrors"]]
    if view["sticky"]:
        sticky = view["sticky"]
        lines.append(
            f"sticky: cookie {sticky['cookie']} of release {sticky['release']} brings a browser back to its arm"
        )
    if view["above"]:
        lines.append("not by the routes above:")
        lines += [f"  {passed['route']}: {'; or '.join(passed['because'])}" for passed in view["above"]]
    return "\n".join(lines)


def _gateway_text(gateway: str) -> str:
    return "a sidecar (gateway mesh)" if gateway == "mesh" else f"gateway {gateway.removeprefix('/')}"


def _who_text(view: View) -> str:
    """Destinations with their shares, or what the route does instead of asking any."""
    delegate = view["does"].get("delegate")
    if view["kind"] == "delegate" and delegate:
        where = f" in namespace {delegate['namespace']}" if delegate.get("namespace") else ""
        return f"whom VirtualService {delegate['name']}{where} names, which is not known here"
    return ", ".join(_share_text(share) for share in view["answers"]) or json.dumps(view["does"])


def _share_text(share: View) -> str:
    version = f" ({share['version']})" if share["version"] else "" if share["ours"] else " (not ours)"
    unready = ", which has no ready replica" if share["ready"] == 0 else ""
    return f"{share['name']}{version} {share['percent']:g}%{unready}"


COMMANDS = (explain_route,)
