"""What the client returns, as notebooks show it: plain dicts and lists that can draw themselves.

They equal, pickle and serialise as what they are; only notebooks ask for more.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_istio.errors import visible

if TYPE_CHECKING:
    from mlflow_istio.showing.plots import Plot

_COLOURS = {
    "stable": "#2f7fd0",
    "candidate": "#d9682b",
    "control": "#5f9ea0",
    "holdback": "#7a5fb5",
    "idle": "#8a97a5",
}
_OUTCOMES = {"promoted": "✓", "rolled-back": "↩", "inconclusive": "?", "held": "…", "aborted": "■", "superseded": "»"}
_CELL = 'style="text-align:left;padding:2px 14px 2px 0"'


class _Shown:
    """Shows itself as HTML in notebooks, and as the command's table where there is only text."""

    def _repr_html_(self) -> str:
        raise NotImplementedError

    def _plain(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        del include, exclude  # IPython leaves out what it does not want by itself
        return {"text/plain": visible(self._plain(), lines=True), "text/html": self._repr_html_()}


class EndpointView(_Shown, dict[str, Any]):
    """An endpoint, as ``get_endpoint`` returns it."""

    def _repr_html_(self) -> str:
        return _endpoint_html(self)

    def _plain(self) -> str:
        from mlflow_istio.showing.tables import print_status

        return _printed(lambda out: print_status([dict(self)], "", out)) if _is_endpoint(self) else repr(dict(self))


class ReleaseView(EndpointView):
    """A release that was driven to its end: the endpoint, with ``outcome`` and ``verdict``."""

    def _repr_html_(self) -> str:
        return _release_html(self) + super()._repr_html_()

    def _plain(self) -> str:
        return f"{_release_line(self)}\n{super()._plain()}".lstrip()


class DeploymentView(_Shown, dict[str, Any]):
    """A deployment, as ``get_deployment`` returns it."""

    def _repr_html_(self) -> str:
        rows = [(key, value) for key, value in self.items() if key != "name" and value not in (None, {}, [])]
        return f"<b>{_safe(self.get('name', ''))}</b>{_table((), rows)}"

    def _plain(self) -> str:
        return "\n".join(f"{key}: {value}" for key, value in self.items())


def view_of(view: dict[str, Any]) -> dict[str, Any]:
    """What a verb on an endpoint or a deployment returned, as notebooks show it."""
    if _is_endpoint(view):
        return ReleaseView(view) if "verdict" in view else EndpointView(view)
    return DeploymentView(view) if "model_version" in view else view


class EndpointList(_Shown, list[dict[str, Any]]):
    """Endpoints, as ``list_endpoints`` returns them."""

    def _repr_html_(self) -> str:
        return "".join(_endpoint_html(view) for view in self) or "<i>no endpoints</i>"

    def _plain(self) -> str:
        from mlflow_istio.showing.tables import print_status

        return _printed(lambda out: print_status(list(self), "this target", out))


class DeploymentList(_Shown, list[dict[str, Any]]):
    """Deployments, as ``list_deployments`` returns them."""

    def _repr_html_(self) -> str:
        return _deployments_html(self) if self else "<i>no deployments</i>"

    def _plain(self) -> str:
        return "\n".join(f"{view['name']}: {view['model_version']}, {view['role']}, {view['weight']}%" for view in self)


class History(_Shown, list[dict[str, Any]]):
    """Routing changes, oldest first, as ``history`` returns them.

    Args:
        changes: The changes.
        endpoint: The endpoint they belong to.

    Attributes:
        endpoint: The endpoint they belong to.
    """

    def __init__(self, changes: Iterable[dict[str, Any]] = (), endpoint: str = "") -> None:
        super().__init__(changes)
        self.endpoint = endpoint

    def plot(self) -> Plot:
        """Weights over time, one line for each deployment; a notebook shows it.

        Raises:
            Unsupported: matplotlib is not installed.
            InvalidInput: The history is empty.
        """
        from mlflow_istio.showing.plots import plot_history

        return plot_history(self.endpoint, self)

    def _repr_html_(self) -> str:
        from mlflow_istio.showing.tables import traffic_text

        rows = [
            (
                change["sequence"],
                change["time"][:19].replace("T", " "),
                change["action"],
                traffic_text(change),
                change["release"] or "",
                change["who"],
                change["reason"],
            )
            for change in self
        ]
        heading = f"<b>{_safe(self.endpoint)}</b>: {len(self)} routing changes"
        return heading + _table(("#", "time (UTC)", "action", "traffic", "release", "who", "reason"), rows)

    def _plain(self) -> str:
        from mlflow_istio.showing.tables import print_history

        return _printed(lambda out: print_history(self.endpoint, list(self), out))


class ReportPage(str):
    """A release's report: an HTML page, shown in a frame of its own.

    Attributes:
        release: Id of the release.
    """

    release: str

    def __new__(cls, page: str = "", release: str = "") -> ReportPage:
        """The page of a release."""
        made = super().__new__(cls, page)
        made.release = release
        return made

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="Report of release {_safe(self.release)}" sandbox srcdoc="{html.escape(str(self))}" '
            'style="width:100%;height:640px;border:1px solid #8a97a5;border-radius:6px"></iframe>'
        )


