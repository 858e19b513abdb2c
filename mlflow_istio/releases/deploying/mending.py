"""Mend what ``doctor`` found, where that does not change what users get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_istio.core.basics.objects import Object, name_of, with_annotations
from mlflow_istio.core.endpoint.registry_state import nothing_stands, registry_state_of
from mlflow_istio.core.inspection.diagnosis import Finding
from mlflow_istio.core.mesh.destination_rule import subset_labels, with_subset, without_subset
from mlflow_istio.core.mesh.manifests import destination_rule_manifest
from mlflow_istio.core.mesh.virtual_service import read_endpoint, with_every_route, write_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.claims import claims_in, remembered
from mlflow_istio.core.moves.gaining import gaining
from mlflow_istio.errors import MlflowIstioError, NotFound, RegistryError, StateConflict
from mlflow_istio.releases.context import (
    CLAIM,
    Context,
    deployment_of,
    deployments_of,
    edit_virtual_service,
    emit_warnings,
    endpoint_of,
    find_virtual_service,
    root_of,
    versions_of,
)
from mlflow_istio.releases.deploying.controls import take_away
from mlflow_istio.releases.deploying.sharing import claim_again, give_up_claims
from mlflow_istio.releases.deploying.sweeping import enforce
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving.attachments import lead_to
from mlflow_istio.releases.moving.policy import follow
from mlflow_istio.releases.moving.proof import make_reachable, prove_change
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT, move
from mlflow_istio.releases.reading.doctor import kept_annotations, labels_in


@dataclass(frozen=True, kw_only=True, slots=True)
class Mended:
    """What became of a finding.

    Attributes:
        finding: The finding.
        problem: Why it could not be mended; empty when it was.
    """

    finding: Finding
    problem: str = ""


def mend(context: Context, findings: Sequence[Finding]) -> list[Mended]:
    """Mend what is safe to mend; one that fails does not hold back the others."""
    done = []
    for finding in findings:
        if not finding.safe:
            continue
        try:
            _MENDERS[finding.code](context, finding)
        except MlflowIstioError as exc:
            done.append(Mended(finding=finding, problem=exc.message))
        else:
            done.append(Mended(finding=finding))
    return done


def _mend_annotations(context: Context, finding: Finding) -> None:
    name = finding.endpoint
    virtual_service = find_virtual_service(context.cluster, name) or context.cluster.get("VirtualService", name)
    if virtual_service is None:
        raise NotFound(f"VirtualService '{name}' is gone")
    recorded = context.registry.history(context.scope, name)

    def restore(present: Object | None) -> Object:
        kept = kept_annotations(context, present, name, recorded) if present is not None else None
        if present is None or kept is None:
            raise StateConflict(
                f"VirtualService '{name_of(virtual_service)}' was changed meanwhile: run the same command again"
            )
        return with_annotations(present, kept)

    context.cluster.edit("VirtualService", name_of(virtual_service), restore)
    flush_outbox(context, name)


def _mend_routes(context: Context, finding: Finding) -> None:
    name = finding.endpoint
    endpoint = endpoint_of(context.cluster, name)
    deployments = deployments_of(context.cluster, name)
    asked = make_reachable(context, deployments, endpoint, with_every_route(endpoint), timeout=DEFAULT_TIMEOUT)

    def write(virtual_service: Object) -> Object:
        now = read_endpoint(virtual_service, name)
        if not asked.issuperset(gaining(now, with_every_route(now))):
            raise StateConflict(f"endpoint '{name}' was changed by somebody else meanwhile: run the same command again")
        return write_endpoint(virtual_service, with_every_route(now))

    edit_virtual_service(context.cluster, endpoint.virtual_service, name, write)
    emit_warnings(context, prove_change(context, endpoint, DEFAULT_TIMEOUT).warnings)


def _mend_rule(context: Context, finding: Finding) -> None:
    name = finding.endpoint
    endpoint = endpoint_of(context.cluster, name)
    deployed = {name_of(obj) for obj in deployments_of(context.cluster, name)}
    fresh = destination_rule_manifest(context.templates["DestinationRule"], name)

    def right(present: Object | None) -> Object:
        rule = present or fresh
        for subset in rule["spec"].get("subsets") or []:
            own = subset["name"] in endpoint.traffic.pins
            if own and subset.get("labels") != subset_labels(subset["name"]):
                meant = {**subset, "labels": subset_labels(subset["name"])}
                others = [meant if entry is subset else entry for entry in rule["spec"]["subsets"]]
                rule = {**rule, "spec": {**rule["spec"], "subsets": others}}
        for pin in endpoint.traffic.pins:
            if pin in deployed:
                rule = with_subset(rule, pin)
        for subset in rule["spec"].get("subsets") or []:
            left = subset["name"] not in deployed and subset["name"] not in endpoint.traffic.pins
            if left and subset.get("labels") == subset_labels(subset["name"]):
                rule = without_subset(rule, subset["name"])
        return rule

    context.cluster.edit("DestinationRule", name, right)
    follow(context, name, endpoint.traffic.policy, attached=endpoint.attached)


def _mend_attached(context: Context, finding: Finding) -> None:
    rule = context.cluster.get("DestinationRule", finding.endpoint) or {}
    lead_to(context, deployment_of(context.cluster, finding.what), rule)


def _mend_gone(context: Context, finding: Finding) -> None:
    name, deployment = finding.endpoint, finding.what
    context.cluster.get("Deployment", deployment)  # one that can't be read is not gone
    move(context, name, lambda now: transitions.unpin(now, deployment), action="remove", reason="its pods are gone")
    if context.cluster.get("DestinationRule", name) is not None:
        context.cluster.edit("DestinationRule", name, lambda rule: without_subset(rule or {}, deployment))


def _mend_ledger(context: Context, finding: Finding) -> None:
    warnings = flush_outbox(context, finding.endpoint, publish=True)
    if warnings:
        raise RegistryError(warnings[0])


def _mend_standing(context: Context, finding: Finding) -> None:
    name = finding.endpoint
    labels = labels_in(context.registry.history(context.scope, name))
    virtual_service = find_virtual_service(context.cluster, name)
    if virtual_service is None:
        context.registry.publish(nothing_stands(context.scope, name, {}, labels))
        return
    endpoint = read_endpoint(virtual_service, name)
    versions = versions_of(deployments_of(context.cluster, name))
    context.registry.publish(registry_state_of(endpoint, context.scope, versions, labels - set(versions.values())))


def _mend_run(context: Context, finding: Finding) -> None:
    context.registry.close_run(finding.what, "abandoned")


def _mend_overdue(context: Context, finding: Finding) -> None:
    enforce(context, finding.endpoint)


def _mend_stale_claim(context: Context, finding: Finding) -> None:
    give_up_claims(context, finding.endpoint, finding.what)


def _mend_lost_claim(context: Context, finding: Finding) -> None:
    name = finding.endpoint
    endpoint = endpoint_of(context.cluster, name)
    root = root_of(context.cluster, endpoint)
    root_claim = claims_in(root).get(name) if root is not None else None
    claim = root_claim or remembered(endpoint.settings.get(CLAIM))
    if claim is None:
        raise StateConflict(f"which requests endpoint '{name}' had is not known any more: run its create command again")
    claim_again(context, name, finding.what, claim)
    emit_warnings(context, prove_change(context, endpoint, DEFAULT_TIMEOUT).warnings)


def _mend_control(context: Context, finding: Finding) -> None:
    take_away(context, finding.endpoint, finding.what, reason="left over")


def _mend_proxy(context: Context, finding: Finding) -> None:
    assert context.revive is not None, finding
    context.revive()


_MENDERS: Mapping[str, Callable[[Context, Finding], None]] = {
    "damaged": _mend_annotations,
    "edited-routes": _mend_routes,
    "no-destination-rule": _mend_rule,
    "wrong-subset": _mend_rule,
    "empty-subset": _mend_rule,
    "attached-unled": _mend_attached,
    "gone-deployment": _mend_gone,
    "unrecorded": _mend_ledger,
    "registry-drift": _mend_standing,
    "orphan-run": _mend_run,
    "overdue": _mend_overdue,
    "stale-claim": _mend_stale_claim,
    "lost-claim": _mend_lost_claim,
    "left-over-control": _mend_control,
    "proxy-behind": _mend_proxy,
}
