"""Send a prediction request whose answer comes in pieces, and hand each on as it comes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.calls.request_body import JSON, RequestBody, body_of, plain_body_of
from mlflow_istio.calls.scoring import refuse_failure
from mlflow_istio.errors import ClusterError, InvalidInput
from mlflow_istio.ports.cluster import Address

if TYPE_CHECKING:
    import requests

_EVENTS = "text/event-stream"
_LINES = ("application/x-ndjson", "application/jsonl", "application/json-seq")
_DONE = "[DONE]"


def score_stream(address: Address, payload: Any, *, headers: Mapping[str, str], timeout: float) -> Iterator[Any]:
    """POST an input with ``"stream": true`` to the path of scoring; the request is answered when this returns.

    Args:
        address: The endpoint's address.
        payload: As ``scoring.score`` takes it; a JSON object in the end.
        headers: Further headers, such as the one that pins a deployment.
        timeout: Seconds for the answer to begin, and from each of its pieces to the next; the whole may take any time.

    Returns:
        The chunks: JSON values, or the text of an event that is none.

    Raises:
        InvalidInput: The input has no JSON form that can ask for a stream, the model refused it, or it can't stream.
        ClusterError: Nothing answered, or it failed; also while the chunks are read.
    """
    import requests

    url = address.url.rstrip("/") + address.scoring
    if address.protocol == "grpc":
        raise InvalidInput(
            f"the endpoint at {address.url} speaks gRPC, whose streams only its own client reads: use predict, or that client"
        )
    body = asking_for_stream(body_of(payload) if address.body == "mlflow" else plain_body_of(payload))
    session = requests.Session()
    # Nothing of the environment is for this machine, and reading it fails while another thread changes it.
    session.trust_env = not proxies_for(url)
    try:
        answer = session.post(
            url,
            data=body.content,
            headers={**address.headers, **headers, "content-type": body.content_type, "accept": f"{_EVENTS}, */*"},
            timeout=timeout,
            stream=True,
        )
    except requests.RequestException as exc:
        raise ClusterError(f"nothing answered at {url} ({type(exc).__name__}): see 'mlflow-istio status'") from exc
    with contextlib.ExitStack() as unless_streamed:
        unless_streamed.callback(answer.close)
        if answer.status_code != requests.codes.ok:
            refuse_failure(url, answer.status_code, _text(answer, url))
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _EVENTS and kind not in _LINES:
            raise InvalidInput(
                f"{url} answered without a stream (it sent {kind or 'no content-type'}): its server can't stream this answer; "
                "ask without one"
            )
        unless_streamed.pop_all()
    return _chunks(answer, url, events=kind == _EVENTS)


def asking_for_stream(body: RequestBody) -> RequestBody:
    """The body with ``"stream": true`` in it, otherwise as it was written.

    Raises:
        InvalidInput: It is no JSON object.
    """
    try:
        document = json.loads(body.content) if body.content_type == JSON else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidInput('a stream is asked for in a JSON object, such as {"messages": [...]}: give the input as one')
    if "stream" in document:
        return RequestBody(content=json.dumps({**document, "stream": True}).encode("ascii"))
    start = body.content.index(b"{") + 1
    comma = b", " if document else b""
    return RequestBody(content=body.content[:start] + b'"stream": true' + comma + body.content[start:])


def events_of(parts: Iterable[bytes]) -> Iterator[str]:
    """The data of server-sent events, each as soon as it is whole; comments and other fields are passed over."""
    data: list[str] = []
    for line in lines_of(parts):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
    if data:
        yield "\n".join(data)


def lines_of(parts: Iterable[bytes]) -> Iterator[str]:
    """The lines of a text that comes in parts."""
    left = b""
    for part in parts:
        *lines, left = (left + part).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
    if left:
        yield left.decode(errors="replace")


def _chunks(answer: requests.Response, url: str, *, events: bool) -> Iterator[Any]:
    count = 0
    with answer:
        for text in events_of(_parts(answer, url)) if events else lines_of(_parts(answer, url)):
            if text == _DONE:
                return
            chunk = _value(text)
            if isinstance(chunk, dict) and set(chunk) == {"error"}:
                message = " ".join(str(chunk["error"]).split())[:300]
                raise ClusterError(
                    f"{url} failed after {count} chunks of its answer: {message}; see 'mlflow-istio status'"
                )
            if text:
                count += 1
                yield chunk


def _parts(answer: requests.Response, url: str) -> Iterator[bytes]:
    import requests

    try:
        yield from answer.iter_content(None)
    except requests.RequestException as exc:
        raise ClusterError(
            f"the answer of {url} was cut before its end ({type(exc).__name__}): see 'mlflow-istio status'"
        ) from exc


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(answer: requests.Response, url: str) -> str:
    return b"".join(_parts(answer, url)).decode(errors="replace")