def _is_endpoint(view: Mapping[str, Any]) -> bool:
    return "problem" in view or {"deployments", "traffic", "release", "url", "change"} <= view.keys()


def _endpoint_html(view: Mapping[str, Any]) -> str:
    if not _is_endpoint(view):
        return _table((), list(view.items()))
    if "problem" in view:
        return f"<b>{_safe(view['name'])}</b>: {_safe(view['problem'])}"
    release, last = view["release"], view["last_release"]
    line = "no open release"
    if release:
        line = (
            f"release {release['id']}: {release['strategy']} of {', '.join(release['candidates'])}, {release['state']}"
        )
    elif last:
        line = f"no open release; the last ({last['strategy']} {last['id']}) was {last['outcome']}"
    if view["unrecorded"]:
        line += f"; {view['unrecorded']} changes are not in the registry yet"
    head = f"<b>{_safe(view['name'])}</b> &nbsp;<code>{_safe(view['url'])}</code><br>{_safe(line)}"
    return f'<div style="margin:4px 0 10px">{head}{_deployments_html(view["deployments"], view["mirrors"])}</div>'


def _deployments_html(views: Sequence[Mapping[str, Any]], mirrors: Mapping[str, float] | None = None) -> str:
    rows = []
    for view in views:
        weight = int(view["weight"])
        colour = _COLOURS.get(view["role"], _COLOURS["idle"])
        bar = (
            '<span style="display:inline-block;width:110px;height:.7em;border:1px solid #8a97a5;border-radius:2px;'
            f'background:linear-gradient(to right,{colour} {weight}%,transparent {weight}%)"></span> {weight}%'
        )
        copied = (mirrors or {}).get(view["name"])
        rows.append(
            (
                view["name"],
                view["model_version"],
                view["role"],
                _Html(bar),
                f"copy of {copied:g}%" if copied else "",
                f"{view['ready']} of {view['replicas']} ready",
            )
        )
    return _table(("deployment", "version", "role", "weight", "mirror", "replicas"), rows)


def _release_line(view: Mapping[str, Any]) -> str:
    verdict = view.get("verdict") or {}
    outcome = str(view.get("outcome") or "")
    return f"{_OUTCOMES.get(outcome, '')} {outcome or 'released'}: {verdict.get('reason', '')}".strip().rstrip(":")


def _release_html(view: Mapping[str, Any]) -> str:
    return f'<p style="margin:4px 0"><b>{_safe(_release_line(view))}</b></p>'


class _Html(str):
    """Markup of ours, which is not escaped again."""


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col" {_CELL}>{_safe(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td {_CELL}>{_safe(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if columns else ''}<tbody>{body}</tbody></table>"


def _safe(value: Any) -> str:
    return value if isinstance(value, _Html) else html.escape(visible(str(value), lines=True))


def _printed(printer: Any) -> str:
    from rich.console import Console

    console = Console(width=120, file=io.StringIO(), record=True, force_jupyter=False)
    printer(console)
    return console.export_text().rstrip()
