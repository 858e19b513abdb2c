"""Plans: the exact difference a command would make, bound to what it was made for, to be applied later or by somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from mlflow_istio.core.basics.model_version import parse_model_uri
from mlflow_istio.core.basics.names import check_endpoint_name
from mlflow_istio.core.inspection.fingerprint import digest
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.options.base import CreateOptions, UpdateEndpointOptions, cluster_only, parse_options
from mlflow_istio.releases.context import Desk, existing_endpoint
from mlflow_istio.releases.guarded import GuardedCluster
from mlflow_istio.verbs.adoption import AdoptionVerbs
from mlflow_istio.verbs.base import Base, Config, Dry, Real, Result
from mlflow_istio.verbs.deployments import DeploymentVerbs
from mlflow_istio.verbs.endpoints import EndpointVerbs


class Plan(BaseModel):
    """One command, what it would change, and what that rests on.

    Attributes:
        plan: Version of this form.
        endpoint: The endpoint.
        target: Target URI.
        scope: The place's name in the registry, so that a plan is not applied elsewhere.
        verb: ``update-endpoint`` or ``create``.
        deployment: Name, model URI (its version resolved) and flavor of what ``create`` deploys.
        options: Every option with its value, those from the environment included.
        states: Fingerprints of the endpoint that the plan goes through, the first as it was found.
        hash: Digest of the first.
        difference: What would be written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Literal[1] = 1
    endpoint: str
    target: str
    scope: str
    verb: Literal["update-endpoint", "create"]
    deployment: dict[str, str | None] | None = None
    options: dict[str, Any]
    states: list[dict[str, str]]
    hash: str
    difference: str


def read_plan(document: Any) -> Plan:
    """A plan as it was written.

    Raises:
        InvalidInput: It is none, or was edited.
    """
    try:
        plan = Plan.model_validate(document)
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in error["loc"]) or "it"
        raise InvalidInput(
            f"this is no plan of mlflow-istio ({where}: {error['msg']}): make one with 'mlflow-istio plan'"
        ) from exc
    if not plan.states or digest(plan.states[0]) != plan.hash:
        raise InvalidInput("the plan was edited: its hash is not that of the state it names; make a new one")
    return plan


class PlanVerbs(Base):
    """Plan now, apply later."""

    def plan(
        self,
        endpoint: str,
        config: Config | None = None,
        *,
        name: str | None = None,
        model_uri: str | None = None,
        flavor: str | None = None,
    ) -> dict[str, Any]:
        """What ``update_endpoint`` (or with ``name`` and ``model_uri``: ``create``) would do, as a value to apply later.

        Raises:
            MlflowIstioError: What the command itself would raise.
        """
        check_endpoint_name(endpoint)
        if (name is None) != (model_uri is None):
            raise InvalidInput("to plan a deployment give both its name and its model URI")
        planner = _Planner(self.target_uri, tell=self._tell, warn=self._warn)
        planner.endpoint = endpoint
        kind = CreateOptions if name is not None else UpdateEndpointOptions
        options = parse_options(cast("type[Any]", kind), config, cluster=self.target.kind)
        said = _all_options(options, self.target.kind, config)
        deployment: dict[str, str | None] | None = None
        if name is not None and model_uri is not None:
            desk = self._place(options).desk(self._tell, self._warn)
            model = desk.registry.resolve(parse_model_uri(model_uri))
            deployment = {"name": name, "model_uri": f"models:/{model.model}/{model.version}", "flavor": flavor}
        result = _carry_out(planner, endpoint, said | {"dry_run": True}, deployment)
        if planner.opened is not None:
            said["release_id"] = planner.opened  # so that a plan given again means the release it opened
        return Plan(
            endpoint=endpoint,
            target=self.target_uri,
            scope=planner.scope,
            verb="create" if deployment else "update-endpoint",
            deployment=deployment,
            options=said,
            states=planner.guard.states,
            hash=digest(planner.guard.states[0]),
            difference=result.difference or "",
        ).model_dump()

    def apply_plan(self, document: Mapping[str, Any]) -> Result:
        """Carry out a plan, on exactly the endpoint it was made for; given again, it finishes what is left.

        Raises:
            StateConflict: The endpoint has moved since, or this is another place; names what.
            InvalidInput: It is no plan.
        """
        plan = read_plan(document)
        carrier = _Carrier(self.target_uri, tell=self._tell, warn=self._warn)
        carrier.plan_to_apply = plan
        return _carry_out(carrier, plan.endpoint, plan.options, plan.deployment)


class _Planner(AdoptionVerbs, DeploymentVerbs, EndpointVerbs):
    """Verbs whose writes are remembered, with every state they go through."""

    endpoint = ""

    @property
    def opened(self) -> str | None:
        """Id of the release that the plan opens, or None."""
        after = existing_endpoint(self.guard, self.endpoint)
        was = self.before.release.id if self.before and self.before.release else None
        release = after.release if after else None
        return release.id if release and release.id != was else None

    def _at(self, desk: Desk, *, dry: bool) -> Real | Dry:
        del dry  # it always is
        bench = Dry(desk)
        self.scope = desk.scope
        self.before = existing_endpoint(desk.cluster, self.endpoint)
        self.guard = GuardedCluster(bench.desk.cluster, self.endpoint)
        bench.desk = replace(bench.desk, cluster=self.guard)
        return bench


class _Carrier(AdoptionVerbs, DeploymentVerbs, EndpointVerbs):
    """Verbs that write only on the endpoint that was planned on."""

    plan_to_apply: Plan

    def _at(self, desk: Desk, *, dry: bool) -> Real | Dry:
        del dry  # it never is
        plan = self.plan_to_apply
        if desk.scope != plan.scope:
            raise StateConflict(
                f"the plan was made for {plan.scope} ({plan.target}), not for {desk.scope}: give that target"
            )
        return Real(replace(desk, cluster=GuardedCluster(desk.cluster, plan.endpoint, plan.states)))


def _carry_out(
    worker: _Planner | _Carrier, endpoint: str, options: Config, deployment: Mapping[str, str | None] | None
) -> Result:
    if deployment is None:
        return worker.update_endpoint(endpoint, options)
    name, model_uri = str(deployment.get("name")), str(deployment.get("model_uri"))
    return worker.create(name, model_uri, deployment.get("flavor"), endpoint, options)


def _all_options(options: CreateOptions | UpdateEndpointOptions, target: str, config: Config | None) -> dict[str, Any]:
    """Every option that is said, in the call or in the environment, so that another environment can't change what the plan does.

    Only what nobody said is left out: an option that is there with its default would count as said when the plan is applied.
    """
    useless = cluster_only(type(options)) if target == "istio-local" else ()
    fields = type(options).model_fields
    unsaid = {
        key
        for key, field in fields.items()
        if key not in (config or {}) and getattr(options, key) == field.get_default(call_default_factory=True)
    }
    values = options.model_dump(mode="json")
    return {key: value for key, value in values.items() if key not in (*useless, *unsaid, "dry_run")}
