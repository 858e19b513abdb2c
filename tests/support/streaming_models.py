"""Sources of models that stream, for MLflow's own classes of them; each says ``one two three`` and fails on request."""

from __future__ import annotations

# A text model: `predict_stream` of a plain pyfunc. The input names what happens; PACE is the seconds between two chunks.
TEXT = """
import os, threading, time
import mlflow
from mlflow.models import set_model

FIRST = float(os.environ.get("STREAM_FIRST", "0"))
PACE = float(os.environ.get("STREAM_PACE", "0"))

class Text(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return {"text": "one two three"}

    def predict_stream(self, context, model_input, params=None):
        how = model_input["messages"][0]["content"]
        if how == "raise":
            raise KeyError("churn")
        time.sleep(FIRST)
        thread = threading.get_ident()
        if how.startswith("/"):  # a chunk comes when a file of its number is there
            for number in range(4):
                while number and not os.path.exists(f"{how}/{number}"):
                    time.sleep(0.01)
                yield {"number": number}
            return
        count = int(how) if how.isdigit() else 3
        for number in range(count):
            yield {"number": number, "same_thread": thread == threading.get_ident()}
            if how == "raise later":
                raise ValueError("out of words")
            time.sleep(PACE)

set_model(Text())
"""

CHAT = """
from mlflow.models import set_model
from mlflow.pyfunc import ChatModel
from mlflow.types.llm import ChatCompletionChunk, ChatCompletionResponse

class Chat(ChatModel):
    def predict(self, context, messages, params):
        choice = {"index": 0, "message": {"role": "assistant", "content": "one two three"}, "finish_reason": "stop"}
        return ChatCompletionResponse.from_dict({"choices": [choice]})

    def predict_stream(self, context, messages, params):
        for word in ("one", "two", "three"):
            delta = {"role": "assistant", "content": f"{word} {params.stream}"}
            yield ChatCompletionChunk.from_dict({"choices": [{"index": 0, "delta": delta}]})

set_model(Chat())
"""

AGENT = """
from mlflow.models import set_model
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentResponse, ResponsesAgentStreamEvent

class Agent(ResponsesAgent):
    def predict(self, request):
        item = self.create_text_output_item(text="one two three", id="m-1")
        return ResponsesAgentResponse(output=[item])

    def predict_stream(self, request):
        for word in ("one", "two", "three"):
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=word, item_id="m-1"))
        item = self.create_text_output_item(text="one two three", id="m-1")
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)

set_model(Agent())
"""

CHAT_AGENT = """
from mlflow.models import set_model
from mlflow.pyfunc import ChatAgent
from mlflow.types.agent import ChatAgentChunk, ChatAgentResponse

class Agent(ChatAgent):
    def predict(self, messages, context=None, custom_inputs=None):
        return ChatAgentResponse(messages=[{"role": "assistant", "content": "one two three", "id": "m-1"}])

    def predict_stream(self, messages, context=None, custom_inputs=None):
        for word in ("one", "two", messages[-1].content):
            yield ChatAgentChunk(delta={"role": "assistant", "content": word, "id": "m-1"})

set_model(Agent())
"""

# MLflow's class has a predict_stream that raises where the agent has none.
MUTE_AGENT = AGENT[: AGENT.index("    def predict_stream")] + "\nset_model(Agent())\n"

# Chats and an agent that say WORDS and how they were asked, under a new id and time each.
TALKING_CHAT = """
import os, time, uuid
from mlflow.models import set_model
from mlflow.pyfunc import ChatModel
from mlflow.types.llm import ChatCompletionChunk, ChatCompletionResponse

class Chat(ChatModel):
    def predict(self, context, messages, params):
        text = f"{os.environ.get('WORDS', '-')} {messages[-1].content}"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return ChatCompletionResponse.from_dict({"choices": [choice], "id": uuid.uuid4().hex, "created": time.time_ns()})

    def predict_stream(self, context, messages, params):
        for word in (*os.environ.get("WORDS", "-").split(), messages[-1].content):
            delta = {"role": "assistant", "content": f"{word} "}
            yield ChatCompletionChunk.from_dict({"choices": [{"index": 0, "delta": delta}], "id": uuid.uuid4().hex})

set_model(Chat())
"""

TALKING_AGENT = """
import os, uuid
from mlflow.models import set_model
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentResponse, ResponsesAgentStreamEvent

class Agent(ResponsesAgent):
    def predict(self, request):
        return ResponsesAgentResponse(output=[self.item()])

    def predict_stream(self, request):
        item = self.item()
        for word in os.environ.get("WORDS", "-").split():
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=f"{word} ", item_id=item["id"]))
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)

    def item(self):
        return self.create_text_output_item(text=os.environ.get("WORDS", "-"), id=uuid.uuid4().hex)

set_model(Agent())
"""
