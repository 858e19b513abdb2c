"""Each side is brought up once, and all cases are asked at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.corpus import answers, asking
from tests.corpus.cases import Case
from tests.corpus.sides import Side, install_all

_AT_ONCE = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one side made of the cases.

    Attributes:
        refusals: Why each was refused, or empty.
        answers: What was answered, or the exception, by the name of the case.
    """

    refusals: dict[str, str]
    answers: dict[str, Any]

    def of(self, case: Case) -> Any:
        """The answers to a case; raises what went wrong."""
        found = self.answers[case.name]
        if isinstance(found, Exception):
            raise found
        return found


def ask_all(side: Side, cases: Sequence[Case], *, install_at_once: int) -> Found:
    """Install all cases on a side and ask those that were taken."""
    refusals = install_all(side, cases, at_once=install_at_once)
    asking.wait_reachable(side)
    known = {family: answers.recorded(family) for family in {case.family for case in cases}}

    def answer(case: Case) -> Any:
        try:
            return asking.ask(side, case, known[case.family].get(case.name))
        except Exception as exc:  # noqa: BLE001 - the case's own test raises it
            return exc

    taken = [case for case in cases if case.requests and not refusals[case.name]]
    asking.wait_installed(side, taken)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = dict(zip([case.name for case in taken], pool.map(answer, taken), strict=True))
    return Found(refusals=refusals, answers=found)
