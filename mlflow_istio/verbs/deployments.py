"""The verbs on deployments: create, update, delete."""

from __future__ import annotations

from dataclasses import replace

from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import CreateOptions, DeleteOptions, UpdateOptions, parse_options
from mlflow_istio.options.shared import SETTINGS
from mlflow_istio.releases.context import Outcome
from mlflow_istio.releases.deploying import deployments, removal
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.adoption import alias_settings, brought_up
from mlflow_istio.verbs.base import Base, Config, Result
from mlflow_istio.verbs.policy import with_settings
from mlflow_istio.wiring.connection import Workplace, only


def deploy_request(
    place: Workplace, options: CreateOptions, name: str, endpoint: str | None, model_uri: str
) -> deployments.DeployRequest:
    """A request to bring a version up, without a release of its own."""
    on_cluster = place.target.kind == "istio"
    server = place.server_environment(options.env_from_secret)
    return deployments.DeployRequest(
        name=name,
        endpoint=endpoint,
        model_uri=model_uri,
        reason=options.reason,
        image=options.image,
        replicas=options.replicas,
        env={**server, **only(options.env)},
        env_manager=options.env_manager,
        from_folder=not on_cluster,
        pod=options.pod() if on_cluster else None,
        settings=alias_settings(options),
        hosts=options.host if on_cluster else (),
        gateways=place.gateways(),
        export_to=options.export_to,
        ready_timeout=options.ready_timeout,
        timeout=options.confirm_timeout,
        wait=options.wait,
    )


class DeploymentVerbs(Base):
    """Versions and their pods."""

    def create(
        self, name: str, model_uri: str, flavor: str | None, endpoint: str | None, config: Config | None
    ) -> Result:
        """Deploy a version; see ``releases.deployments.deploy``."""
        options = parse_options(CreateOptions, config, cluster=self.target.kind)
        place = self._place(options)
        strategy = options.strategy
        if strategy is None and options.wish.said:
            strategy = "canary" if set(options.wish.said) <= {"weight", "weights", "match"} else None
        request = replace(
            deploy_request(place, options, name, endpoint, model_uri),
            flavor=flavor,
            strategy=strategy,
            wish=options.wish,
            release_id=options.release_id,
            supersede=options.supersede,
        )
        session = self._session(options, templates=options.templates)
        wish = options.settings(SETTINGS)
        if wish is None:
            outcome = brought_up(session.desk, request, options)
        else:
            outcome = with_settings(session.desk, request, options, wish)
        return session.result(outcome, views.deployment_view(session.desk.cluster, name))

    def update(self, name: str, model_uri: str | None, flavor: str | None, config: Config | None) -> Result:
        """Change a deployment's pods; see ``releases.deployments.update``."""
        if "reason" in (config or {}):
            raise InvalidInput(
                "option 'reason' has no effect on update: it changes pods, and the ledger holds changes of traffic; leave it out"
            )
        options = parse_options(UpdateOptions, config, cluster=self.target.kind)
        session = self._session(options)
        if flavor is not None:
            has = views.deployment_view(session.desk.cluster, name)["flavor"]
            if flavor != has:
                raise InvalidInput(f"deployment '{name}' has flavor '{has}': create another one with flavor '{flavor}'")
        deployments.update(
            session.desk,
            name,
            model_uri=model_uri,
            replicas=options.replicas,
            env=only(options.env) if options.env is not None else None,
            image=options.image,
            ready_timeout=options.ready_timeout,
            wait=options.wait,
        )
        view = views.deployment_view(session.desk.cluster, name)
        return session.result(Outcome(endpoint=None, changed=True), view)

    def delete(self, name: str, endpoint: str | None, config: Config | None) -> Result:
        """Take a deployment away; see ``releases.removal.delete``."""
        options = parse_options(DeleteOptions, config, cluster=self.target.kind)
        session = self._session(options)
        if endpoint is not None and session.desk.cluster.get("Deployment", name) is not None:
            views.deployment_view(session.desk.cluster, name, endpoint)
        outcome = removal.delete(session.desk, name, reason=options.reason, timeout=options.confirm_timeout)
        return session.result(outcome or Outcome(endpoint=None, changed=False), {})
