"""The unit of the ledger: one change of an endpoint's traffic, with who, why, when and what it was before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import compact, from_json, parsed, stored, to_json
from mlflow_istio.core.endpoint.traffic import Destination, Traffic

_DIGEST_ROOM = 40

MAX_TAG = 4900
"""Characters of a tag's value that every MLflow database takes (5,000), with room for a store's own overhead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingChange:
    """One change of traffic.

    Attributes:
        id: Unique id; the probe route answers with it.
        sequence: Position in the endpoint's history, counted from 1.
        time: When the edit was made, in UTC.
        endpoint: The endpoint.
        action: The verb: deploy, start, shift, promote, rollback, abort, remove, delete.
        reason: Why, in a person's words; may be empty.
        who: Who or what made it.
        release: Id of the release it belongs to, or None.
        run: Id of the MLflow run it is recorded in, or None when it is not known yet.
        before: Traffic before; None when the endpoint came into being.
        after: Traffic after; None when the endpoint is deleted.
        versions: Deployment to ``MODEL/VERSION``, for every deployment the traffic names.
        resource_version: The VirtualService's resourceVersion the edit was based on; empty when it was created.
        evidence: What the decision rested on; small, JSON.
        stable: Who is stable after it; None when the endpoint is deleted, and in entries of earlier versions.
        control: The deployment of the stable's version that a candidate is compared with after it; empty where there is none.
        whole: Whether ``before`` and ``after`` are all that the traffic was; a tag that was too long holds only the split.
        digest: What its tag says of all else that the tag says; empty where it was not read from a tag, or from one of an
            earlier version.
        forged: Whether its tag was changed after it was written.
    """

    id: str
    sequence: int
    time: datetime
    endpoint: str = field(metadata=stored(context=True))
    action: str
    reason: str = ""
    who: str = ""
    release: str | None = None
    run: str | None = None
    before: Traffic | None
    after: Traffic | None
    versions: Mapping[str, str] = field(default_factory=dict)
    resource_version: str = field(default="", metadata=stored(name="resourceVersion"))
    evidence: Mapping[str, Any] = field(default_factory=dict)
    stable: Destination | None = field(default=None, metadata=stored(sparse=True))
    control: str = field(default="", metadata=stored(sparse=True))
    whole: bool = field(default=True, metadata=stored(derived=lambda change, _context: change.get("cut") != "traffic"))
    digest: str = field(default="", compare=False, metadata=stored(sparse=True))
    forged: bool = field(default=False, metadata=stored(derived=lambda change, _context: _is_forged(change)))

    @property
    def tag_key(self) -> str:
        """The run tag that holds this change; sorts by sequence, and no other change has it."""
        return f"istio.change.{self.sequence:06d}.{self.id}"

    def as_tag(self) -> str:
        """The change as a tag's value, at most ``MAX_TAG`` characters.

        What is too long is cut in the order of its worth: evidence, reason, policy and arms, all but the split, the
        split's smaller shares (the objects stand whole in the artifacts). A ``cut`` field says so, or which part: ``traffic``.
        """
        obj = to_json(self)
        cuts = (
            {"evidence": {}, "cut": True},
            {"reason": _cut(self.reason), "who": _cut(self.who)},
            {side: {**_without_policy(obj[side]), "arms": []} for side in ("before", "after") if obj[side]}
            | {"cut": "traffic"},
            {side: {"split": _live(obj[side])} for side in ("before", "after") if obj[side]} | {"versions": {}},
            {side: {"split": _largest(obj[side])} for side in ("before", "after") if obj[side]},
        )
        for cut in cuts:
            if len(compact(obj)) <= MAX_TAG - _DIGEST_ROOM:
                break
            obj = {**obj, **cut}
        return compact({**obj, "digest": _digest(obj)})


def change_from_tag(key: str, value: str) -> RoutingChange:
    """The change that a run's tag holds; one whose tag somebody changed is ``forged``.

    Raises:
        InvalidInput: It is no change any more.
    """
    change = from_json(RoutingChange, parsed(value, "it"))
    return change if change.tag_key == key else replace(change, forged=True)


def in_order(changes: Iterable[RoutingChange]) -> list[RoutingChange]:
    """A ledger's changes by sequence, each once; one without a digest among others that have one is forged.

    Two processes at once may each have made a run for a release and recorded the change there.
    """
    once = {change.id: change for change in changes}
    ordered = sorted(once.values(), key=lambda change: (change.sequence, change.time))
    sealed = False
    for index, change in enumerate(ordered):
        sealed = sealed or bool(change.digest)
        if sealed and not change.digest:
            ordered[index] = replace(change, forged=True)
    return ordered


def _digest(tag: Mapping[str, Any]) -> str:
    """What a tag should say of the rest of it; the run is left out, since a change may find its run deleted."""
    rest = {key: value for key, value in tag.items() if key not in ("digest", "run")}
    return hashlib.sha256(compact(rest).encode()).hexdigest()[:16]


def _is_forged(tag: Mapping[str, Any]) -> bool:
    return bool(tag.get("digest")) and tag["digest"] != _digest(tag)


def _cut(text: str) -> str:
    """At most 350 characters as JSON writes them; outside ASCII one character takes six or twelve of those."""
    longest = text[:350]
    while len(json.dumps(longest)) > 350:
        longest = longest[: len(longest) * 9 // 10]
    return longest


def _without_policy(traffic: Object) -> Object:
    return {key: value for key, value in traffic.items() if key != "policy"}


def _live(traffic: Object) -> list[Object]:
    return [share for share in traffic["split"] if share["weight"]]


def _largest(traffic: Object) -> list[Object]:
    """The three largest shares, and the rest as one, so that the weights still sum to 100."""
    shares = sorted(_live(traffic), key=lambda share: -int(share["weight"]))
    rest = sum(share["weight"] for share in shares[3:])
    others: Object = {"host": f"({len(shares) - 3} others)", "weight": rest}
    return [*shares[:3], *([others] if rest else [])]


def in_standing_run(change: RoutingChange) -> str:
    """The warning that a change could not go to its own run."""
    return (
        f"MLflow run '{change.run}' was deleted, so change {change.sequence} of endpoint '{change.endpoint}' is in its standing "
        f"run; 'mlflow runs restore --run-id {change.run}' brings back what is in that one"
    )
