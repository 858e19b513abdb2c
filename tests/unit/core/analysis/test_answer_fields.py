"""What of an answer is compared. Shapes of the known protocols are those of their documentation; real servers answer in
``tests/e2e/test_text_shadows.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from mlflow_istio.core.analysis.answer_fields import check_field, pick
from mlflow_istio.core.analysis.answers import AnswerRule, compare_answers
from mlflow_istio.errors import InvalidInput

TEXT = AnswerRule(kind="text")


def chat(text: str | None, number: int = 1, **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    choices = [{"index": 0, "message": said, "finish_reason": "stop"}]
    return {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": number, "choices": choices}


def calling(name: str, arguments: str, number: int = 1) -> dict[str, Any]:
    return chat(None, number, tool_calls=[{"id": f"call-{number}", "function": {"name": name, "arguments": arguments}}])


def response(text: str, number: int = 1) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": f"r{number}", "output": [{"type": "message", "id": f"m{number}", "content": content}]}


def tensors(value: Any, number: int = 1) -> dict[str, Any]:
    outputs = [{"name": "output-1", "shape": [1], "datatype": "FP64", "data": [value]}]
    return {"model_name": "model", "model_version": str(number), "id": f"id-{number}", "outputs": outputs}


def stream(*events: Any) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def pieces(*texts: str, number: int = 1) -> str:
    first = {"id": f"chatcmpl-{number}", "choices": [{"index": 0, "delta": {"role": "assistant"}}]}
    return stream(
        first, *[{"id": f"c{number}", "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    )


def spoken(*texts: str, number: int = 1) -> str:
    deltas = [{"type": "response.output_text.delta", "item_id": f"m{number}", "delta": text} for text in texts]
    return stream(*deltas)


def finished(*texts: str, number: int = 1) -> str:
    done = {"type": "response.output_item.done", "item": response("".join(texts), number)["output"][0]}
    return stream({"type": "response.output_text.delta", "item_id": f"m{number}", "delta": texts[0]}, done)


ALIKE: Mapping[str, tuple[Any, Any, tuple[str, ...]]] = {
    "chat": (chat("hi"), chat("hi", 2), ("choices[].message.content",)),
    "chat in the envelope of MLflow's server": (
        {"predictions": chat("hi")},
        {"predictions": chat("hi", 2)},
        ("choices[].message.content",),
    ),
    "several chats": (
        {"predictions": [chat("hi"), chat("ho")]},
        {"predictions": [chat("hi", 2), chat("ho", 3)]},
        ("choices[].message.content",),
    ),
    "a call of a tool": (
        calling("add", "{}"),
        calling("add", "{}", 2),
        (
            "choices[].message.content",
            "choices[].message.tool_calls[].function.name",
            "choices[].message.tool_calls[].function.arguments",
        ),
    ),
    "completions": (
        {"id": "1", "choices": [{"text": "hi"}]},
        {"id": "2", "choices": [{"text": "hi"}]},
        ("choices[].text",),
    ),
    "responses": (response("hi"), response("hi", 2), ("output[].content[].text",)),
    "an agent's messages": (
        {"messages": [{"role": "assistant", "content": "hi", "id": "1"}]},
        {"messages": [{"role": "assistant", "content": "hi", "id": "2"}]},
        ("messages[].content",),
    ),
    "tensors": (tensors(1.5), tensors(1.5, 2), ("outputs[].name", "outputs[].data")),
    "a stream of chat, cut otherwise": (pieces("h", "i"), pieces("hi", number=2), ("choices[].delta.content",)),
    "a stream of responses, cut otherwise": (spoken("h", "i"), spoken("hi", number=2), ("delta",)),
    "a stream of whole items": (finished("h", "i"), finished("hi", number=2), ("output[].content[].text",)),
    "a stream of an agent": (
        stream({"delta": {"role": "assistant", "content": "h", "id": "1"}}, {"delta": {"content": "i", "id": "1"}}),
        stream({"delta": {"role": "assistant", "content": "hi", "id": "2"}}),
        ("delta.content",),
    ),
    "a stream of chat with a line separator in its text": (
        f"data: {json.dumps({'choices': [{'delta': {'content': chr(0x2028)}}]}, ensure_ascii=False)}\r\n\r\n",
        pieces(chr(0x2028)),
        ("choices[].delta.content",),
    ),
    "a stream of events of one's own": (stream({"n": 1, "m": 2}), stream({"m": 2, "n": 1}), ()),
    "predictions": ({"predictions": ["hi"]}, {"predictions": ["hi"]}, ()),
    "a text that looks like a stream": ("data: hi", "data: hi", ()),
}


@pytest.mark.parametrize("name", ALIKE)
def test_ids_and_times_of_known_protocols_say_nothing(name: str) -> None:
    stable, candidate, fields = ALIKE[name]
    for rule in (TEXT, AnswerRule()):
        found = compare_answers(stable, candidate, rule)
        assert (found.agrees, found.note) == (True, "")
        assert found.fields == fields


OTHER: Mapping[str, tuple[Any, Any, str]] = {
    "chat": (chat("hi"), chat("ho"), "'hi' became 'ho'"),
    "another tool": (calling("add", "{}"), calling("drop", "{}"), "'add' became 'drop'"),
    "a tool in place of a text": (chat("hi"), calling("drop", "{}"), "predictions against"),
    "responses": (response("hi"), response("ho"), "'hi' became 'ho'"),
    "tensors": (tensors(1.5), tensors(2.5), "1.5 became 2.5"),
    "a stream": (pieces("h", "i"), pieces("h", "o"), "'hi' became 'ho'"),
    "a stream that fails": (pieces("hi"), pieces("hi").replace("[DONE]", '{"error": "boom"}'), "predictions against"),
    "a stream beside none": (pieces("hi"), chat("hi"), "predictions against"),
    "an own stream": (stream({"n": 1}), stream({"n": 2}), "1 became 2"),
    "a choice more": (
        {"choices": [{"text": "a"}]},
        {"choices": [{"text": "a"}, {"text": "b"}]},
        "1 predictions against 2",
    ),
    "two choices of a stream in the other order": (
        stream({"choices": [{"index": 0, "text": "a"}]}, {"choices": [{"index": 1, "text": "b"}]}),
        stream({"choices": [{"index": 1, "text": "a"}]}, {"choices": [{"index": 0, "text": "b"}]}),
        "'a' became 'b'",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_a_model_says_otherwise_differs(name: str) -> None:
    stable, candidate, note = OTHER[name]
    found = compare_answers(stable, candidate, TEXT)
    assert not found.agrees
    assert note in found.note


@pytest.mark.parametrize(
    ("fields", "answer", "values"),
    [
        (("choices[0].message.content",), chat("hi"), ["hi"]),
        (("choices[1].message.content",), chat("hi"), []),
        (("predictions",), {"predictions": ["a", "b"]}, [["a", "b"]]),
        (("predictions[1]",), {"predictions": ["a", "b"]}, ["b"]),
        (("answer.text",), {"predictions": [{"answer": {"text": "a"}}, {"answer": {"text": "b"}}]}, ["a", "b"]),
        (("a[][0]",), {"a": [[1, 2], [3]]}, [1, 3]),
        (("choices[].delta.content",), pieces("h", "i"), ["hi"]),
    ],
)
def test_a_field_that_somebody_names(fields: tuple[str, ...], answer: Any, values: list[Any]) -> None:
    picked = pick(answer, answer, fields)
    if values:
        assert (picked.stable, picked.missing) == ({fields[0]: values}, "")
    else:
        assert picked.missing == f"no field {fields[0]} in the stable's answer"


def test_an_answer_without_the_named_field_differs() -> None:
    found = compare_answers({"a": 1}, {"b": 1}, AnswerRule(fields=("a",)))
    assert (found.agrees, found.note, found.unscored) == (False, "no field a in the candidate's answer", "")


def test_a_field_that_the_stables_answer_lacks_says_nothing_of_the_candidate() -> None:
    for candidate in ({"b": 1}, {"a": 1}):
        found = compare_answers({"b": 1}, candidate, AnswerRule(fields=("a",)))
        assert (found.agrees, found.unscored) == (False, "no field a in the stable's answer")


@pytest.mark.parametrize("path", ["", ".", "a..b", "a.", "[0]", "a[x]", "a[0", "a]", "a[-1]", "a[12345678]", "a.[0]"])
def test_what_is_no_field_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="is no field of an answer"):
        check_field(path)


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": 5},
        {"choices": [5]},
        {"choices": [{"message": None}]},
        {"output": {"type": 1}},
        {"messages": [[]]},
        {"outputs": [{"datatype": []}]},
        stream({"choices": [{"index": [], "delta": {"content": 5}}]}),
        stream([], 5, None, {"choices": {}}, {"type": "response.output_item.done", "item": 5}),
        stream({"type": "response.output_text.delta", "delta": 5}),
        "data:",
        "event: x\n\n",
    ],
)
def test_foreign_shapes_agree_with_themselves(answer: Any) -> None:
    assert compare_answers(answer, answer, TEXT).agrees
    assert not compare_answers(answer, {"x": "y"}, TEXT).agrees


def test_tensors_of_v2_are_matched_by_their_names_in_whatever_order_they_come() -> None:
    def answer(*tensors: tuple[str, float]) -> dict[str, Any]:
        return {
            "outputs": [{"name": name, "datatype": "FP32", "shape": [1], "data": [value]} for name, value in tensors]
        }

    rule = AnswerRule(kind="numbers", absolute=0.1)
    stable = answer(("label", 1.0), ("score", 0.5))
    assert compare_answers(stable, answer(("score", 0.55), ("label", 1.0)), rule).agrees
    assert not compare_answers(stable, answer(("score", 0.7), ("label", 1.0)), rule).agrees
    assert not compare_answers(stable, answer(("score", 0.5), ("other", 1.0)), rule).agrees
    twice = answer(("a", 1.0), ("a", 2.0))
    assert compare_answers(twice, twice, rule).agrees
    assert not compare_answers(twice, answer(("a", 2.0), ("a", 1.0)), rule).agrees, (
        "without names of their own they stay"
    )
