"""What the components do, as plain functions: a verb is called and its result said in plain values.

Each may be given again after it died (KFP retries a step): the verbs finish what is left, and nothing is done twice.
"""

from __future__ import annotations

import html
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from kfp_components.final_state import final_state
from kfp_components.inputs import check_approval, create_config, given, release_config, traffic_config
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, RegistryError
from mlflow_istio.options.release import ResumeOptions
from mlflow_istio.verbs import Verbs

if TYPE_CHECKING:
    from mlflow_istio.releases.driving.drive import Seen

View = dict[str, Any]
Said = TypeVar("Said")


def step(work: Callable[[], Said]) -> Said:
    """Do a step's work; one of our errors ends it with a line in its log instead of a traceback."""
    try:
        return work()
    except MlflowIstioError as exc:
        sys.exit(f"error: {exc}")


def verbs_of(target: str) -> Verbs:
    """The verbs of a target, which tell the step's log what they do."""
    return Verbs(target, tell=say, warn=lambda line: say(f"warning: {line}"))


def deploy(target: str, endpoint: str, name: str, model_uri: str, options: Mapping[str, Any], reason: str) -> View:
    """Deploy a version at weight 0 (the first of an endpoint gets all the traffic); its view, with the endpoint's url."""
    verbs = verbs_of(target)
    view = verbs.create(name, model_uri, None, endpoint, create_config(options=options, reason=reason)).view
    return {**view, "url": verbs.endpoint(endpoint)["url"]}


def move_traffic(target: str, endpoint: str, **parameters: Any) -> View:
    """Start a release or change the weights of the open one; the endpoint's view."""
    result = verbs_of(target).update_endpoint(endpoint, traffic_config(**parameters))
    say(f"{endpoint}: {_traffic(result.view)}" + ("" if result.changed else " (nothing to do)"))
    return result.view


def promote(target: str, endpoint: str, release_id: str, candidate: str, reason: str) -> View:
    """Promote the candidate of this very release; the endpoint's view."""
    config = {"action": "promote", **given(release_id=release_id, candidate=candidate, reason=reason)}
    result = verbs_of(target).update_endpoint(endpoint, config)
    say(f"{endpoint}: {_traffic(result.view)}" + ("" if result.changed else " (was promoted already)"))
    return result.view


def roll_back(target: str, endpoint: str, release_id: str, reason: str, *, undo_promotion: bool = True) -> str:
    """Roll this very release back, if there is anything of it to roll back.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        release_id: The release; one that was never opened, or ended otherwise, leaves nothing to do.
        reason: Why, for the ledger.
        undo_promotion: Whether a release that was promoted is undone, too.

    Returns:
        ``rolled-back``, or why there was nothing to do: ``not opened``, ``promoted``, ``aborted``, ``superseded``.
    """
    verbs = verbs_of(target)
    try:
        view = verbs.endpoint(endpoint)
    except NotFound:
        say(f"there is no endpoint '{endpoint}': nothing to roll back")
        return "not opened"
    is_open = bool(view["release"]) and view["release"]["id"] == release_id
    last = view["last_release"] or {}
    if not is_open:
        outcome = last.get("outcome", "") if last.get("id") == release_id else "not opened"
        if outcome != "promoted" or not undo_promotion:
            say(f"release '{release_id}' of '{endpoint}' is {outcome}: nothing to roll back")
            return str(outcome)
    verbs.update_endpoint(endpoint, {"action": "rollback", **given(release_id=release_id, reason=reason)})
    say(f"{endpoint}: {_traffic(verbs.endpoint(endpoint))}")
    return "rolled-back"


def end_pipeline(
    target: str, endpoint: str, release_id: str, *, state: str | None, message: str | None, undo_promotion: bool
) -> str:
    """Undo a pipeline's release if its steps failed or were cancelled.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        release_id: The pipeline's release.
        state: The word that KFP has for how the guarded steps ended, as it came.
        message: KFP's message, where there is one.
        undo_promotion: Whether a failure undoes a promotion, too; a state that is unclear never does.

    Returns:
        ``succeeded``, ``left open``, or what ``roll_back`` says.
    """
    ended = final_state(state)
    if ended == "succeeded":
        return "succeeded"
    reason = f"the pipeline ended as {state}: {message or 'no message'}"
    if ended != "unclear":
        return roll_back(target, endpoint, release_id, reason, undo_promotion=undo_promotion)
    say(f"warning: KFP says '{state}' of the guarded steps, which is neither success nor failure: the release decides")
    if _left_open(verbs_of(target), endpoint, release_id):
        return "left open"
    return roll_back(target, endpoint, release_id, f"{reason}; its step died", undo_promotion=False)


