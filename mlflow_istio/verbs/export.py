"""The verb that writes an endpoint down for Git."""

from __future__ import annotations

import json

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.reading import export
from mlflow_istio.verbs.base import Base


class ExportingVerbs(Base):
    """Endpoints as text."""

    def export(self, endpoint: str, *, with_traffic: bool = True, argocd: bool = False) -> str:
        """An endpoint's objects as YAML for Git, or with ``argocd`` what an Application has to leave alone.

        Raises:
            NotFound: There is no such endpoint.
            InvalidInput: Options that don't go together, or routes that are not ours to export.
        """
        cluster = self._read().cluster
        if not argocd:
            return _yaml(*export.exported(cluster, endpoint, with_traffic=with_traffic))
        if not with_traffic:
            raise InvalidInput(
                "give either --argocd or --without-traffic: without traffic there is nothing to leave alone"
            )
        return _yaml(export.argocd(cluster, endpoint))


def _yaml(*documents: Object) -> str:
    import yaml

    plain = json.loads(json.dumps(documents))  # else YAML writes what two routes share as anchor and alias
    return yaml.safe_dump_all(plain, sort_keys=False, width=10**6, allow_unicode=True)
