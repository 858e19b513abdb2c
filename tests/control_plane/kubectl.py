"""What the documentation uses of kubectl, which is in no package registry: ``create namespace`` and ``apply -f``, as the admin.

A stand-in for kubectl alone: the API server that answers it is the real one. Anything else is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, dynamic

from tests.control_plane.namespaces import admin


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    with admin() as api:
        match arguments:
            case ["create", "namespace", name]:
                client.CoreV1Api(api).create_namespace({"metadata": {"name": name}}, field_manager="kubectl")
                print(f"namespace/{name} created")
            case ["apply", "-f", file]:
                text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
                for obj in yaml.safe_load_all(text):
                    apply(dynamic.DynamicClient(api), obj)
            case _:
                print(f"this stand-in for kubectl can't do: {' '.join(arguments)}", file=sys.stderr)
                return 2
    return 0


def apply(cluster: Any, obj: dict[str, Any]) -> None:
    """Server-side apply of one object."""
    resource = cluster.resources.get(api_version=obj["apiVersion"], kind=obj["kind"])
    metadata = obj["metadata"]
    resource.server_side_apply(
        body=obj,
        name=metadata["name"],
        namespace=metadata.get("namespace"),
        field_manager="kubectl",
        force_conflicts=True,
    )
    print(f"{obj['kind'].lower()}/{metadata['name']} serverside-applied")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
