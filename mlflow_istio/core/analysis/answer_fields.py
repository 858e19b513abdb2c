"""What of an answer is compared: the fields that somebody names, or those in which servers of known protocols answer.

Ids, times and token counts differ from answer to answer whatever the model says, so an answer of a known protocol is
compared by its texts, calls of tools and tensors alone. A streamed answer is put together from its events.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_istio.errors import InvalidInput

_NAME = r"[^.\[\]]+(?:\[\d{0,6}\])*"
_PATH = re.compile(rf"{_NAME}(?:\.{_NAME})*")
_STEP = re.compile(r"\[(\d*)\]|[^.\[\]]+")

Fields = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """Where the answers of a protocol say what the model said.

    Attributes:
        marks: A field that all its answers have.
        fields: What is compared.
    """

    marks: str
    fields: Fields


_RESPONSES = Protocol(marks="output[].type", fields=("output[].content[].text", "output[].name", "output[].arguments"))
PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        marks="choices[].message",
        fields=(
            "choices[].message.content",
            "choices[].message.tool_calls[].function.name",
            "choices[].message.tool_calls[].function.arguments",
        ),
    ),
    Protocol(marks="choices[].text", fields=("choices[].text",)),
    _RESPONSES,
    Protocol(
        marks="messages[].role",
        fields=(
            "messages[].content",
            "messages[].tool_calls[].function.name",
            "messages[].tool_calls[].function.arguments",
        ),
    ),
    Protocol(marks="outputs[].datatype", fields=("outputs[].name", "outputs[].data")),
)
"""OpenAI's chat, completions and responses (MLflow's ChatModel and ResponsesAgent, too), MLflow's ChatAgent, V2."""

_STREAMED: Fields = (
    "choices[].delta.content",
    "choices[].delta.tool_calls[].function.name",
    "choices[].delta.tool_calls[].function.arguments",
    "choices[].text",
    "delta.content",
)
"""Where events of OpenAI's streams, and of ChatAgent's, have the next piece of a text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """What of two answers is compared.

    Attributes:
        stable: The stable's.
        candidate: The candidate's.
        fields: Where it stood; empty: the answers are compared as they are.
        missing: Why they can't be compared; empty when they can.
        unknown: Whether that says nothing of the candidate, since the stable's answer has nothing to compare with.
    """

    stable: Any
    candidate: Any
    fields: Fields = ()
    missing: str = ""
    unknown: bool = False


def check_field(path: str) -> str:
    """A path into an answer, such as ``choices[0].message.content``; ``[]`` is each item.

    Raises:
        InvalidInput: It is none.
    """
    if not _PATH.fullmatch(path):
        raise InvalidInput(
            f"{path!r} is no field of an answer: give names with dots, such as choices[0].message.content"
        )
    return path


def pick(stable: Any, candidate: Any, fields: Fields = ()) -> Picked:
    """What of two answers is compared.

    Args:
        stable: The stable's decoded answer; of a stream its text.
        candidate: The candidate's.
        fields: Where to look; empty: where a known protocol says it, where both answers are of the same, else all of them.
    """
    ours, theirs = _decoded(stable), _decoded(candidate)
    if fields:
        return _named(ours, theirs, fields)
    if isinstance(ours, _Stream) and isinstance(theirs, _Stream):
        left, right = _whole(ours.events), _whole(theirs.events)
        if left and right:
            return Picked(stable=left, candidate=right, fields=_names(left, right))
        return Picked(stable=ours.events, candidate=theirs.events)
    for protocol in PROTOCOLS:
        if not any(isinstance(side, _Stream) for side in (ours, theirs)) and all(
            list(_values(side, protocol.marks)) for side in (ours, theirs)
        ):
            left, right = (_at(_by_name(side), protocol.fields) for side in (ours, theirs))
            return Picked(stable=left, candidate=right, fields=_names(left, right))
    return Picked(stable=stable, candidate=candidate)


def _named(ours: Any, theirs: Any, fields: Fields) -> Picked:
    sides = []
    for side in (ours, theirs):
        if isinstance(side, _Stream):
            sides.append({path: _joined(side.events, path) for path in fields})
        else:
            sides.append({path: list(_values(side, path)) for path in fields})
    for who, values in zip(("stable", "candidate"), sides, strict=True):
        lacking = next((path for path in fields if not values[path]), None)
        if lacking is not None:
            missing = f"no field {lacking} in the {who}'s answer"
            return Picked(stable=None, candidate=None, fields=fields, missing=missing, unknown=who == "stable")
    return Picked(stable=sides[0], candidate=sides[1], fields=fields)


def _by_name(answer: Any) -> Any:
    """An answer of V2 with its tensors in the order of their names, where each has one of its own: servers may choose any."""
    tensors = answer.get("outputs") if isinstance(answer, Mapping) else None
    if not isinstance(tensors, list) or not all(isinstance(tensor, Mapping) for tensor in tensors):
        return answer
    names = [tensor.get("name") for tensor in tensors]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return answer
    return {**answer, "outputs": sorted(tensors, key=lambda tensor: str(tensor["name"]))}


def _names(stable: Mapping[str, Any], candidate: Mapping[str, Any]) -> Fields:
    return tuple(dict.fromkeys([*stable, *candidate]))


def _at(answer: Any, fields: Sequence[str]) -> dict[str, list[Any]]:
    by_path = {path: list(_values(answer, path)) for path in fields}
    return {path: values for path, values in by_path.items() if values}


def _values(answer: Any, path: str) -> Iterator[Any]:
    """What stands at a path; answers of MLflow's server may be a list of answers."""
    steps = [(match[0], match[1]) for match in _STEP.finditer(path)]
    if isinstance(answer, Mapping) and set(answer) == {"predictions"} and steps[0][0] != "predictions":
        answer = answer["predictions"]
    for part in answer if isinstance(answer, list) else [answer]:
        yield from _below(part, steps)


