"""The verb that says which version answers a request, without sending it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.reading import views
from mlflow_istio.releases.reading.explain import Question, explain_objects, explain_route
from mlflow_istio.verbs.base import Base


class ExplainingVerbs(Base):
    """Why a request is answered as it is."""

    def explain_route(
        self,
        endpoint: str | None,
        *,
        path: str | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        user: str | None = None,
        host: str | None = None,
        port: int | None = None,
        scheme: str = "http",
        file: str | None = None,
    ) -> views.View:
        """Which route and version answers a request, and why; see ``releases.explaining``.

        Raises:
            InvalidInput: Neither an endpoint nor a file is given, or one of them or the request can't be right.
            NotFound: There is no such endpoint.
            StateConflict: A user is named, but no A/B release is open.
        """
        question = Question(
            path=path,
            method=method,
            headers=headers or {},
            query=query or {},
            cookies=cookies or {},
            user=user,
            authority=host,
            port=port,
            scheme=scheme,
        )
        if file is not None:
            return explain_objects(_objects_in(file), endpoint, question)
        if endpoint is None:
            raise InvalidInput("say which endpoint, or give a file that holds a VirtualService")
        return explain_route(self._read().cluster, endpoint, question)


def _objects_in(path: str) -> list[Object]:
    """The Kubernetes objects of a YAML file, those of lists included."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.safe_load_all(file))
    except OSError as exc:
        raise InvalidInput(f"file '{path}' can't be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"file '{path}' is no YAML: {' '.join(str(exc).split())}") from exc
    objects: list[Any] = []
    for document in documents:
        objects += document.get("items", [document]) if isinstance(document, dict) else []
    return [obj for obj in objects if isinstance(obj, dict) and isinstance(obj.get("metadata"), dict)]
