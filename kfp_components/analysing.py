"""What the analysing components do, as plain functions: they look at an open release until its data decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from kfp_components.inputs import analyse_config, check_waiting, compare_config, declare_config
from kfp_components.steps import View, as_cell, ended_as, say, verbs_of
from mlflow_istio.errors import ClusterError, MetricsError, MlflowIstioError, RegistryError, StateConflict
from mlflow_istio.verbs import Verbs

_LINES = 20
"""Rows of the most different requests that a step shows; the release's run has more."""


def analyse(
    target: str,
    endpoint: str,
    *,
    release_id: str,
    options: Mapping[str, Any],
    minutes: float,
    seconds: float,
    counts: Mapping[str, Any] | None = None,
) -> View:
    """Look at an open A/B/n release until it has a winner or shows that there is none, or until the time is over.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        release_id: The release that is meant; empty: the open one.
        options: Options of ``analyse``.
        minutes: Time to wait for an outcome; 0: one look.
        seconds: Time between two looks.
        counts: The KPI's counts, where another step has made them; they stand still, so there is one look.

    Returns:
        The last look, as ``Verbs.analyse`` gives it.

    Raises:
        StateConflict: Another release is open, or none.
    """
    verbs = _of_release(target, endpoint, release_id)
    config = analyse_config(options=options, counts=counts)

    def look() -> View:
        return verbs.analyse(endpoint, config)

    def line(view: View) -> str:
        return f"look {view['looks']}: {view['outcome']}: {view['reason']}"

    view = _until(look, lambda view: view["outcome"] != "inconclusive", line, 0.0 if counts else minutes, seconds)
    nobody = [arm["name"] for arm in view["arms"] if not arm["requests"]]
    base_line = view["looks"] <= 1  # whose counts are what later ones are counted from: 0, whoever called before
    if view["outcome"] == "inconclusive" and nobody and not counts and not base_line:
        view = {**view, "reason": f"{view['reason']} 0 requests: nobody called {', '.join(nobody)}."}
        say(line(view))
    return view


def compare(
    target: str, endpoint: str, *, release_id: str, options: Mapping[str, Any], minutes: float, seconds: float
) -> View:
    """Compare an open shadow release's answers until they agree or differ, or until the time is over.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        release_id: The release that is meant; empty: the open one.
        options: Options of ``compare``.
        minutes: Time to wait for a verdict; 0: one look, which is the last.
        seconds: Time between two looks.

    Returns:
        The last comparison, as ``Verbs.compare`` gives it.

    Raises:
        StateConflict: Another release is open, or none, or nothing is recorded.
    """
    verbs = _of_release(target, endpoint, release_id)
    config = compare_config(options=options)

    def look() -> View:
        return verbs.compare(endpoint, config)

    def line(view: View) -> str:
        return f"{view['verdict']['word']}: {view['verdict']['reason']}"

    view = _until(look, lambda view: view["verdict"]["word"] != "hold", line, minutes, seconds)
    if view["verdict"]["word"] == "hold":
        view = verbs.compare(endpoint, {**config, "final": True})
        say(line(view))
    return view


def declare(
    target: str,
    endpoint: str,
    *,
    release_id: str,
    winner: str,
    options: Mapping[str, Any],
    reason: str,
    counts: Mapping[str, Any] | None = None,
) -> View:
    """Give the winner of an A/B/n release all the traffic; given again after it has, say so and change nothing.

    Returns:
        The endpoint's view.

    Raises:
        StateConflict: The analysis names no winner, or another; or the release has ended otherwise, or another is open.
    """
    verbs = verbs_of(target)
    view = verbs.endpoint(endpoint)
    if _is_declared(verbs, view, endpoint, release_id, winner):
        say(f"release '{release_id}' has ended already: '{view['stable']}' has won")
        return view
    _check_release(view, endpoint, release_id)
    return verbs.declare(endpoint, declare_config(options=options, winner=winner, reason=reason, counts=counts)).view