def _left_open(verbs: Verbs, endpoint: str, release_id: str) -> bool:
    """Whether a release is open because somebody wants it so, and not because the step that drove it has died.

    A dead driver leaves a sign of life that runs out; a live one renews it.
    """

    def look() -> View | None:
        try:
            release: View | None = verbs.endpoint(endpoint)["release"]
        except NotFound:
            return None
        return release if release and release["id"] == release_id else None

    release = look()
    progress = (release or {}).get("progress")
    if release is None:
        return False
    if progress is None or progress["stopped"]:
        say(f"warning: release '{release_id}' of '{endpoint}' is left open: promote it or roll it back")
        return True
    driver = progress["driver"]
    if driver is None:
        return False
    remaining = datetime.fromisoformat(driver["alive_until"]) - datetime.now(timezone.utc)
    say(f"waiting until the driver of release '{release_id}' must have shown that it lives")
    time.sleep(max(0.0, remaining.total_seconds()))
    now = ((look() or {}).get("progress") or {}).get("driver")
    if now is None or now == driver:
        return False
    say(f"warning: release '{release_id}' of '{endpoint}' is driven by {now['who']}: left open")
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """How a release ended.

    Attributes:
        outcome: promoted, rolled-back, inconclusive, held, aborted or superseded.
        verdict: advance, hold, rollback or inconclusive.
        reason: The verdict in a sentence.
        release_id: The release.
        figures: The last look's figures by name.
        report: The release as a page of HTML.
        summary: Outcome, reason and routing changes, as Markdown.
    """

    outcome: str
    verdict: str
    reason: str
    release_id: str
    figures: Mapping[str, float]
    report: str
    summary: str


def release(target: str, endpoint: str, model_uri: str, **parameters: Any) -> Released:
    """Release a version to its verdict; tried again, go on with the same release or say how it ended.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        model_uri: ``models:/NAME/VERSION``.
        parameters: name, strategy, steps, release_id, options and reason of ``release_version``.
    """
    verbs = verbs_of(target)
    config = release_config(**parameters)
    view = verbs.endpoint(endpoint)
    known, ended = view["release"] or {}, view["last_release"] or {}
    wanted = config.get("release_id")
    if wanted and known.get("id") == wanted and "progress" in known:
        # Only an earlier try of this very step can have been its driver, and that one is dead.
        say(f"release '{wanted}' is open already: going on with it")
        sources = {key: value for key, value in config.items() if key in ResumeOptions.model_fields}
        result = verbs.resume_release(endpoint, {**sources, "force": True}, watch=_Watch()).view
    elif wanted and not known and ended.get("id") == wanted:
        say(f"release '{wanted}' has ended already: {ended['outcome']}")
        result = {
            "outcome": ended["outcome"],
            "release_id": wanted,
            "verdict": {"word": _WORDS[ended["outcome"]], "reason": ""},
        }
    else:
        result = verbs.release(endpoint, model_uri, config, watch=_Watch()).view
    return _told(verbs, endpoint, result)


def read_ledger(target: str, endpoint: str, release_id: str) -> list[View]:
    """Record what the registry does not have yet, and return the changes of an endpoint, or those of one release."""
    changes = verbs_of(target).history(endpoint)
    return [change for change in changes if not release_id or change["release"] == release_id]