def _below(value: Any, steps: Sequence[tuple[str, str | None]]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    (name, index), rest = steps[0], steps[1:]
    if index is None:
        if isinstance(value, Mapping) and name in value:
            yield from _below(value[name], rest)
    elif isinstance(value, list):
        for item in value if not index else value[int(index) : int(index) + 1]:
            yield from _below(item, rest)


@dataclass(frozen=True, slots=True)
class _Stream:
    events: list[Any]


def _decoded(answer: Any) -> Any:
    """An answer that was recorded as a text of server-sent events of JSON, as them; any other as it is."""
    if not isinstance(answer, str) or not answer.lstrip().startswith(("data:", "event:", ":")):
        return answer
    events = []
    for line in answer.replace("\r", "\n").split("\n"):  # not splitlines, which parts texts at signs that JSON may hold
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            events.append(json.loads(data))
        except (ValueError, RecursionError):
            return answer
    return _Stream(events) if events else answer


def _whole(events: Sequence[Any]) -> dict[str, list[Any]]:
    """A streamed answer's texts, put together; empty where the events are of no known protocol."""
    objects = [event for event in events if isinstance(event, Mapping)]
    done = [event["item"] for event in objects if event.get("type") == "response.output_item.done" and "item" in event]
    texts = [event.get("delta") for event in objects if event.get("type") == "response.output_text.delta"]
    if done:
        by_path = _at({"output": done}, _RESPONSES.fields)
    elif texts and all(isinstance(text, str) for text in texts):
        by_path = {"delta": ["".join(map(str, texts))]}
    else:
        by_path = {path: joined for path in _STREAMED if (joined := _joined(events, path))}
    if by_path and (errors := _at(list(events), ("error",))):
        by_path |= errors
    return by_path


def _joined(events: Sequence[Any], path: str) -> list[Any]:
    """What stands at a path in each event: pieces of a text as one text for each choice."""
    pieces: dict[int | None, list[Any]] = {}
    for event in events:
        choices = event.get("choices") if isinstance(event, Mapping) else None
        numbered = choices[0].get("index") if isinstance(choices, list) and _is_one_object(choices) else None
        which = numbered if isinstance(numbered, int) else None
        pieces.setdefault(which, []).extend(value for value in _values(event, path) if value is not None)
    joined: list[Any] = []
    for _, values in sorted(pieces.items(), key=lambda item: -1 if item[0] is None else item[0]):
        if values:
            joined += ["".join(values)] if all(isinstance(value, str) for value in values) else values
    return joined


def _is_one_object(items: list[Any]) -> bool:
    return len(items) == 1 and isinstance(items[0], Mapping)