def arms_table(view: View) -> str:
    """The arms as Markdown."""
    lines = [
        f"**{view['outcome']}**: {as_cell(view['reason'])}",
        "",
        f"| arm | weight | requests | {as_cell(view['kpi'])} | interval |",
    ]
    lines.append("|---|---|---|---|---|")
    for arm in view["arms"]:
        interval = "" if arm["lower"] is None else f"{_number(arm['lower'])} to {_number(arm['upper'])}"
        estimate = "" if arm["estimate"] is None else _number(arm["estimate"])
        lines.append(
            f"| {as_cell(arm['name'])} ({arm['role']}) | {arm['weight']} | {arm['requests']} | {estimate} | {interval} |"
        )
    return "\n".join(lines) + "\n"


def differences_table(view: View) -> str:
    """Verdict, figures and the most different requests as Markdown."""
    verdict = view["verdict"]
    lines = [f"**{verdict['word']}**: {as_cell(verdict['reason'])}", "", as_cell(view["terms"]), ""]
    for deployment, reasons in view.get("dropped", {}).items():
        if reasons:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            lines += [f"Not recorded by {as_cell(deployment)} since its recorders started: {as_cell(counts)}", ""]
    rows: Sequence[Mapping[str, Any]] = view["most_different"][:_LINES]
    if rows:
        columns = ("request_id", "difference", "note", "stable_output", "candidate_output", "input")
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(as_cell(str(row.get(key, ""))[:4000]) for key in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def arms_figures(view: View) -> dict[str, float]:
    """Each arm's requests and estimate by name."""
    figures: dict[str, float] = {}
    for arm in view["arms"]:
        figures[f"{arm['name']}/requests"] = float(arm["requests"])
        for key in ("estimate", "lower", "upper"):
            if arm[key] is not None:
                figures[f"{arm['name']}/{key}"] = float(arm[key])
    return figures


def _of_release(target: str, endpoint: str, release_id: str) -> Verbs:
    verbs = verbs_of(target)
    _check_release(verbs.endpoint(endpoint), endpoint, release_id)
    return verbs


def _is_declared(verbs: Verbs, view: View, endpoint: str, release_id: str, winner: str) -> bool:
    """Whether this winner was declared already, or stands where it would: an earlier try of this step, or a person."""
    ended = ended_as(view, release_id)
    if ended is None or view["release"] or winner not in ("", view["stable"]):
        return False
    if ended == "promoted":
        return bool(view["last_release"]["id"] == release_id)
    changes = [change for change in verbs.history(endpoint) if change["release"] == release_id]
    return any(change["evidence"].get("winner") == view["stable"] for change in changes[-1:])


def _check_release(view: View, endpoint: str, release_id: str) -> None:
    open_id = (view["release"] or {}).get("id")
    if release_id and open_id != release_id:
        ended = ended_as(view, release_id)
        there = f"'{open_id}' is" if open_id else "none is"
        late = f" (too late: it has ended as {ended})" if ended else ""
        raise StateConflict(f"release '{release_id}' of endpoint '{endpoint}' is not open: {there}{late}")


def _until(
    look: Callable[[], View],
    decided: Callable[[View], bool],
    line: Callable[[View], str],
    minutes: float,
    seconds: float,
) -> View:
    """Look until it is decided; a source that can't be read for a while is asked again."""
    check_waiting({"wait_minutes": minutes, "poll_seconds": seconds})
    last_line = ""

    def attempt() -> View | MlflowIstioError:
        nonlocal last_line
        try:
            view = look()
        except (MetricsError, RegistryError, ClusterError) as exc:
            say(f"warning: {exc.message}")
            return exc
        if line(view) != last_line:
            last_line = line(view)
            say(last_line)
        return view

    looking = Retrying(
        retry=retry_if_result(lambda answer: isinstance(answer, MlflowIstioError) or not decided(answer)),
        wait=wait_fixed(seconds),
        stop=stop_after_delay(minutes * 60),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    answer = looking(attempt)
    if isinstance(answer, MlflowIstioError):
        raise answer
    return answer


def _number(value: float) -> str:
    return f"{value:.4g}"
