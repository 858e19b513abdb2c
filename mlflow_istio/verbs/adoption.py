"""The verb that takes over a route of somebody's VirtualService, and what it shares with ``create``."""

from __future__ import annotations

from dataclasses import replace

from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import AdoptOptions, CreateOptions, parse_options
from mlflow_istio.options.combinations import check_create
from mlflow_istio.releases.context import Desk, Outcome
from mlflow_istio.releases.deploying import adoption, deployments
from mlflow_istio.releases.deploying.sharing import HostShare
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.base import Base, Config, Result


class AdoptionVerbs(Base):
    """Endpoints in VirtualServices that were there before."""

    def adopt(self, name: str, config: Config | None = None) -> Result:
        """Make one route of a VirtualService an endpoint; see ``releases.adoption.adopt``."""
        options = parse_options(AdoptOptions, config, cluster=self.target.kind)
        session = self._session(options)
        outcome = adoption.adopt(
            session.desk,
            name,
            virtual_service=options.virtual_service,
            route=options.route,
            stable=options.stable,
            settings=alias_settings(options),
            reason=options.reason,
            timeout=options.confirm_timeout,
        )
        return session.result(outcome, views.endpoint_view(session.desk.cluster, name))


def brought_up(desk: Desk, request: deployments.DeployRequest, options: CreateOptions) -> Outcome:
    """Deploy a version, behind an adopted route where the options name one.

    Raises:
        InvalidInput: Only one of ``virtual_service`` and ``route``, or an option that has no effect beside them.
    """
    check_create(options)
    share = host_share(options)
    if options.virtual_service is None or options.route is None:
        return deployments.deploy(desk, replace(request, share=share))
    return adoption.adopt_and_deploy(
        desk, request, virtual_service=options.virtual_service, route=options.route, stable=options.stable
    )


def host_share(options: CreateOptions) -> HostShare | None:
    """The endpoint's part of a shared host, as the options say it.

    Raises:
        InvalidInput: Neither ``path`` nor ``match_header`` is given with ``under``, or one that can't be.
    """
    if options.under is None:
        return None
    header: tuple[str, str] | None = None
    if options.match_header is not None:
        name, equals, value = options.match_header.partition("=")
        if not equals:
            raise InvalidInput(f"option 'match_header' can't be {options.match_header!r}: write NAME=VALUE")
        header = (name.strip().lower(), value.strip())
    return HostShare(under=options.under, claim=Claim(path=(options.path or "").rstrip("/"), header=header))


def alias_settings(options: CreateOptions | AdoptOptions) -> dict[str, str]:
    """The endpoint's settings for aliases that have other names than usual."""
    given = (
        ("stable_alias", options.champion_alias, "champion"),
        ("candidate_alias", options.challenger_alias, "challenger"),
    )
    return {role: alias for role, alias, usual in given if alias != usual}
