"""Plans: the exact difference a command would make, bound to what it was made for, to be applied later or by somebody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mlflow_istio.core.basics.model_version import parse_model_uri
from mlflow_istio.core.basics.names import check_endpoint_name, nearest
from mlflow_istio.core.inspection.fingerprint import digest
from mlflow_istio.errors import InvalidInput, StateConflict, masked
from mlflow_istio.options.base import (
    AdoptOptions,
    ChangeOptions,
    ConnectionOptions,
    CreateOptions,
    DeleteEndpointOptions,
    DeleteOptions,
    Parsed,
    UpdateEndpointOptions,
    cluster_only,
    parse_options,
)
from mlflow_istio.options.combinations import (
    IDLE_IN_REDEPLOY,
    check_fault,
    check_route,
    check_update_endpoint,
    without,
    without_defaults_of_other_kinds,
)
from mlflow_istio.options.routes import FaultOptions, PolicyOptions, RouteOptions
from mlflow_istio.options.shared import SETTINGS
from mlflow_istio.releases.context import existing_endpoint
from mlflow_istio.releases.guarded import GuardedCluster
from mlflow_istio.verbs.base import Base, Config, Result, Session
from mlflow_istio.verbs.deployments import DeploymentVerbs, create_options, has_its_place
from mlflow_istio.verbs.endpoints import EndpointVerbs
from mlflow_istio.verbs.policy import change_of
from mlflow_istio.wiring.connection import Connection

PlannedVerb = Literal["update-endpoint", "create", "adopt", "policy", "route", "fault", "delete", "delete-endpoint"]


class Plan(BaseModel):
    """One command, what it would change, and what that rests on.

    Attributes:
        plan: Version of this form.
        endpoint: The endpoint.
        target: Target URI.
        scope: The place's name in the registry, so that a plan is not applied elsewhere.
        verb: Which command.
        deployment: Name, model URI (its version resolved) and flavor of what ``create`` deploys; the name of what ``delete`` takes.
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
    verb: PlannedVerb
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
        verb: str | None = None,
    ) -> dict[str, Any]:
        """What a verb would do to an endpoint, as a value to apply later.

        Args:
            endpoint: The endpoint.
            config: The verb's options.
            name: The deployment that ``create`` makes or ``delete`` takes away.
            model_uri: Its model, for ``create``.
            flavor: Its flavor, for ``create``.
            verb: Such as ``delete-endpoint``; None: ``create`` with name and model_uri, else ``update-endpoint``.

        Raises:
            InvalidInput: The verb can't be planned; says why and what to do instead.
            MlflowIstioError: What the command itself would raise.
        """
        check_endpoint_name(endpoint)
        planned = _planned_verb(verb or ("update-endpoint" if name is model_uri is None else "create"))
        _check_deployment(planned, name, model_uri, flavor)
        planner = _Planner(self.target_uri, tell=self._tell, warn=self._warn)
        planner.endpoint, planner.places = endpoint, self
        planned, options, config = self._heeded(planned, config or {})
        if isinstance(options, CreateOptions):
            options = create_options(self._session(options).context, options, config, endpoint, str(model_uri))
        given = self._all_options(options, config)
        if "gateway" not in config and self._has_its_place(options, endpoint, model_uri):
            given.pop("gateway", None)  # which is where to prove changes, and no part of them
        deployment: dict[str, str | None] | None = None
        if model_uri is not None:
            model = self._session(options).context.registry.resolve(parse_model_uri(model_uri))
            deployment = {"name": name, "model_uri": f"models:/{model.model}/{model.version}", "flavor": flavor}
        elif name is not None:
            deployment = {"name": name}
        result = _VERBS[planned].call(planner, endpoint, given | {"dry_run": True}, deployment or {})
        if planner.opened is not None:
            given["release_id"] = planner.opened  # so that a plan given again means the release it opened
        return Plan(
            endpoint=endpoint,
            target=self.target_uri,
            scope=planner.scope,
            verb=planned,
            deployment=deployment,
            options=given,
            states=planner.guard.states,
            hash=digest(planner.guard.states[0]),
            difference=result.difference or "",
        ).model_dump()

    def _has_its_place(self, options: ChangeOptions, endpoint: str, model_uri: str | None) -> bool:
        """Whether the endpoint's gateways are those of a VirtualService that is there already."""
        if isinstance(options, CreateOptions):
            return has_its_place(self._session(options).context, options, endpoint, str(model_uri))
        return isinstance(options, AdoptOptions)

    def _heeded(self, verb: PlannedVerb, config: Config) -> tuple[PlannedVerb, ChangeOptions, Config]:
        """The verb that does it, its options without those of the environment that it passes over, and those of the call."""
        options = self._options(_VERBS[verb].options, config)
        if isinstance(options, UpdateEndpointOptions):
            kind, config = change_of(options, config)
            if kind != "traffic":
                return self._heeded(kind, config)
            options = without_defaults_of_other_kinds(options, kind, config)
            options = check_update_endpoint(options, config)
        elif isinstance(options, RouteOptions):
            options = check_route(options, config)
        elif isinstance(options, FaultOptions):
            options = check_fault(options, config)
        elif isinstance(options, PolicyOptions):
            options = without(options, [name for name in SETTINGS if name not in config])
        return verb, options, config

    def _all_options(self, options: ChangeOptions, config: Config) -> dict[str, Any]:
        """Every option that is said, those included that a deployment comes back with."""
        given = _all_options(options, self.target.kind, config)
        if isinstance(options, UpdateEndpointOptions) and options.to is not None:
            create = self._options(CreateOptions, options.redeploy)
            every = _all_options(create, self.target.kind, options.redeploy)
            redeploy = {name: value for name, value in every.items() if name not in IDLE_IN_REDEPLOY}
            if redeploy:
                given["redeploy"] = redeploy
        return given

    def apply_plan(self, document: Mapping[str, Any]) -> Result:
        """Carry out a plan, on exactly the endpoint it was made for; given again, it finishes what is left.

        Raises:
            StateConflict: The endpoint has moved since, or this is another place; names what.
            InvalidInput: It is no plan.
        """
        plan = read_plan(document)
        carrier = _Carrier(self.target_uri, tell=self._tell, warn=self._warn)
        carrier.plan_to_apply, carrier.places = plan, self
        return _VERBS[plan.verb].call(carrier, plan.endpoint, plan.options, plan.deployment or {})


