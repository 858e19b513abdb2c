"""What differs between two versions of an object, as a person reads it."""

from __future__ import annotations

import difflib

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.yaml_text import as_yaml
from mlflow_istio.errors import masked


def difference(kind: str, name: str, before: Object | None, after: Object | None) -> str:
    """One object's unified difference; empty when there is none. Fields the cluster fills in are left out."""

    def text(obj: Object | None) -> list[str]:
        if obj is None:
            return []
        return as_yaml(_own_fields(obj), sort_keys=True).splitlines()

    lines = difflib.unified_diff(
        text(before),
        text(after),
        fromfile=f"{kind}/{name}" if before else "(none)",
        tofile=f"{kind}/{name}" if after else "(none)",
        lineterm="",
    )
    return masked("\n".join(lines))


def _own_fields(obj: Object) -> Object:
    filled_in = ("resourceVersion", "uid", "generation", "creationTimestamp", "managedFields")
    metadata = {key: value for key, value in obj["metadata"].items() if key not in filled_in}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": metadata}
