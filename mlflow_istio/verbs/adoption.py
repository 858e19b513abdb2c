"""The verb that takes over a route of somebody's VirtualService, and what it shares with ``create``."""

from __future__ import annotations

from dataclasses import replace

from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import AdoptOptions, CreateOptions, parse_options
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
    share = host_share(options)
    if options.virtual_service is None and options.route is None:
        request = replace(request, share=share)
        if options.stable is not None:
            raise InvalidInput("option 'stable' has no effect without 'virtual_service' and 'route': leave it out")
        return deployments.deploy(desk, request)
    if options.virtual_service is None or options.route is None:
        missing = "route" if options.route is None else "virtual_service"
        raise InvalidInput(f"to take over a route give both 'virtual_service' and 'route': '{missing}' is missing")
    if share is not None:
        raise InvalidInput(
            "option 'under' has no effect with 'virtual_service', whose hosts and routes stay: leave one out"
        )
    if options.export_to:
        raise InvalidInput(
            "option 'export_to' has no effect with 'virtual_service', whose exportTo stays as it is: leave it out"
        )
    if options.host:
        raise InvalidInput(
            "option 'host' has no effect with 'virtual_service', whose hosts stay as they are: leave it out"
        )
    return adoption.adopt_and_deploy(
        desk, request, virtual_service=options.virtual_service, route=options.route, stable=options.stable
    )


def host_share(options: CreateOptions) -> HostShare | None:
    """The endpoint's part of a shared host, as the options say it.

    Raises:
        InvalidInput: ``path`` or ``match_header`` without ``under``, neither with it, or one that can't be.
    """
    if options.under is None:
        for option in ("path", "match_header"):
            if getattr(options, option) is not None:
                raise InvalidInput(
                    f"option '{option}' has no effect without 'under': name the host that the endpoint shares"
                )
        return None
    if options.export_to:
        raise InvalidInput(
            f"option 'export_to' has no effect with 'under': who sees '{options.under}' sees what stands under it; leave it out"
        )
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
