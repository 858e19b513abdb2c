"""Sends a case's requests to a side and gathers the answers in their comparable form."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from scipy import stats

from tests.corpus.answers import LATE_TRIES, Reply, comparable, distinct, replica_of
from tests.corpus.calling import Calls, seen_calls
from tests.corpus.cases import DOMAIN, READY_HEADER, Case, Request, subsets_of
from tests.corpus.sides import PIN_HEADER, PINS, Side
from tests.testbed.client import wait_for
from tests.testbed.errors import TestbedError

_TIMEOUT = 30.0
_STILL = 0.3
# Bounds that a right split leaves once in a million.
_CONFIDENCE = 1 - 1e-6


def wait_installed(side: Side, cases: Sequence[Case]) -> None:
    """Wait until the proxy answers the first route of every case.

    Raises:
        TestbedError: It does not answer one; the text has its last complaints.
    """
    for case in cases:
        try:
            wait_for(f"the proxy to have {case.name}", partial(_is_installed, side, case))
        except TestbedError as exc:
            raise TestbedError(f"{exc}\n{side.log()}") from exc


def _is_installed(side: Side, case: Case) -> bool:
    headers = {"host": case.hosts[0], READY_HEADER: "1"}
    return send(side.netloc(case.name), "GET", "/", headers, "").body == f"{case.name} is ready"


def wait_reachable(side: Side) -> None:
    """Wait until the proxy reaches the echo of every subset."""
    for protocol in side.protocols:
        for subset, replicas in subsets_of(protocol).items():
            if replicas:
                reached = partial(_is_reachable, side, protocol, subset)
                wait_for(f"the proxy to reach subset {subset} by {protocol}", reached)


def _is_reachable(side: Side, protocol: str, subset: str) -> bool:
    return _seen(side, protocol, subset, "nobody") is not None


def ask(side: Side, case: Case, expected: Any = None) -> list[dict[str, Any]]:
    """The answers to a case's requests, in their order.

    Args:
        side: Who is asked.
        case: What is asked.
        expected: The recorded answers, if any: copies are waited for until they are so many, or stay the same.
    """
    result = []
    for index, request in enumerate(case.requests):
        known = expected[index] if expected is not None and index < len(expected) else {}
        result.append(_ask(side, case, request, known))
    return result


def send(netloc: str, method: str, path: str, headers: Mapping[str, str], body: str) -> Reply:
    """One request on a connection of its own."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(netloc, timeout=_TIMEOUT)
    try:
        # By hand, so that Python adds no header of its own and `host` is ours.
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body:
            connection.putheader("content-length", str(len(body.encode())))
        connection.endheaders(body.encode() or None)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    found = [(name.lower(), value) for name, value in answer.getheaders()]
    return Reply(status=answer.status, headers=found, body=text, seconds=time.monotonic() - started)


def _ask(side: Side, case: Case, request: Request, known: Mapping[str, Any]) -> dict[str, Any]:
    identity = uuid.uuid4().hex

    calls = Calls(side.netloc(case.name), case.hosts[0]) if request.call else None

    def once(number: int) -> Reply:
        headers = {"host": case.hosts[0], "x-corpus-id": f"{identity}-{number}", **request.headers}
        if calls is not None:
            return calls.send(request, headers)
        return send(side.netloc(case.name), request.method, request.path, headers, request.body)

    if request.eventually is not None:
        wanted = request.eventually
        wait_for(f"{case.name} to answer {wanted}", lambda: once(0).status == wanted)
        return {"eventually": wanted}
    if request.together > 1:
        with ThreadPoolExecutor(request.together) as pool:
            replies = list(pool.map(once, range(request.together)))
    else:
        replies = [once(number) for number in range(request.times)]
    result: dict[str, Any] = {"answers": distinct([comparable(reply) for reply in replies])}
    if request.slow is not None:
        # A busy machine can make a quick answer slow, but never a slow one quick.
        fastest, tries = min(reply.seconds for reply in replies), 1
        while fastest >= request.slow and tries < LATE_TRIES:
            fastest, tries = min(fastest, once(request.times + tries).seconds), tries + 1
        result["slow"] = fastest >= request.slow
    if request.replicas:
        result["replicas"] = len({replica_of(reply) for reply in replies} - {None})
    if request.shares:
        _check_shares(request, replies)
    if request.copies:
        result["copies"] = _copies(side, case.protocol, identity, known.get("copies"))
    if calls is not None:
        calls.close()
    return result


def _check_shares(request: Request, replies: list[Reply]) -> None:
    counts = Counter(str(comparable(reply).get("subset", reply.status)) for reply in replies)
    assert set(counts) <= set(request.shares), counts
    for subset, share in request.shares.items():
        low, high = stats.binom.interval(_CONFIDENCE, len(replies), share / 100)
        assert low <= counts[subset] <= high, (subset, share, counts)


def _copies(side: Side, protocol: str, identity: str, expected: Mapping[str, Any] | None) -> dict[str, Any]:
    """What reached each subset, copies included, once no more arrives."""
    deadline = time.monotonic() + _TIMEOUT
    last, since = _arrived(side, protocol, identity), time.monotonic()
    while last != expected and time.monotonic() < deadline:
        time.sleep(0.05)
        now = _arrived(side, protocol, identity)
        if now != last:
            last, since = now, time.monotonic()
        elif expected is None and time.monotonic() - since > _STILL:
            break
    return last


def _arrived(side: Side, protocol: str, identity: str) -> dict[str, Any]:
    """For each subset that was reached: how often, and the different requests."""
    result = {}
    for subset, replicas in subsets_of(protocol).items():
        found = _seen(side, protocol, subset, identity) if replicas == 1 else None
        if found:
            result[subset] = {"count": len(found), "requests": sorted(set(found))}
    return result


def _seen(side: Side, protocol: str, subset: str, identity: str) -> list[str] | None:
    headers = {"host": f"{PINS}.{DOMAIN}", PIN_HEADER: f"{protocol}-{subset}"}
    if protocol == "grpc":
        return seen_calls(side.netloc(PINS), headers, identity)
    reply = send(side.netloc(PINS), "GET", f"/__seen?{identity}", headers, "")
    return list(json.loads(reply.body)) if reply.status == 200 else None
