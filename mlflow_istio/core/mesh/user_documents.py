"""Objects as a user writes or keeps them in files: YAML read document by document, each complaint with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.core.basics.yaml_text import strict_loader
from mlflow_istio.errors import InvalidInput

_SHORT = {"VirtualService": "vs", "DestinationRule": "dr", "Service": "svc", "Deployment": "deploy"}
_MATCHES = ("headers", "withoutHeaders", "queryParams")


def kind_of(word: str) -> str:
    """A kind in any of kubectl's spellings: ``vs``, ``virtualservice``, ``virtualservices.networking.istio.io``.

    Raises:
        InvalidInput: A mesh holds no such kind; names the nearest.
    """
    spelled: dict[str, str] = {}
    for kind, short in _SHORT.items():
        spelled |= dict.fromkeys((short, kind.lower(), f"{kind.lower()}s"), kind)
    kind_word, dot, group = word.lower().partition(".")
    if kind_word not in spelled or (dot and group not in _groups(spelled[kind_word])):
        raise InvalidInput(f"there is no kind '{word}': {nearest(kind_word, spelled)}")
    return spelled[kind_word]


def read_objects(text: str, source: str) -> list[Object]:
    """The objects of a text with any number of YAML documents, those of lists included; absent values are left out.

    Args:
        text: The text.
        source: What it is called in messages, such as the file's name.

    Raises:
        InvalidInput: It is no YAML, or a document is no object with kind and name; says which.
    """
    import yaml

    try:
        documents = list(yaml.load_all(text, strict_loader()))
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: a date such as 2024-13-45
        raise InvalidInput(f"{source} is no YAML: {' '.join(str(exc).split()) or 'it goes too deep'}") from exc
    objects = []
    for number, document in enumerate(documents, start=1):
        where = f"{source}, document {number}" if len(documents) > 1 else source
        objects += [_checked(obj, place) for obj, place in _items(document, where)]
    if not objects:
        raise InvalidInput(f"{source} holds no object")
    return objects


def _items(document: Any, where: str) -> Iterator[tuple[Any, str]]:
    if document is None:
        return
    if isinstance(document, dict) and isinstance(document.get("items"), list):
        yield from ((item, f"{where}, items[{index}]") for index, item in enumerate(document["items"]))
    else:
        yield document, where


def _checked(obj: Any, where: str) -> Object:
    if not isinstance(obj, dict):
        raise InvalidInput(
            f"{where}: must be an object with apiVersion, kind, metadata and spec, not {str(obj)[:40]!r}"
        )
    if not isinstance(obj.get("kind"), str) or obj["kind"] not in API_VERSIONS:
        raise InvalidInput(f"{where}: there is no kind {obj.get('kind')!r} here: use one of {', '.join(API_VERSIONS)}")
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidInput(f"{where}: the {obj['kind']} must have metadata.name")
    return dict(_without_nulls(obj))


def _without_nulls(value: Any, *, matching: bool = False) -> Any:
    """The value without members that are null, which to an API server are absent.

    A condition such as ``headers: {x-user: }`` stays, to be refused by name: left out, the match would take every request.
    """
    if isinstance(value, list):
        return [_without_nulls(member, matching=matching) for member in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: member if matching and key in _MATCHES else _without_nulls(member, matching=key == "match")
        for key, member in value.items()
        if member is not None
    }


def _groups(kind: str) -> tuple[str, ...]:
    """What may stand behind a kind; kubectl takes the version in between, too: ``deployments.v1.apps``."""
    group, slash, version = API_VERSIONS[kind].partition("/")
    return (group, f"{version}.{group}") if slash else ()
