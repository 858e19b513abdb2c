"""Send a prediction request the way any caller would."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from mlflow_istio.errors import ClusterError, InvalidInput
from mlflow_istio.ports.cluster import Address


def score(address: Address, payload: Any, *, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
    """POST an input to ``/invocations`` and return the JSON answer.

    Args:
        address: The endpoint's address.
        payload: A pandas DataFrame, or a JSON body as MLflow's scoring server takes it.
        headers: Further headers, such as the one that pins a deployment.
        timeout: Seconds for the answer.

    Raises:
        InvalidInput: The model refused the input; shows its words.
        ClusterError: Nothing answered, or it failed.
    """
    import requests

    url = address.url.rstrip("/") + address.scoring
    try:
        answer = requests.post(
            url,
            data=body_of(payload),
            headers={**address.headers, **headers, "content-type": "application/json"},
            timeout=timeout,
        )
    except requests.RequestException as exc:
        raise ClusterError(f"nothing answered at {url} ({type(exc).__name__}): see 'mlflow-istio status'") from exc
    if answer.status_code == 400:
        raise InvalidInput(f"the model refused the input: {_words(answer.text)}")
    if answer.status_code != 200:
        raise ClusterError(f"{url} answered {answer.status_code}: {_words(answer.text)}; see 'mlflow-istio status'")
    try:
        result = answer.json()
    except ValueError as exc:
        raise ClusterError(f"{url} answered something that is not JSON: {_words(answer.text)}") from exc
    return result if isinstance(result, dict) else {"predictions": result}


def body_of(payload: Any) -> str:
    """The request body: a DataFrame becomes ``dataframe_split``, JSON stays as it is."""
    if hasattr(payload, "to_json"):
        return f'{{"dataframe_split": {payload.to_json(orient="split", date_format="iso")}}}'
    if isinstance(payload, Mapping):
        return json.dumps(dict(payload))
    if hasattr(payload, "tolist"):
        payload = payload.tolist()
    return json.dumps({"inputs": payload})


def _words(text: str) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        text = json.loads(text).get("message", text)
    return " ".join(text.split())[:300]
