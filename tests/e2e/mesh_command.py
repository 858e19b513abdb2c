"""Commands on a mesh for tests that need several processes: ``python -m tests.e2e.mesh_command VERB HOME MESH ...``."""

from __future__ import annotations

import sys
from pathlib import Path

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.objects import Object, annotations_of, with_annotations


def count(mesh: LocalMesh, endpoint: str) -> None:
    """Add 50 to a counter on an object, one by one."""

    def add(obj: Object | None) -> Object:
        assert obj is not None
        return with_annotations(obj, {"count": str(int(annotations_of(obj).get("count", "0")) + 1)})

    for _ in range(50):
        mesh.edit("VirtualService", endpoint, add)


def up(mesh: LocalMesh) -> None:
    """Bring the mesh up."""
    mesh.up()


if __name__ == "__main__":
    verb, home, name, *rest = sys.argv[1:]
    {"count": count, "up": up}[verb](LocalMesh(Path(home), name), *rest)
