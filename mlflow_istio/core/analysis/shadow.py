"""Shadow comparison: the candidate answers a copy of live requests, and its answers are held against the stable's.

Records of both sides are joined by request id (the mirrored request carries the same `x-request-id`). A caller chooses ids, too, so
only copies of one request are a pair: the first of its id on either side, not pinned, with the same body. A tally takes in
joined records batch by batch and is small enough to keep; `shadow_verdict` turns it into figures and a verdict.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_istio.core.analysis.answers import AnswerRule, compare_answers
from mlflow_istio.core.analysis.interval import finite
from mlflow_istio.core.analysis.means import NO_MOMENTS, Moments
from mlflow_istio.core.basics.stored import form, stored
from mlflow_istio.errors import InvalidInput

MOST_DIFFERENT = 20
"""How many of the most different requests are kept."""
_FAILURES_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowRecord:
    """What the recorder wrote of one answer.

    Attributes:
        request_id: The shared `x-request-id`.
        deployment: The deployment that answered.
        status: HTTP status.
        milliseconds: Time to answer.
        output: The decoded answer: a list of predictions, `{"predictions": [...]}`, or one value; None where the recorder
            was told to keep no output.
        body: Digest of the request's body; empty where the recorder is of a version that wrote none.
        pinned: Whether the caller chose who answers.
    """

    request_id: str
    deployment: str
    status: int
    milliseconds: float
    output: Any = None
    body: str = ""
    pinned: bool = False

    @property
    def failed(self) -> bool:
        """Whether the status isn't 2xx or 3xx."""
        return not 200 <= self.status < 400

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ShadowRecord":
        """Read one line of the recorder: `request_id`, `deployment`, `status`, `ms` and perhaps `output`.

        Raises:
            InvalidInput: If a field is missing or a number isn't one.
        """
        try:
            return cls(
                request_id=str(data["request_id"]),
                deployment=str(data["deployment"]),
                status=int(data["status"]),
                milliseconds=float(data["ms"]),
                output=data.get("output"),
                body=str(data.get("body", "")),
                pinned=bool(data.get("pinned", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"a recorded answer can't be read: {error!r}; is this the recorder's log?") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedRecords:
    """Both sides' records, joined.

    Attributes:
        pairs: (stable, candidate) with the same request id.
        stable_only: Requests only the stable recorded.
        candidate_only: Requests only the candidate recorded.
        repeated: Records left out because an earlier one of the side had the same request id (a retry, or a caller's choice).
        pinned: Records left out because the caller chose who answers.
        other_body: Requests left out because the two sides got different bodies under one id.
    """

    pairs: tuple[tuple[ShadowRecord, ShadowRecord], ...]
    stable_only: int = 0
    candidate_only: int = 0
    repeated: int = 0
    pinned: int = 0
    other_body: int = 0


def join_records(stable: Iterable[ShadowRecord], candidate: Iterable[ShadowRecord]) -> JoinedRecords:
    """Join records by request id, oldest first; of several with one id on a side the first counts.

    Join only complete batches: a request whose other half is still on its way counts as unmatched.
    """
    sides = []
    repeated = pinned = 0
    for records in (stable, candidate):
        by_id: dict[str, ShadowRecord] = {}
        for record in records:
            pinned += record.pinned
            repeated += not record.pinned and record.request_id in by_id
            if not record.pinned:
                by_id.setdefault(record.request_id, record)
        sides.append(by_id)
    ours, theirs = sides
    both = [(record, theirs[key]) for key, record in ours.items() if key in theirs]
    pairs = tuple(pair for pair in both if pair[0].body == pair[1].body)
    return JoinedRecords(
        pairs=pairs,
        stable_only=len(ours) - len(both),
        candidate_only=len(theirs) - len(both),
        repeated=repeated,
        pinned=pinned,
        other_body=len(both) - len(pairs),
    )


@form(row=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class DifferentRequest:
    """A request whose answers differ.

    Attributes:
        request_id: Its id.
        difference: How much the answers differ; larger is worse (infinite when they can't be compared).
        note: What differs, in words.
    """

    request_id: str
    difference: float = field(
        metadata=stored(write=finite, read=lambda data, _context: math.inf if data is None else data)
    )
    note: str


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowTally:
    """Everything counted so far; start with `ShadowTally(rule=AnswerRule(...))`.

    Attributes:
        rule: How two answers are compared.
        stable_only: Requests without the candidate's record.
        candidate_only: Requests without the stable's record.
        repeated: Records left out as retries, or as requests under an id that was used already.
        pinned: Records left out because the caller chose who answers.
        other_body: Requests left out because the two sides got different bodies under one id.
        both_succeeded: Pairs in which both answered; only their outputs and times are compared.
        compared: Of these, the pairs whose outputs were recorded on both sides.
        both_failed: Pairs in which both failed.
        candidate_failed: Pairs in which only the candidate failed.
        stable_failed: Pairs in which only the stable failed.
        agreeing: Pairs whose whole answers agree.
        rows: Predictions compared, several to a request.
        rows_agreeing: Predictions that agree.
        differences: Moments of the signed difference (candidate minus stable), mean over a request, numbers only.
        log_slowdown: Moments of log(candidate's time / stable's time).
        most_different: The `MOST_DIFFERENT` most different requests, worst first.
        scores: Moments of the texts' scores, mean over a request.
        cut: Of the compared pairs, those of whose texts only the beginning was.
        unscored: Pairs for which the scorer had no score; they are not among the compared.
        failures: The first of them, by request id, with the reason.
        fields: Where in the answers what was compared stood.
    """

    rule: AnswerRule
    stable_only: int = 0
    candidate_only: int = 0
    repeated: int = 0
    pinned: int = field(default=0, metadata=stored(sparse=True))
    other_body: int = field(default=0, metadata=stored(sparse=True))
    both_succeeded: int = 0
    compared: int = 0
    both_failed: int = 0
    candidate_failed: int = 0
    stable_failed: int = 0
    agreeing: int = 0
    rows: int = 0
    rows_agreeing: int = 0
    differences: Moments = NO_MOMENTS
    log_slowdown: Moments = NO_MOMENTS
    most_different: tuple[DifferentRequest, ...] = ()
    scores: Moments = field(default=NO_MOMENTS, metadata=stored(sparse=True))
    cut: int = field(default=0, metadata=stored(sparse=True))
    unscored: int = field(default=0, metadata=stored(sparse=True))
    failures: tuple[DifferentRequest, ...] = field(default=(), metadata=stored(sparse=True))
    fields: tuple[str, ...] = field(default=(), metadata=stored(sparse=True))

    @property
    def pairs(self) -> int:
        """Joined requests."""
        return self.both_succeeded + self.both_failed + self.candidate_failed + self.stable_failed

    @property
    def unmatched_share(self) -> float:
        """The share of requests that only one side recorded; 0 without requests."""
        unmatched = self.stable_only + self.candidate_only
        return unmatched / (unmatched + self.pairs) if unmatched else 0.0

    def update(self, joined: JoinedRecords) -> "ShadowTally":
        """Return the tally with one more batch; the order of batches and records doesn't matter."""
        succeeded = [pair for pair in joined.pairs if not (pair[0].failed or pair[1].failed)]
        recorded = [(a, b) for a, b in succeeded if a.output is not None and b.output is not None]
        results = [
            (stable.request_id, compare_answers(stable.output, candidate.output, self.rule))
            for stable, candidate in recorded
        ]
        compared = [result for _, result in results if not result.unscored]
        differing, unscored = (
            [
                DifferentRequest(request_id=key, difference=result.difference, note=result.note)
                for key, result in results
                if not result.agrees and bool(result.unscored) == failed
            ]
            for failed in (False, True)
        )
        slowdown = [
            math.log(candidate.milliseconds) - math.log(stable.milliseconds)
            for stable, candidate in succeeded
            if stable.milliseconds > 0 and candidate.milliseconds > 0
        ]
        signed = [result.signed for result in compared if result.signed is not None]
        return replace(
            self,
            stable_only=self.stable_only + joined.stable_only,
            candidate_only=self.candidate_only + joined.candidate_only,
            repeated=self.repeated + joined.repeated,
            pinned=self.pinned + joined.pinned,
            other_body=self.other_body + joined.other_body,
            both_succeeded=self.both_succeeded + len(succeeded),
            compared=self.compared + len(compared),
            both_failed=self.both_failed + sum(a.failed and b.failed for a, b in joined.pairs),
            candidate_failed=self.candidate_failed + sum(b.failed and not a.failed for a, b in joined.pairs),
            stable_failed=self.stable_failed + sum(a.failed and not b.failed for a, b in joined.pairs),
            agreeing=self.agreeing + len(compared) - len(differing),
            rows=self.rows + sum(result.rows for result in compared),
            rows_agreeing=self.rows_agreeing + sum(result.rows_agreeing for result in compared),
            differences=self.differences.plus(Moments.of(signed)),
            log_slowdown=self.log_slowdown.plus(Moments.of(slowdown)),
            most_different=_worst([*self.most_different, *differing]),
            scores=self.scores.plus(Moments.of([result.score for result in compared if result.score is not None])),
            cut=self.cut + sum(result.cut for result in compared),
            unscored=self.unscored + len(unscored),
            failures=_worst([*self.failures, *unscored])[:_FAILURES_SHOWN],
            fields=tuple(sorted({*self.fields, *(path for _, result in results for path in result.fields)})),
        )


def _worst(items: Sequence[DifferentRequest]) -> tuple[DifferentRequest, ...]:
    ranked = sorted(items, key=lambda item: (-item.difference, item.request_id))
    return tuple(ranked[:MOST_DIFFERENT])
