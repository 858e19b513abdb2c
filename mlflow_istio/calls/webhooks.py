"""Ask an address whether a release may go on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mlflow_istio.calls.loopback import proxies_for

FROM_ENVIRONMENT = "env:"
"""Start of the name of a variable in place of an address: what holds a token shall not stand on an object that many may read."""
_TRIES = 3
_LONGEST_WORDS = 200


def ask(url: str, payload: Mapping[str, Any], timeout: float) -> str:
    """POST the payload as JSON; only a 2xx agrees.

    A connection that fails and an answer of 5xx are tried again, twice.

    Args:
        url: The address, or ``env:NAME``: what the environment variable of that name holds.
        payload: What is asked.
        timeout: Seconds for one answer.

    Returns:
        Empty when it agreed; else what it said instead, in one line.
    """
    import requests
    import tenacity

    if url.startswith(FROM_ENVIRONMENT):
        name = url.removeprefix(FROM_ENVIRONMENT)
        url = os.environ.get(name, "")
        if not url.startswith(("http://", "https://")):
            return f"no answer (environment variable {name} holds no http or https address here)"

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(requests.RequestException),
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_exponential(multiplier=0.2, max=2),
        reraise=True,
    )
    def post() -> requests.Response:
        answer = requests.post(
            url,
            json=dict(payload),
            timeout=timeout,
            headers={"user-agent": "mlflow-istio"},
            proxies=proxies_for(url),
        )
        if answer.status_code >= 500:
            answer.raise_for_status()
        return answer

    try:
        answer = post()
    except requests.HTTPError as exc:
        answer = exc.response
    except requests.RequestException as exc:
        return f"no answer ({type(exc).__name__})"
    if 200 <= answer.status_code < 300:
        return ""
    return " ".join(f"{answer.status_code} {answer.text}".split())[:_LONGEST_WORDS]
