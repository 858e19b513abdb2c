"""Reads the recorders of model servers through a deployment's pinned route, where a user could ask for them, too.

So nothing more is needed than the endpoint's own address: no right on pods, no port. Which replica answers is the proxy's
choice; each recorder's cursor carries the id of its log, so pages of several replicas can be told apart and put together.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import requests
import tenacity

from mlflow_istio.calls.denial import NEED, is_denied
from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.core.matching.probe import PIN_HEADER
from mlflow_istio.errors import ClusterError, StateConflict
from mlflow_istio.ports.cluster import Address
from mlflow_istio.ports.records import Recorded

TOKEN_VARIABLE = "MLFLOW_ISTIO_RECORD_TOKEN"
_TRIES = 30
_TRIES_OF_A_PAGE = 3
_HOW = (
    'create it with -C env=\'{"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": "/tmp/records"}\' (both versions, with the '
    "same share)"
)


class PinnedRecords:
    """Implements ``ports.Records``.

    Args:
        address: How to reach an endpoint.
        pinned: The headers that reach one deployment of an endpoint.
        token: What a deployment's recorders ask for, as far as the cluster tells; ``MLFLOW_ISTIO_RECORD_TOKEN`` of the command's
            own environment counts for more.
        timeout: Seconds for each page.
    """

    def __init__(
        self,
        address: Callable[[str], Address],
        pinned: Callable[[str, str], Mapping[str, str]] = lambda _endpoint, deployment: {PIN_HEADER: deployment},
        token: Callable[[str], str | None] = lambda _deployment: None,
        *,
        timeout: float = 30.0,
    ) -> None:
        self._address = address
        self._pinned = pinned
        self._token = token
        self._timeout = timeout

    def read(self, endpoint: str, deployment: str, replicas: int) -> Recorded:
        """See ``ports.Records``."""
        cursors: dict[str, str] = {}
        done: set[str] = set()
        records: list[Mapping[str, Any]] = []
        first: dict[str, float] = {}
        lost: set[str] = set()
        dropped: dict[str, Mapping[str, int]] = {}
        tries = _TRIES * replicas
        token = os.environ.get(TOKEN_VARIABLE) or self._token(deployment)
        while len(done) < max(1, replicas) and tries > 0:
            open_logs = [log for log in cursors if log not in done]
            wanted = open_logs[0] if open_logs else None
            page = self._page(endpoint, deployment, token, cursors.get(wanted, "") if wanted else "")
            log = str(page["next"]).partition("-")[0]
            if log in cursors and log != wanted:
                tries -= 1  # another replica's beginning, which is known already
                continue
            if log not in cursors and page["lost_bytes"]:
                lost.add(log)
            cursors[log] = str(page["next"])
            dropped[log] = page.get("dropped") or {}  # none from servers of an earlier version
            if page["records"]:
                first.setdefault(log, float(page["records"][0]["time"]))
                records += page["records"]
            else:
                done.add(log)
        if len(done) < replicas:
            raise ClusterError(
                f"only {len(done)} of {replicas} replicas of deployment '{deployment}' gave their records: run the command again"
            )
        counts: Counter[str] = Counter()
        for of_log in dropped.values():
            counts.update(of_log)
        return Recorded(
            records=records,
            complete_since=max((first[log] for log in lost if log in first), default=0.0),
            dropped=dict(sorted(counts.items())),
        )

    def _page(self, endpoint: str, deployment: str, token: str | None, cursor: str) -> Mapping[str, Any]:
        address = self._address(endpoint)
        headers = {**address.headers, **self._pinned(endpoint, deployment)}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        where = f"the records of deployment '{deployment}'"
        try:
            answer = self._answer(address.url, headers, cursor)
        except requests.RequestException as exc:
            raise ClusterError(f"{where} can't be read at {address.url}: {type(exc).__name__}") from exc
        if answer.status_code == requests.codes.not_found:
            raise StateConflict(
                f"deployment '{deployment}' records nothing, or shows it to nobody for want of a token: {_HOW}"
            )
        if answer.status_code == requests.codes.unauthorized:
            raise ClusterError(f"{where} ask for a token: set {TOKEN_VARIABLE} to that of the deployment")
        if is_denied(answer.text):
            raise ClusterError(f"{where} can't be read at {address.url}: {NEED}")
        try:
            page = answer.json()
            answer.raise_for_status()
            return dict(page)
        except (ValueError, requests.RequestException) as exc:
            raise ClusterError(f"{where} can't be read: the server answered {answer.status_code}") from exc

    @tenacity.retry(
        # A page changes nothing: one whose connection breaks, or that breaks off in the middle, is asked for again.
        retry=tenacity.retry_if_exception_type((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)),
        stop=tenacity.stop_after_attempt(_TRIES_OF_A_PAGE),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=1),
        reraise=True,
    )
    def _answer(self, url: str, headers: Mapping[str, str], cursor: str) -> requests.Response:
        # Not on a kept connection: the proxy chooses the replica anew for each request either way, and none stays open.
        return requests.get(
            f"{url}/records",
            params={"after": cursor} if cursor else {},
            headers=headers,
            timeout=self._timeout,
            proxies=proxies_for(url),
        )
