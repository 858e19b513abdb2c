"""Send a prediction request the way any caller would."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from mlflow_istio.calls.denial import NEED, is_denied
from mlflow_istio.calls.grpc_infer import infer
from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.calls.request_body import RequestBody, body_of, plain_body_of
from mlflow_istio.calls.v2_body import v2_document
from mlflow_istio.errors import ClusterError, InvalidInput
from mlflow_istio.ports.cluster import Address

_TRACEBACK = "Traceback (most recent call last)"


def score(address: Address, payload: Any, *, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
    """POST an input to the path of scoring and return the JSON answer.

    Args:
        address: The endpoint's address.
        payload: What ``request_body.body_of`` takes: any input of a model, or a body of MLflow's scoring server.
        headers: Further headers, such as the one that pins a deployment.
        timeout: Seconds for the answer.

    Raises:
        InvalidInput: A value of the input has no JSON form, or the model refused it; shows its words.
        ClusterError: Nothing answered, or it failed.
    """
    if address.protocol == "grpc":
        return infer(address, payload, headers=headers, timeout=timeout)
    import requests

    url = address.url.rstrip("/") + address.scoring
    body = _body_for(address, payload)
    try:
        answer = requests.post(
            url,
            data=body.content,
            headers={**address.headers, **headers, "content-type": body.content_type},
            timeout=timeout,
            proxies=proxies_for(url),
        )
    except requests.RequestException as exc:
        raise ClusterError(f"nothing answered at {url} ({type(exc).__name__}): see 'mlflow-istio status'") from exc
    if answer.status_code != requests.codes.ok:
        refuse_failure(url, answer.status_code, answer.text)
    try:
        result = answer.json()
    except ValueError as exc:
        raise ClusterError(f"{url} answered something that is not JSON: {_words(answer.text)}") from exc
    return result if isinstance(result, dict) else {"predictions": result}


def _body_for(address: Address, payload: Any) -> RequestBody:
    if address.body == "v2":
        return RequestBody(content=json.dumps(v2_document(payload)).encode("ascii"))
    return body_of(payload) if address.body == "mlflow" else plain_body_of(payload)


def refuse_failure(url: str, status: int, text: str) -> NoReturn:
    """Raise what an answer that is no 200 says.

    Raises:
        InvalidInput: The model refused the input.
        ClusterError: Anything else.
    """
    if status == 400:
        raise InvalidInput(f"the model refused the input: {_words(text)}")
    advice = NEED if is_denied(text) else "see 'mlflow-istio status'"
    raise ClusterError(f"{url} answered {status}: {_words(text)}; {advice}")


def _words(text: str) -> str:
    """What the body of a failure says: one line, and of a traceback the line that tells.

    They stand in ``message`` (MLflow's server), ``error`` (the V2 protocol), ``detail`` (FastAPI) or ``error.message`` (OpenAI's
    protocol).
    """
    with contextlib.suppress(ValueError):
        document = json.loads(text)
        for _ in range(2):
            if not isinstance(document, dict):
                break
            document = next((document[name] for name in ("message", "error", "detail") if document.get(name)), text)
        text = document if isinstance(document, str) else text
    lines = text.strip().splitlines()
    if _TRACEBACK in text:
        lines = lines[-1:]
    return " ".join(" ".join(lines).split())[:300]
