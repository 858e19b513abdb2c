"""An agent that streams, released by its time to first token: the second version thinks for half a second before it speaks."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator

warnings.simplefilter("ignore")  # MLflow warns of type hints of its own

import mlflow  # noqa: E402
from mlflow.deployments import get_deploy_client  # noqa: E402
from mlflow.pyfunc import ResponsesAgent  # noqa: E402
from mlflow.types.responses import (  # noqa: E402
    ResponsesAgentRequest,
    ResponsesAgentResponse,
    ResponsesAgentStreamEvent,
)


class Assistant(ResponsesAgent):  # type: ignore[misc]  # MLflow has no types
    """Says the same words to everybody.

    Args:
        thinks: Seconds before the first word.
    """

    def __init__(self, thinks: float) -> None:
        self.thinks = thinks

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        """The whole answer."""
        events = list(self.predict_stream(request))
        return ResponsesAgentResponse(output=[events[-1].item])

    def predict_stream(self, request: ResponsesAgentRequest) -> Iterator[ResponsesAgentStreamEvent]:  # noqa: ARG002
        """The answer word by word."""
        time.sleep(self.thinks)
        words = ["A", "service", "mesh", "moves", "traffic", "between", "versions."]
        for word in words:
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=f"{word} ", item_id="m-1"))
        item = self.create_text_output_item(text=" ".join(words), id="m-1")
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)


for thinks in (0.0, 0.5):
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model",
            python_model=Assistant(thinks),
            registered_model_name="assistant",
            pip_requirements=["mlflow", "pydantic"],
        )

QUESTION = {"input": [{"role": "user", "content": "What does a service mesh do?"}]}
client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))
client.create_deployment("assistant-v1", "models:/assistant/1", endpoint="assistant")
for event in client.predict_stream(endpoint="assistant", inputs=QUESTION):
    print(event.get("delta", "\n"), end="", flush=True)

over = threading.Event()
cut: list[str] = []


def users() -> None:
    while not over.is_set():
        try:
            for _event in client.predict_stream(endpoint="assistant", inputs=QUESTION):
                pass
        except mlflow.MlflowException as error:
            cut.append(str(error))


callers = [threading.Thread(target=users) for _ in range(4)]
for caller in callers:
    caller.start()
released = client.release(
    "assistant",
    "models:/assistant/2",
    steps="50",
    interval=1,
    hold=2,
    min_requests=20,
    warmup=0,
    warm_requests=0,
    phase=0,
    control="none",
    deadline=180,
)
over.set()
for caller in callers:
    caller.join()
print(f"{released['outcome']}: {released['verdict']['reason']}")
print(f"streams that were cut: {len(cut)}")
client.delete_endpoint("assistant")
assert released["outcome"] == "rolled-back", released
assert not cut, cut