class _Worker(DeploymentVerbs, EndpointVerbs):
    """The verbs that can be planned, at the places of whoever plans or applies."""

    places: Base

    def _place(self, options: ConnectionOptions) -> Connection:
        return self.places._place(options)


class _Planner(_Worker):
    """Verbs whose writes are remembered, with every state they go through."""

    endpoint = ""

    @property
    def opened(self) -> str | None:
        """Id of the release that the plan opens, or None."""
        after = existing_endpoint(self.guard, self.endpoint)
        was = self.before.release.id if self.before and self.before.release else None
        release = after.release if after else None
        return release.id if release and release.id != was else None

    def _session(self, options: ConnectionOptions, *, templates: str | None = None, unrecorded: str = "") -> Session:
        session = super()._session(options, templates=templates, unrecorded=unrecorded)
        session = session if session.remembered else session.dry_run()
        self.scope = session.context.scope
        self.before = existing_endpoint(session.context.cluster, self.endpoint)
        self.guard = GuardedCluster(session.context.cluster, self.endpoint)
        return session.with_cluster(self.guard)


class _Carrier(_Worker):
    """Verbs that write only on the endpoint that was planned on."""

    plan_to_apply: Plan

    def _options(self, model: type[Parsed], config: Config | None) -> Parsed:
        # The plan holds what the environment said when it was made; another one must not change what it does.
        return parse_options(model, config, cluster=self.target.kind, environment=False)

    def _session(self, options: ConnectionOptions, *, templates: str | None = None, unrecorded: str = "") -> Session:
        session, plan = super()._session(options, templates=templates, unrecorded=unrecorded), self.plan_to_apply
        if session.context.scope != plan.scope:
            raise StateConflict(
                f"the plan was made for {plan.scope} ({plan.target}), not for {session.context.scope}: give that target"
            )
        return session.with_cluster(GuardedCluster(session.context.cluster, plan.endpoint, plan.states))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    """A verb that can be planned.

    Attributes:
        options: Its options.
        call: Does it for an endpoint, with options, and the deployment's name, model URI and flavor as far as it has one.
    """

    options: type[ChangeOptions]
    call: Callable[[_Worker, str, Config, Mapping[str, str | None]], Result]


