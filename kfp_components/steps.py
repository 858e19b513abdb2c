"""What the components do, as plain functions: a verb is called and its result said in plain values.

Each may be given again after it died (KFP retries a step): the verbs finish what is left, and nothing is done twice.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from kfp_components.final_state import final_state
from kfp_components.inputs import (
    check_approval,
    create_config,
    delete_config,
    given,
    release_config,
    traffic_config,
)
from kfp_components.texts import View as View
from kfp_components.texts import as_cell as as_cell
from kfp_components.texts import as_markdown as as_markdown
from kfp_components.texts import describe as describe
from kfp_components.texts import say as say
from kfp_components.texts import traffic_line
from kfp_components.texts import write_text as write_text
from mlflow_istio.core.endpoint.endpoint import MAX_EARLIER
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, RegistryError, StateConflict
from mlflow_istio.releases.reporting import OUTCOMES
from mlflow_istio.verbs import Verbs

if TYPE_CHECKING:
    from mlflow_istio.releases.driving.drive import Seen

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


def deploy(
    target: str,
    endpoint: str,
    name: str,
    model_uri: str,
    options: Mapping[str, Any],
    reason: str,
    release_id: str = "",
) -> View:
    """Deploy a version at weight 0 (the first of an endpoint gets all the traffic); its view, with the endpoint's url."""
    verbs = verbs_of(target)
    config = create_config(options=options, reason=reason, release_id=release_id)
    view = verbs.create(name, model_uri, None, endpoint, config).view
    return {**view, "url": verbs.endpoint(endpoint)["url"]}


def delete_deployment(target: str, endpoint: str, name: str, options: Mapping[str, Any], reason: str) -> bool:
    """Take a deployment of this very endpoint away; whether it was there."""
    result = verbs_of(target).delete(name, endpoint, delete_config(options=options, reason=reason))
    say(f"deployment '{name}' is gone" + ("" if result.changed else " already"))
    return result.changed


def delete_endpoint(target: str, endpoint: str, options: Mapping[str, Any], reason: str) -> bool:
    """Take an endpoint away with its deployments; whether it was there."""
    result = verbs_of(target).delete_endpoint(endpoint, delete_config(options=options, reason=reason))
    say(f"endpoint '{endpoint}' is gone" + ("" if result.changed else " already"))
    return result.changed


def move_traffic(target: str, endpoint: str, **parameters: Any) -> View:
    """Start a release or change the weights of the open one; the endpoint's view."""
    result = verbs_of(target).update_endpoint(endpoint, traffic_config(**parameters))
    say(f"{endpoint}: {traffic_line(result.view)}" + ("" if result.changed else " (nothing to do)"))
    return result.view