def wait_for_approval(
    target: str, endpoint: str, candidate: str, *, tag: str, timeout: float, default: str, interval: float
) -> tuple[bool, str]:
    """Wait until a person has set a tag on the candidate's model version.

    A registry that can't be reached for a while is asked again: nobody has answered yet.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        candidate: The deployment.
        tag: Key of the tag.
        timeout: Seconds to wait.
        default: What no answer means: ``approve`` or ``reject``.
        interval: Seconds between two looks.

    Returns:
        Whether it was approved, and the answer in words.

    Raises:
        InvalidInput: The tag says something else, or ``default`` does.
    """
    check_approval({"default": default, "timeout_minutes": timeout, "poll_seconds": interval})
    verbs = verbs_of(target)
    label = verbs.deployment(candidate, endpoint)["model_version"]
    say(f"waiting for tag '{tag}' (approved or rejected) on models:/{label}, at most {timeout:g} s, then: {default}")

    def ask() -> str | None:
        try:
            return verbs.version_tag(label, tag)
        except RegistryError as exc:
            say(f"warning: {exc.message}")
            return None

    asking = Retrying(
        retry=retry_if_result(lambda said: said is None),
        wait=wait_fixed(interval),
        stop=stop_after_delay(timeout),
        retry_error_callback=lambda _state: None,
    )
    said = asking(ask)
    if said is None:
        return default == "approve", f"nobody set tag '{tag}' in {timeout:g} s: {default}"
    if said not in ("approved", "rejected"):
        raise InvalidInput(f"tag '{tag}' of models:/{label} is {said!r}: set it to approved or rejected")
    return said == "approved", f"tag '{tag}' of models:/{label} says {said}"


def as_markdown(endpoint: str, changes: list[View]) -> str:
    """The changes as a table that the KFP UI shows."""
    from mlflow_istio.showing.tables import traffic_text

    lines = [
        f"# {endpoint}: {len(changes)} routing changes",
        "",
        "| # | time (UTC) | action | traffic | who | reason |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for change in changes:
        cells = (
            str(change["sequence"]),
            change["time"][:19].replace("T", " "),
            change["action"],
            traffic_text(change),
            change["who"],
            change["reason"],
        )
        lines.append("| " + " | ".join(as_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def describe(artifact: Any, view: View) -> None:
    """Write what an endpoint or deployment is as an artifact's metadata and content."""
    artifact.metadata.update({key: _plain(value) for key, value in view.items()})
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    Path(artifact.path).write_text(json.dumps(view, indent=2, default=str), encoding="utf-8")


def write_text(artifact: Any, text: str) -> None:
    """Write the content of an HTML or Markdown artifact."""
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    Path(artifact.path).write_text(text, encoding="utf-8")


_WORDS = {
    "promoted": "advance",
    "rolled-back": "rollback",
    "inconclusive": "inconclusive",
    "aborted": "hold",
    "superseded": "hold",
}
"""How a release ended to the verdict it must have had, for a step that comes after the end."""


class _Watch:
    """A line for the step's log whenever something else than the figures changed."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, seen: Seen) -> None:
        line = f"{_traffic({'traffic': seen.endpoint.traffic.weights})}: {seen.verdict.word}: {seen.verdict.reason}"
        if line != self._said:
            self._said = line
            say(line)


def _told(verbs: Verbs, endpoint: str, result: View) -> Released:
    """The end of a release with what the registry has of it; a registry that is down costs the pictures, not the outcome."""
    release_id, outcome = str(result["release_id"]), str(result["outcome"])
    word, reason = result["verdict"]["word"], result["verdict"]["reason"]
    figures: Mapping[str, float] = {}
    page, changes = "", []
    try:
        changes = [change for change in verbs.history(endpoint) if change["release"] == release_id]
        figures = verbs.last_figures(endpoint, release_id)
        page = verbs.report(endpoint, release_id).page
    except MlflowIstioError as exc:
        say(f"warning: {exc.message}")
    reason = reason or next((change["reason"] for change in reversed(changes) if change["reason"]), outcome)
    head = f"**{outcome}** ({word}): {as_cell(reason)}\n\n"
    return Released(
        outcome=outcome,
        verdict=word,
        reason=reason,
        release_id=release_id,
        figures=figures,
        report=page or f"<p>{html.escape(outcome)}: {html.escape(reason)}</p>",
        summary=head + as_markdown(endpoint, changes),
    )


def _traffic(view: View) -> str:
    return ", ".join(f"{name} {weight}%" for name, weight in view.get("traffic", {}).items())


def as_cell(text: str) -> str:
    """A text inside a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    """Artifact metadata are a protobuf struct: numbers, texts, lists and maps."""
    return json.loads(json.dumps(value, default=str))


def say(line: str) -> None:
    """A line for the step's log."""
    print(line, flush=True)
