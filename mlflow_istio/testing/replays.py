"""A release on counts of yours, by its options: what would it have done?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.release.replay import Counts, Replay, Traffic, replayed
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.release import ReleaseOptions, check_release_options
from mlflow_istio.options.release_plan import plan_against

__all__ = ["Counts", "Replay", "Traffic", "replay"]


def replay(
    config: Mapping[str, Any] | None,
    traffic: Traffic,
    *,
    looks: int,
    stable: str = "stable",
    candidate: str = "candidate",
    control: str = "control",
) -> Replay:
    """Run a release on given counts, without clock or cluster; what decides live decides here.

    Args:
        config: Options of ``release``, as ``client.release`` and ``-C`` take them. The environment's defaults don't count, so that
            the same call always gives the same. Options that only a place has (pods, addresses, the ledger) are read and change
            nothing; approvals and webhooks count as given at once; a ``watch`` goes on after the promotion; figures come from
            ``traffic`` whatever ``metrics`` says.
        traffic: Called for looks 1, 2, ..., look k at k times ``interval`` seconds, with the percents of the interval that ends
            there (``{"stable": 95.0, "candidate": 5.0}``); returns the counts of that interval alone (not since the start) by
            name. At look 1 the stable has all the traffic: what it answers then is its history, as before a release, and is
            compared with nothing. A name that has traffic and is missing has no data
            at that look, and then the interval counts for nobody.
        looks: The last look.
        stable: Name of the stable.
        candidate: Name of the candidate.
        control: Name of the control, which is among the percents and must be among the counts with the option ``control=fresh``.
            Without it there is none: how many replicas anybody has isn't in the counts, so loads count as comparable.

    Returns:
        How the release went: promoted, rolled-back, inconclusive, or open after the last look (with ``promote=false`` already
        when it stops before promotion).

    Raises:
        InvalidInput: An option or a count can't be; the line names it, a count with its look and name.

    Example:
        >>> def healthy(look, weights):
        ...     return {name: Counts(requests=int(3 * percent), slower_than={100: 0}) for name, percent in weights.items()}
        >>> replay({"steps": "10,50", "interval": 10, "hold": 60}, healthy, looks=500).outcome
        'promoted'
    """
    if not isinstance(config or {}, Mapping):
        raise InvalidInput(f"config must be names of options with their values, not {repr(config)[:40]}")
    for what, name in (("stable", stable), ("candidate", candidate), ("control", control)):
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"the name of the {what} must be a text, not {repr(name)[:40]}")
    given = dict(config or {})
    for name in ("candidate", "name"):
        if name in given:
            raise InvalidInput(f"option '{name}' has no effect on a replay: give the argument 'candidate'")
    if stable == candidate:
        raise InvalidInput(f"stable and candidate are both called '{stable}': give them two names")
    options = parse_options(ReleaseOptions, given, cluster="istio", environment=False)
    check_release_options(options, given)
    if control in (stable, candidate):
        raise InvalidInput(f"the control is called '{control}' like another: give it a name of its own")
    plan = plan_against(options, stable, (candidate,))
    return replayed(plan, traffic, looks=looks, control=control if plan.control == "fresh" else "")
