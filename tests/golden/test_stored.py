"""What earlier versions stored is read, and written back as the same bytes.

A file in ``stored/`` is what some version wrote on an object, into a run, a tag or a state directory, and is never rewritten:
``--golden-update`` only adds files for values that have none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, cast

import pytest

from mlflow_istio.adapters.local.replicas import Replica
from mlflow_istio.adapters.local.state import encode
from mlflow_istio.core.analysis.shadow import ShadowTally
from mlflow_istio.core.basics.objects import Object, annotations_of, with_annotations
from mlflow_istio.core.basics.stored import compact, from_json, to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint, annotation, endpoint_from, state_annotations
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Destination, Traffic
from mlflow_istio.core.mesh.attached import Attachment
from mlflow_istio.core.mesh.destination_rule import with_policy
from mlflow_istio.core.moves.claims import Claim, claims_in
from mlflow_istio.core.policy.routes import policy_annotation, written_policy
from mlflow_istio.core.policy.settings import Policy
from mlflow_istio.core.release.experiment import Experiment
from mlflow_istio.core.release.progress import progress_from_text, progress_to_text
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.driving.notifications import _noted, to_be_told
from mlflow_istio.verbs.plans import read_plan
from tests.golden import FOLDER, OPTION
from tests.support import stored_values as values

STORED = FOLDER / "stored"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Values of one kind.

    Attributes:
        values: Name to value, or to what makes it.
        write: The value as it is stored.
        read: The stored text as a value.
        exact: Whether today's version writes the very same text, on every machine.
        ordered: Whether the order of keys counts, because the text is compared or hashed somewhere.
    """

    values: Mapping[str, Any]
    write: Callable[[Any], str | None]
    read: Callable[[str], Any]
    exact: bool = True
    ordered: bool = True

    def value(self, name: str) -> Any:
        """One of the values."""
        value = self.values[name]
        return value() if callable(value) else value


def _file(annotations: Mapping[str, str | None]) -> str:
    """Annotations as a file; the texts in it are byte for byte what stands on the object."""
    return json.dumps({key: text for key, text in annotations.items() if text}, indent=1, sort_keys=True) + "\n"


def _holding(annotations: Any, kind: str = "VirtualService") -> Object:
    return with_annotations({"kind": kind, "metadata": {"name": "churn"}}, annotations)


def _read_endpoint(text: str) -> Endpoint:
    """The traffic stands in routes, not in annotations, so it is taken from the value itself."""
    return endpoint_from(_holding(json.loads(text)), "churn", _traffics().get(text, values.EVERYTHING))


@cache
def _traffics() -> dict[str, Traffic]:
    return {_file(state_annotations(endpoint)): endpoint.traffic for endpoint in values.ENDPOINTS.values()}


def _on_rule(policy: Policy) -> str:
    """What a DestinationRule's annotation says, whose owner has settings of his own."""
    subsets = [{"name": name, "labels": {"version": name}} for name in ("v1", "v2")]
    spec = {"host": "churn", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}, "subsets": subsets}
    return _file(annotations_of(with_policy({**_holding({}, "DestinationRule"), "spec": spec}, "churn", policy)))


def _without_digest(change: RoutingChange) -> str:
    return compact({key: value for key, value in json.loads(change.as_tag()).items() if key != "digest"})


