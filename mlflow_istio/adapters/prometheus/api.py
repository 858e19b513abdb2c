"""Prometheus' HTTP API: one question, its samples, and every way in which it can fail as one clear line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.errors import InvalidInput, MetricsError

USER_VARIABLE = "MLFLOW_ISTIO_PROMETHEUS_USER"
PASSWORD_VARIABLE = "MLFLOW_ISTIO_PROMETHEUS_PASSWORD"
TOKEN_VARIABLE = "MLFLOW_ISTIO_PROMETHEUS_TOKEN"
_VARIABLES = f"{TOKEN_VARIABLE}, or {USER_VARIABLE} and {PASSWORD_VARIABLE}"
_WORDS = 300
_MOST_POINTS = 11_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The newest value of one series.

    Attributes:
        labels: Its labels, the name included.
        value: Its value.
        time: When it was scraped (an expression: evaluated), Unix seconds.
    """

    labels: Mapping[str, str]
    value: float
    time: float

    @property
    def source(self) -> str:
        """A short name for the process that was scraped: its counters start again together."""
        return source_of(self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class PastSeries:
    """One series over time.

    Attributes:
        labels: Its labels, the name included.
        values: Number of the step to its value then; a step without a sample young enough is absent.
    """

    labels: Mapping[str, str]
    values: dict[int, float]


def source_of(labels: Mapping[str, str]) -> str:
    """A short name for the process whose series these are labels of."""
    target = json.dumps([labels.get("job", ""), labels.get("instance", "")])
    return blake2b(target.encode(), digest_size=5).hexdigest()


class _Bearer(AuthBase):
    """A token; as an auth object, because requests would let a netrc file override a header."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Nobody(AuthBase):
    """No credentials, not even those of a netrc file."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def credentials_from(environ: Mapping[str, str]) -> AuthBase | None:
    """The credentials that the environment holds, if any.

    Raises:
        InvalidInput: A token stands beside a user, or a user without a password.
    """
    token, user = environ.get(TOKEN_VARIABLE, ""), environ.get(USER_VARIABLE, "")
    if token and user:
        raise InvalidInput(f"{TOKEN_VARIABLE} and {USER_VARIABLE} are both set: leave one of them out")
    if token:
        return _Bearer(token)
    if user:
        if PASSWORD_VARIABLE not in environ:
            raise InvalidInput(f"{USER_VARIABLE} is set, {PASSWORD_VARIABLE} is not: set it too")
        return HTTPBasicAuth(user, environ[PASSWORD_VARIABLE])
    return None


class PrometheusApi:
    """Asks one Prometheus, or whatever speaks its API.

    Args:
        url: Its address, with the path it is served under; a user and password in it are used and never shown.
        auth: Credentials; by default those of the environment.
        timeout: Seconds for each question, to connect and to answer.
    """

    def __init__(self, url: str, *, auth: AuthBase | None = None, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput("prometheus_url must be http:// or https:// and a host, such as http://prometheus:9090")
        self.url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        if parts.username:
            auth = auth or HTTPBasicAuth(unquote(parts.username), unquote(parts.password or ""))
        self._auth = auth or credentials_from(os.environ) or _Nobody()
        self._timeout = timeout

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"Prometheus at {self.url}"

    def newest(self, selectors: Sequence[str], max_age: float) -> list[list[Sample]]:
        """The newest sample of every series that plain selectors choose, if it is young enough.

        Raw samples are asked for, because an instant query would not tell how old they are. Of each scraped process the samples of
        one scrape are given, for all selectors: a series that its restart ended must not be taken for one that stands still, nor
        counts from before a restart be read beside others from after it. Prometheus may scrape between two questions, so
        the first selector that has a process says which scrape; the other questions' answers reach back to it.

        Args:
            selectors: Such as ``up{job="mesh"}``.
            max_age: Seconds; a series whose newest sample is older is left out.

        Returns:
            For each selector its samples.
        """
        scrapes: dict[str, float] = {}
        answers = []
        for selector in selectors:
            result = self._ask(f"{selector}[{max(1, math.ceil(max_age))}s]", "matrix")
            samples = [_sample(series["metric"], point) for series in result for point in series["values"]]
            newest: dict[str, float] = {}
            for sample in samples:
                newest[sample.source] = max(sample.time, newest.get(sample.source, 0.0))
            scrapes = {**newest, **scrapes}
            answers.append([sample for sample in samples if sample.time == scrapes[sample.source]])
        return answers

    def evaluate(self, expressions: Sequence[str], max_age: float) -> list[list[Sample]]:
        """The values of expressions at one time, the first one's, on samples no older than ``max_age`` seconds."""
        answers: list[list[Sample]] = []
        at: dict[str, str] = {}
        for expression in expressions:
            result = self._ask(expression, "vector", lookback_delta=f"{max(1, math.ceil(max_age))}s", **at)
            answers.append([_sample(series["metric"], series["value"]) for series in result])
            if result and not at:
                # The server's own clock.
                at = {"time": str(result[0]["value"][0])}
        return answers

    def over_time(
        self, expressions: Sequence[str], seconds: float, step: float, max_age: float
    ) -> tuple[int, list[list[PastSeries]]]:
        """The values of expressions at every step until now.

        One question gets at most 11,000 points of a series (``maxPointsPerTimeseries`` in Prometheus' ``web/api/v1/api.go``), so a
        longer time is asked for in pieces.

        Args:
            expressions: Such as ``up{job="mesh"}``, or a sum.
            seconds: How far back.
            step: Seconds between two values.
            max_age: Seconds; a value whose sample was older then is left out.

        Returns:
            The number of steps, the first and the last one included, and for each expression its series.
        """
        server = self._ask("vector(time())", "vector")  # its clock, not ours
        end = math.floor(float(server[0]["value"][1]) / step) * step
        last = math.floor(seconds / step)
        answers: list[list[PastSeries]] = []
        for expression in expressions:
            values: dict[str, PastSeries] = {}
            for first in range(0, last + 1, _MOST_POINTS):
                piece = {
                    "start": f"{end - (last - first) * step:.3f}",
                    "end": f"{end - max(0, last - first - _MOST_POINTS + 1) * step:.3f}",
                    "step": f"{step:g}",
                    "lookback_delta": f"{max(1, math.ceil(max_age))}s",
                }
                for series in self._ask(expression, "matrix", path="query_range", **piece):
                    key = json.dumps(series["metric"], sort_keys=True)
                    past = values.setdefault(key, PastSeries(labels=series["metric"], values={}))
                    past.values.update(
                        (last - round((end - float(time)) / step), float(value)) for time, value in series["values"]
                    )
            answers.append(list(values.values()))
        return last + 1, answers

    def _ask(self, query: str, kind: str, path: str = "query", **parameters: str) -> Sequence[Any]:
        try:
            # POST: a selector over many deployments may be longer than a proxy allows for an address.
            answer = requests.post(
                f"{self.url}/api/v1/{path}",
                data={"query": query, "timeout": f"{self._timeout:g}s", **parameters},
                auth=self._auth,
                timeout=self._timeout,
                proxies=proxies_for(self.url),
            )
        except requests.Timeout as exc:
            raise MetricsError(f"{self.name} did not answer within {self._timeout:g} s: is it overloaded?") from exc
        except requests.exceptions.SSLError as exc:
            raise MetricsError(
                f"{self.name} has a certificate that is not trusted here: set REQUESTS_CA_BUNDLE to its CA"
            ) from exc
        except requests.RequestException as exc:
            raise MetricsError(
                f"{self.name} can't be reached ({type(exc).__name__}): check prometheus_url, and that it runs"
            ) from exc
        return self._result(answer, query, kind)

    def _result(self, answer: requests.Response, query: str, kind: str) -> Sequence[Any]:
        if answer.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
            raise MetricsError(f"{self.name} refuses these credentials ({answer.status_code}): set {_VARIABLES}")
        try:
            document = answer.json()
            status = document["status"]
        except (ValueError, KeyError, TypeError) as exc:
            raise MetricsError(
                f"{self.name} answered {answer.status_code} with something that is not Prometheus' API: check prometheus_url"
            ) from exc
        if status != "success":
            words = " ".join(str(document.get("error", "")).split())[:_WORDS]
            raise MetricsError(
                f"{self.name} refused the query {_short(query)} ({document.get('errorType', 'error')}: {words})"
            )
        partial = [str(words) for words in document.get("warnings") or () if not str(words).startswith("PromQL")]
        if partial:
            # Counts with a part missing would look like a counter that fell.
            raise MetricsError(f"{self.name} gave only a part of the data ({_short(partial[0])}): try again")
        data = document["data"]
        if data["resultType"] != kind:
            raise MetricsError(
                f"{self.name}: the query {_short(query)} gives a {data['resultType']}, not one value for each series"
            )
        return list(data["result"])


def _sample(labels: Mapping[str, str], point: Sequence[Any]) -> Sample:
    return Sample(labels=labels, time=float(point[0]), value=float(point[1]))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WORDS else f"{text[:_WORDS]}..."
