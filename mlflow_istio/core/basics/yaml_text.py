"""Objects as YAML for people and files: foreign text in it is data, to YAML and to the terminal it may be printed on."""

from __future__ import annotations

import json
from typing import Any

from mlflow_istio.errors import visible


def as_yaml(*documents: Any, sort_keys: bool = False) -> str:
    """The documents as YAML, one after the other, in the order of their fields.

    Letters of all languages stand as they are. Where a text holds what a terminal would obey, or what turns its direction, all
    that is not ASCII is written as YAML's escapes, so that the file still says the same.
    """
    import yaml

    plain = json.loads(json.dumps(documents))  # else YAML writes what two routes share as anchor and alias
    text = ""
    for letters in (True, False):
        text = yaml.safe_dump_all(plain, sort_keys=sort_keys, width=10**6, allow_unicode=letters)
        if visible(text, lines=True) == text:
            break
    return text


def strict_loader() -> type[Any]:
    """A loader for what people write: it makes plain values only, and takes no name twice in one object."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes no name twice: only one of the two values could be meant."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """See yaml."""
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"line {line} gives {key.value!r} a second time")
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

    return Loader