_VERBS: Mapping[PlannedVerb, _Planned] = {
    "update-endpoint": _Planned(
        options=UpdateEndpointOptions, call=lambda worker, name, given, _: worker.update_endpoint(name, given)
    ),
    "create": _Planned(
        options=CreateOptions,
        call=lambda worker, name, given, of: worker.create(
            str(of.get("name")), str(of.get("model_uri")), of.get("flavor"), name, given
        ),
    ),
    "adopt": _Planned(options=AdoptOptions, call=lambda worker, name, given, _: worker.adopt(name, given)),
    "policy": _Planned(options=PolicyOptions, call=lambda worker, name, given, _: worker.policy(name, given)),
    "route": _Planned(options=RouteOptions, call=lambda worker, name, given, _: worker.route(name, given)),
    "fault": _Planned(options=FaultOptions, call=lambda worker, name, given, _: worker.fault(name, given)),
    "delete": _Planned(
        options=DeleteOptions, call=lambda worker, name, given, of: worker.delete(str(of.get("name")), name, given)
    ),
    "delete-endpoint": _Planned(
        options=DeleteEndpointOptions, call=lambda worker, name, given, _: worker.delete_endpoint(name, given)
    ),
}

_NOT_PLANNED: Mapping[str, str] = {
    "update": "which changes pods, and a plan is bound to routes: see its difference with dry_run",
    "declare": "which rests on figures that grow: plan 'action=promote' with the winner as 'candidate'",
    "release": "which goes on for hours: see its plan with 'mlflow-istio release --dry-run'",
    "resume-release": "which goes on for hours: see the release's plan with 'mlflow-istio release --dry-run'",
    "unpause": "which moves no traffic: plan 'action=resume'",
    "approve": "which answers a release that goes on",
    "reject": "which answers a release that goes on",
    "chaos": "which measures while it lasts: plan 'fault'",
    "pins": "which gives out keys, and a plan is for others to read: see its difference with dry_run",
    "sweep": "which ends what is over when it is over: see it with 'mlflow-istio sweep --dry-run'",
    "doctor": "which looks before it mends: run it without fix",
    "plan": "which makes plans",
    "apply-plan": "which carries out plans",
}


def _planned_verb(verb: str) -> PlannedVerb:
    """The verb, if it can be planned.

    Raises:
        InvalidInput: It can't; says why.
    """
    named = verb.replace("_", "-")
    for planned in _VERBS:
        if named == planned:
            return planned
    if named in _NOT_PLANNED:
        raise InvalidInput(f"there is no plan of '{named}', {_NOT_PLANNED[named]}")
    raise InvalidInput(f"'{named}' is no verb that a plan can hold: {nearest(named, list(_VERBS))}")


def _check_deployment(verb: PlannedVerb, name: str | None, model_uri: str | None, flavor: str | None) -> None:
    """Refuse what is missing of a deployment, or has no effect.

    Raises:
        InvalidInput: Names it.
    """
    if verb == "create" and (name is None or model_uri is None):
        raise InvalidInput("to plan a deployment give both its name and its model URI")
    if verb == "delete" and name is None:
        raise InvalidInput("to plan 'delete' give the deployment's name")
    useless = {"name": None if verb in ("create", "delete") else name}
    useless |= {} if verb == "create" else {"model_uri": model_uri, "flavor": flavor}
    for what, value in useless.items():
        if value is not None:
            raise InvalidInput(f"'{what}' has no effect on a plan of '{verb}': leave it out")


def _all_options(options: ChangeOptions, target: str, config: Config | None) -> dict[str, Any]:
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
    for key in ("tracking_uri", "registry_uri"):
        if masked(str(values.get(key))) != str(values.get(key)):
            raise InvalidInput(
                f"option '{key}' has a user or password, which the plan would hold in plain text: set MLFLOW_{key.upper()} "
                "where it is made and applied"
            )
    return {key: value for key, value in values.items() if key not in (*useless, *unsaid, "dry_run")}
