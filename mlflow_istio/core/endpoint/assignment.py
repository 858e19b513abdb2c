"""Which arm a user belongs to: the caller's side of a sticky A/B release.

A VirtualService can't hash, so the caller does, the same in every process and language: see ``choose_arm``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.errors import InvalidInput, StateConflict


def choose_arm(user_id: str, weights: Mapping[str, int], salt: str) -> str:
    r"""The arm of one user, by weighted rendezvous hashing.

    For each arm with weight w, ``u = (h + 0.5) / 2**64`` where ``h`` is the first 8 bytes, big endian, of
    ``SHA-256(salt + "\0" + arm + "\0" + user)``; the arm with the smallest ``-ln(u) / w`` wins. The minimum of exponential
    variables with rates w falls on each arm with probability w / sum(w). When weights change, a user leaves an arm only for
    one that grew in relation to it.
    (Source: Schindelhauer & Schomaker, "Weighted distributed hash tables", SPAA 2005.)

    Args:
        user_id: Anything that names the user for good.
        weights: Arm to weight; arms of weight 0 get nobody.
        salt: The release id, so that each release divides users anew.

    Raises:
        InvalidInput: No arm has any weight.
    """
    best, best_score = "", math.inf
    for arm in sorted(weights):
        if weights[arm] <= 0:
            continue
        digest = hashlib.sha256(f"{salt}\0{arm}\0{user_id}".encode()).digest()
        uniform = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
        score = -math.log(uniform) / weights[arm]
        if score < best_score:
            best, best_score = arm, score
    if not best:
        raise InvalidInput("no arm has any weight: give the arms weights before assigning users")
    return best


def assignment_headers(endpoint: Endpoint, user_id: str) -> dict[str, str]:
    """The request headers that send a user to the arm of the open A/B release.

    Raises:
        StateConflict: No A/B release is open; say how to start one.
    """
    release = endpoint.release
    if release is None or release.assignment is None:
        raise StateConflict(
            f"endpoint '{endpoint.name}' has no open A/B release to assign users in: start one with "
            "-C strategy=ab -C header=NAME (or cookie=NAME)"
        )
    assignment = release.assignment
    weights = {name: weight for name, weight in endpoint.traffic.weights.items() if name in assignment.values}
    value = assignment.values[choose_arm(user_id, weights, release.id)]
    if assignment.kind == "cookie":
        return {"cookie": f"{assignment.name}={value}"}
    return {assignment.name: value}