def promote(target: str, endpoint: str, release_id: str, candidate: str, reason: str, keep_old: str = "") -> View:
    """Promote the candidate of this very release; the endpoint's view."""
    named = given(release_id=release_id, candidate=candidate, reason=reason, keep_old=keep_old)
    config = {"action": "promote", **named}
    result = verbs_of(target).update_endpoint(endpoint, config)
    say(f"{endpoint}: {traffic_line(result.view)}" + ("" if result.changed else " (was promoted already)"))
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

    Raises:
        StateConflict: The release was promoted, and it is too late to undo that: another one is the newest.
    """
    verbs = verbs_of(target)
    try:
        view = verbs.endpoint(endpoint)
    except NotFound:
        say(f"there is no endpoint '{endpoint}': nothing to roll back")
        return "not opened"
    if (view["release"] or {}).get("id") != release_id:
        outcome = ended_as(view, release_id) or _recorded_end(verbs, endpoint, view, release_id) or "not opened"
        # An earlier try may have died after its edit, before it was proved and recorded.
        unproved = outcome == "rolled-back" and _is_newest(view, release_id)
        if not unproved and (outcome != "promoted" or not undo_promotion):
            say(f"release '{release_id}' of '{endpoint}' is {outcome}: nothing to roll back")
            return outcome
        if not _is_newest(view, release_id):
            newest = (view["release"] or view["last_release"])["id"]
            raise StateConflict(
                f"too late: release '{release_id}' of endpoint '{endpoint}' was promoted, and release '{newest}' came after it: a "
                f"step can't undo the older one; 'mlflow-istio history {endpoint}' shows the changes, and 'mlflow-istio rollback "
                f"{endpoint} --to CHANGE' goes back to one"
            )
    config = {"action": "rollback", **given(release_id=release_id, reason=reason)}
    try:
        verbs.update_endpoint(endpoint, config, undo_promotion=undo_promotion)
    except StateConflict:
        if undo_promotion or ended_as(verbs.endpoint(endpoint), release_id) != "promoted":
            raise
        say(f"release '{release_id}' of '{endpoint}' was promoted meanwhile: nothing to roll back")
        return "promoted"
    say(f"{endpoint}: {traffic_line(verbs.endpoint(endpoint))}")
    return "rolled-back"


def _is_newest(view: View, release_id: str) -> bool:
    return bool((view["release"] or view["last_release"] or {}).get("id") == release_id)


def ended_as(view: View, release_id: str) -> str | None:
    """How the release of an id ended, as far as the endpoint remembers; None where it is open, or was never there."""
    if not release_id or (view["release"] or {}).get("id") == release_id:
        return None
    last = view.get("last_release") or {}
    if last.get("id") == release_id:
        return str(last["outcome"])
    earlier = [release["outcome"] for release in view.get("earlier_releases", ()) if release["id"] == release_id]
    return str(earlier[-1]) if earlier else None


def _recorded_end(verbs: Verbs, endpoint: str, view: View, release_id: str) -> str | None:
    """How a release ended that the endpoint itself has forgotten; the ledger remembers all of them."""
    if len(view.get("earlier_releases", ())) < MAX_EARLIER:
        return None  # it has forgotten none
    try:
        changes = verbs.history(endpoint)
    except (RegistryError, InvalidInput) as exc:  # down, or nobody names it here
        say(f"warning: whether there was a release '{release_id}' long ago can't be told: {exc.message}")
        return None
    actions = [change["action"] for change in changes if change["release"] == release_id]
    return next((OUTCOMES[action] for action in reversed(actions) if action in OUTCOMES), None)


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

    def waits_for_somebody(release: View) -> bool:
        progress = release.get("progress")
        if progress is not None and not progress["stopped"] and release.get("state") != "paused":
            return False
        say(f"warning: release '{release_id}' of '{endpoint}' is left open: promote it or roll it back")
        return True

    release = look()
    if release is None:
        return False
    if waits_for_somebody(release):
        return True
    driver = release["progress"]["driver"]
    if driver is None:
        return False
    remaining = datetime.fromisoformat(driver["alive_until"]) - datetime.now(timezone.utc)
    seconds = min(max(0.0, remaining.total_seconds()), _LONGEST_WAIT)
    say(f"waiting {seconds:.0f} s for the driver of release '{release_id}' to show that it lives")
    time.sleep(seconds)
    release = look()
    if release is None:
        return False
    if waits_for_somebody(release):
        return True
    now = release["progress"]["driver"]
    if now is None or (now == driver and remaining.total_seconds() <= _LONGEST_WAIT):
        return False
    shown = f"may still be driven by {now['who']}" if now == driver else f"is driven by {now['who']}"
    say(f"warning: release '{release_id}' of '{endpoint}' {shown}, alive until {now['alive_until']}: left open")
    return True


_LONGEST_WAIT = 600.0
"""Seconds that an exit handler waits for a sign of life; a driver with a long interval shows one less often."""


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
    wanted = config.get("release_id", "")
    before = verbs.endpoint(endpoint)
    ended = ended_as(before, wanted)
    if wanted and (before["release"] or {}).get("id") == wanted:
        say(f"release '{wanted}' is open already: going on with it, if it is this plan's")
    # Whether the id stands for this very plan is decided there, for every way in.
    result = verbs.release(endpoint, model_uri, config, watch=_Watch()).view
    if ended is not None:
        say(f"release '{wanted}' has ended already: {ended}")
        result = {**result, "verdict": {"word": _WORDS[ended], "reason": ""}}
    return _told(verbs, endpoint, result)


def read_ledger(target: str, endpoint: str, release_id: str) -> list[View]:
    """Record what the registry does not have yet, and return the changes of an endpoint, or those of one release."""
    changes = verbs_of(target).history(endpoint)
    return [change for change in changes if not release_id or change["release"] == release_id]


def wait_for_approval(
    target: str,
    endpoint: str,
    candidate: str,
    *,
    tag: str,
    timeout: float,
    default: str,
    interval: float,
    release_id: str = "",
) -> tuple[bool, str]:
    """Wait until a person has set a tag on the candidate's model version.

    The tag's key ends with the release's id, so that the answer to an earlier release is none to this one. A registry that
    can't be reached for a while is asked again: nobody has answered yet.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        candidate: The deployment.
        tag: Begin of the tag's key.
        timeout: Seconds to wait.
        default: What no answer means: ``approve`` or ``reject``.
        interval: Seconds between two looks.
        release_id: The release that is asked about; empty: the open one.

    Returns:
        Whether it was approved, and the answer in words.

    Raises:
        InvalidInput: The tag says something else, or ``default`` does; or no release is named, and none is open.
        StateConflict: The release has ended, or has another candidate.
    """
    check_approval({"default": default, "timeout_minutes": timeout, "poll_seconds": interval})
    verbs = verbs_of(target)
    label = verbs.deployment(candidate, endpoint)["model_version"]
    release = _asked_about(verbs, endpoint, candidate, release_id)
    if release:
        tag = f"{tag}.{release}"
    say(f"waiting for tag '{tag}' (approved or rejected) on models:/{label}, at most {timeout:g} s, then: {default}")

    def ask() -> str | None:
        try:
            return verbs.version_tag(label, tag)
        except RegistryError as exc:
            say(f"warning: {exc.message}")
            return None

    asking = Retrying(
        retry=retry_if_result(lambda answer: answer is None),
        wait=wait_fixed(interval),
        stop=stop_after_delay(timeout),
        retry_error_callback=lambda _state: None,
    )
    answer = asking(ask)
    if answer is None:
        return default == "approve", f"nobody set tag '{tag}' in {timeout:g} s: {default}"
    if answer not in ("approved", "rejected"):
        raise InvalidInput(f"tag '{tag}' of models:/{label} is {answer!r}: set it to approved or rejected")
    return answer == "approved", f"tag '{tag}' of models:/{label} says {answer}"


def _asked_about(verbs: Verbs, endpoint: str, candidate: str, release_id: str) -> str:
    """The release that an approval belongs to; one that is named may be opened later."""
    try:
        view = verbs.endpoint(endpoint)
    except NotFound:  # its first deployment is on the way, and there is nothing to release yet
        return release_id
    ended = ended_as(view, release_id)
    if ended is not None:
        raise StateConflict(f"too late: release '{release_id}' of endpoint '{endpoint}' has ended as {ended}")
    release = view["release"] or {}
    if release_id in ("", release.get("id")) and release and candidate not in release.get("candidates", (candidate,)):
        raise StateConflict(
            f"'{candidate}' is no candidate of release '{release['id']}': its candidates are {', '.join(release['candidates'])}"
        )
    if not release_id and not release:
        raise InvalidInput(
            f"an approval belongs to a release, and none of endpoint '{endpoint}' is open: give release_id "
            "(dsl.PIPELINE_JOB_ID_PLACEHOLDER)"
        )
    return release_id or str(release["id"])


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
        line = f"{traffic_line({'traffic': seen.endpoint.traffic.weights})}: {seen.verdict.word}: {seen.verdict.reason}"
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
