"""The verbs that move no traffic: views, history, assignment, prediction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from mlflow_istio.core.basics.stored import from_json
from mlflow_istio.core.endpoint.assignment import assignment_headers
from mlflow_istio.core.endpoint.deadlines import Deadline, due
from mlflow_istio.core.matching.probe import PIN_HEADER
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict
from mlflow_istio.options.base import ReadOptions, parse_options
from mlflow_istio.releases.context import address_of, endpoint_of, found_home
from mlflow_istio.releases.ledger import catch_up
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.base import Base, Config


class ReadingVerbs(Base):
    """What there is, what happened, and what a model answers."""

    def endpoint(self, name: str) -> views.View:
        """One endpoint; see ``releases.views``. What of it is over by now is ended first."""
        view = views.endpoint_view(self._read().cluster, name)
        return views.endpoint_view(self._read().cluster, name) if self._enforced([view]) else view

    def endpoints(self) -> list[views.View]:
        """All endpoints, by name."""
        found = views.endpoint_views(self._read().cluster)
        return views.endpoint_views(self._read().cluster) if self._enforced(found) else found

    def _enforced(self, found: list[views.View]) -> bool:
        """End what is over on these endpoints; whether there was anything."""
        now = datetime.now(timezone.utc)
        over = [
            view["name"] for view in found if due((from_json(Deadline, one) for one in view.get("deadlines", ())), now)
        ]
        if not over:
            return False  # a look must not pay for MLflow
        desk = self._session(parse_options(ReadOptions, {}, cluster=self.target.kind)).desk
        for name in over:
            desk.enforce(desk, name)
        return True

    def deployment(self, name: str, endpoint: str | None = None) -> views.View:
        """One deployment."""
        return views.deployment_view(self._read().cluster, name, endpoint)

    def deployments(self, endpoint: str | None = None) -> list[views.View]:
        """All deployments, or an endpoint's."""
        return views.deployment_views(self._read().cluster, endpoint)

    def history(self, name: str, config: Config | None = None) -> list[views.View]:
        """Every routing change of an endpoint that the registry has, after recording what it did not have yet."""
        options = parse_options(ReadOptions, config, cluster=self.target.kind)
        desk = self._session(options).desk
        if found_home(desk.cluster, name) is not None:
            try:
                warnings = catch_up(desk, name, publish=False)
            except (
                InvalidInput,
                NotFound,
                StateConflict,
            ) as exc:  # damaged: what is recorded can be shown all the same
                warnings = (exc.message,)
            for warning in warnings:
                self._warn(warning)
        changes = desk.registry.history(desk.scope, name)
        if not changes:
            endpoint_of(desk.cluster, name)  # says which endpoints there are
        return views.history_views(changes)

    def version_tag(self, label: str, key: str) -> str | None:
        """A tag of the model version ``MODEL/VERSION``, such as a person's approval; None when it does not have it.

        Raises:
            NotFound: There is no such version.
            RegistryError: The registry can't be reached.
        """
        return self._read().runs.tag(label, key)

    def last_figures(self, name: str, release_id: str) -> dict[str, float]:
        """The newest point of every metric of a release's run; empty while it has no change recorded in one.

        Raises:
            RegistryError: The tracking server can't be reached.
        """
        place = self._read()
        changes = place.registry.history(place.scope or place.cluster.scope, name)
        run = next((change.run for change in changes if change.release == release_id and change.run), None)
        return {key: points[-1].value for key, points in place.runs.figures(run).items()} if run else {}

    def assign(self, name: str, user_id: str) -> dict[str, str]:
        """The headers that send a user to the arm of the open A/B release.

        Raises:
            StateConflict: No A/B release is open.
        """
        return assignment_headers(endpoint_of(self._read().cluster, name), user_id)

    def predict(
        self,
        payload: Any,
        *,
        name: str | None = None,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> dict[str, Any]:
        """Score through the endpoint's split, or through one deployment's header route.

        Raises:
            InvalidInput: Neither or both of name and endpoint, or an input the model refuses.
            ClusterError: Nothing answered.
        """
        from mlflow_istio.calls.scoring import score

        if name is not None and endpoint is not None:
            raise InvalidInput(
                f"give either the deployment '{name}', which answers whatever the split says, or the endpoint '{endpoint}', "
                "not both"
            )
        cluster = self._read().cluster
        if name is not None:
            its = self.deployment(name)["endpoint"]
            sent = {**(headers or {}), PIN_HEADER: name}
            return score(address_of(cluster, its), payload, headers=sent, timeout=timeout)
        if endpoint is None:
            raise InvalidInput("say which: a deployment's name, or an endpoint")
        return score(address_of(cluster, endpoint), payload, headers=headers or {}, timeout=timeout)