KINDS: dict[str, Kind] = {
    "endpoint": Kind(
        values=values.ENDPOINTS, write=lambda endpoint: _file(state_annotations(endpoint)), read=_read_endpoint
    ),
    "attachment": Kind(
        values=values.ATTACHMENTS,
        write=lambda attachment: compact(to_json(attachment)),
        read=lambda text: from_json(Attachment, json.loads(text)),
    ),
    "policy": Kind(
        values=values.POLICIES,
        write=lambda written: _file(policy_annotation("churn", written)),
        read=lambda text: written_policy(_holding(json.loads(text)), "churn"),
    ),
    "rule": Kind(
        values=values.RULE_POLICIES,
        write=_on_rule,
        read=lambda text: written_policy(_holding(json.loads(text)), "churn").policy,
    ),
    "change": Kind(
        values=values.CHANGES,
        write=_without_digest,  # which the first version did not write
        read=lambda text: from_json(RoutingChange, json.loads(text)),
    ),
    "note": Kind(
        values=values.NOTES,
        write=lambda payload: to_be_told(values.WEBHOOKS, payload),
        read=lambda text: _noted(cast("Any", None), "churn", text)[0][1],
    ),
    "progress": Kind(values=values.PROGRESSES, write=progress_to_text, read=progress_from_text, exact=False),
    "experiment": Kind(
        values=values.EXPERIMENTS,
        write=lambda experiment: compact(to_json(experiment)),
        read=lambda text: from_json(Experiment, json.loads(text)),
        exact=False,
        ordered=False,
    ),
    "tally": Kind(
        values=values.TALLIES,
        write=lambda tally: compact(to_json(tally)),
        read=lambda text: from_json(ShadowTally, json.loads(text)),
        exact=False,
        ordered=False,
    ),
    "plan": Kind(
        values=values.PLAN_FILES,
        write=lambda plan: json.dumps(plan.model_dump(), indent=2) + "\n",
        read=lambda text: read_plan(json.loads(text)),
    ),
    "replica": Kind(
        values=values.REPLICAS,
        write=lambda replica: encode({"replica": to_json(replica)}).decode(),
        read=lambda text: from_json(Replica, json.loads(text)["replica"]),
    ),
    "claim": Kind(
        values=values.CLAIMS,
        write=Claim.as_text,
        read=lambda text: claims_in(_holding({annotation("chat", "delegate"): text}))["chat"],
    ),
}
CASES = sorted(
    {(kind, name) for kind, each in KINDS.items() for name in each.values}
    | {(file.parent.name, file.stem) for file in STORED.glob("*/*.json")}
)


def _stored(kind: str, name: str, request: pytest.FixtureRequest) -> str:
    """The file's text; a new one is written where golden files may be."""
    file = STORED / kind / f"{name}.json"
    if request.config.getoption(OPTION) and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(KINDS[kind].write(KINDS[kind].value(name))).encode())
    assert file.is_file(), f"there is no stored/{kind}/{name}.json yet: run pytest {OPTION}, look at it and commit it"
    return file.read_bytes().decode()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_was_stored_is_read_and_written_as_the_same_bytes(
    kind: str, name: str, request: pytest.FixtureRequest
) -> None:
    text = _stored(kind, name, request)
    value = KINDS[kind].read(text)
    if '"cut":' in text:  # the rest of it is gone for good
        assert value.whole == ('"cut":"traffic"' not in text)
    else:
        written = str(KINDS[kind].write(value))
        assert written == text if KINDS[kind].ordered else json.loads(written) == json.loads(text)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, each in KINDS.items() for name in each.values])
def test_a_value_is_stored_as_the_version_before_stored_it(
    kind: str, name: str, request: pytest.FixtureRequest
) -> None:
    text, value = _stored(kind, name, request), KINDS[kind].value(name)
    if KINDS[kind].exact:
        assert KINDS[kind].write(value) == text
    read = KINDS[kind].read(str(KINDS[kind].write(value)))
    if '"cut":' not in text:
        assert read == value
        assert list(_destinations(read)) == list(_destinations(value))


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[0] != "note"])
def test_whatever_is_damaged_in_it_reading_says_so_in_one_line_or_takes_it(kind: str, name: str) -> None:
    document = json.loads((STORED / kind / f"{name}.json").read_text(encoding="utf-8"))
    messages = []
    for damaged in _damaged_document(kind, document):
        try:
            KINDS[kind].read(json.dumps(damaged))
        except InvalidInput as exc:
            messages.append(exc.message)
    assert not [message for message in messages if "\n" in message]
    assert messages or not document


def _damaged_document(kind: str, document: Any) -> Iterator[Any]:
    """A stored document with one part of it replaced or taken away; where it is several annotations, in each of them."""
    if kind in ("endpoint", "policy", "rule"):
        for key, text in document.items():
            if text.startswith(("{", "[")):
                yield from ({**document, key: json.dumps(part)} for part in _damaged(json.loads(text)))
    elif kind == "replica":
        yield from ({**document, "replica": part} for part in _damaged(document["replica"]))
    else:
        yield from _damaged(document)


def _damaged(value: Any) -> Iterator[Any]:
    yield from (None, 5, "x", [], {"x": 1}, True)
    if isinstance(value, dict):
        for key, part in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from ({**value, key: other} for other in _damaged(part))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from ([*value[:index], other, *value[index + 1 :]] for other in _damaged(part))


def _destinations(value: Any) -> Iterator[str]:
    """What people call each destination in a value: no comparison of values sees that."""
    if isinstance(value, Destination):
        yield value.name
    elif is_dataclass(value):
        for field in fields(value):
            yield from _destinations(getattr(value, field.name))
    elif isinstance(value, tuple):
        for element in value:
            yield from _destinations(element)
