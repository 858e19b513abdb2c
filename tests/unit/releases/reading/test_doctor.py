"""Each damage is found with the command that mends it; what is safe is mended by ``--fix`` and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mlflow_istio.core.endpoint.traffic import Destination, Mirror, Traffic, WeightedDestination
from mlflow_istio.core.inspection.diagnosis import INFO, Finding, traffic_difference
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import NotFound, RegistryError
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.deployments import update
from mlflow_istio.releases.deploying.mending import mend
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reading.doctor import examine
from tests.support.foreign_edits import (
    another_order,
    another_subset,
    damaged,
    drift,
    edit,
    left_tags,
    lost,
    marked,
    no_pin,
    no_probe,
    no_subset,
    orphan,
    pin_elsewhere,
    subset_elsewhere,
    two_hosts,
    unpinned,
    unready,
    weights,
    with_registry_down,
)
from tests.support.in_memory import World, a_world, with_canary
from tests.unit.releases.deploying.test_restoring import back


@dataclass(frozen=True, kw_only=True)
class Case:
    """A damage, what is found, and what mends it.

    Attributes:
        damage: Done to a world with a canary of churn-v2 at 10% and churn-v3 idle.
        found: Code and severity of all that is found.
        text: Part of the first finding's text.
        command: The first finding's command.
        by_hand: What that command does, where ``--fix`` does not; None: ``--fix`` mends it.
    """

    damage: Callable[[World], Any]
    found: list[tuple[str, str]]
    text: str
    command: str
    by_hand: Callable[[World], Any] | None = None


def another_version(world: World) -> None:
    """What the release of a version that is there does in the end; the one that is gone goes with its deployment."""
    shifting.promote(world.context, "churn")
    removal.delete(world.context, "churn-v1")


def no_right_to_read(world: World) -> None:
    """The registry answers, and refuses this user the ledger of this endpoint."""

    def refused(*_: object) -> None:
        raise RegistryError("user 'ada' lacks a right there, which an administrator of MLflow gives")

    world.registry.history = refused  # type: ignore[assignment, method-assign]


FIX = "mlflow-istio doctor churn -t {target} --fix"
CASES: dict[str, Case] = {
    "weights edited": Case(
        damage=lambda world: edit(world, "VirtualService", weights),
        found=[("edited-traffic", "error"), ("registry-drift", "warning")],
        text="somebody edited the routes after change 4: weight of churn-v1 90 -> 40, weight of churn-v2 10 -> 60",
        command="mlflow-istio rollback churn -t {target} --to 4",
        by_hand=lambda world: back(world, 4),
    ),
    "header route gone": Case(
        damage=lambda world: edit(world, "VirtualService", no_pin),
        found=[("edited-routes", "error")],
        text="somebody edited our routes: mlflow-istio.churn.pin.churn-v2 is gone",
        command=FIX,
    ),
    "header route changed": Case(
        damage=lambda world: edit(world, "VirtualService", pin_elsewhere),
        found=[("edited-routes", "error")],
        text="somebody edited our routes: mlflow-istio.churn.pin.churn-v2 was changed",
        command=FIX,
    ),
    "probe route gone": Case(
        damage=lambda world: edit(world, "VirtualService", no_probe),
        found=[("edited-routes", "error"), ("proxy-behind", "error")],
        text="mlflow-istio.churn.probe is gone",
        command=FIX,
    ),
    "order changed": Case(
        damage=lambda world: edit(world, "VirtualService", another_order),
        found=[("edited-routes", "error")],
        text="their order",
        command=FIX,
    ),
    "subset selects another": Case(
        damage=lambda world: edit(world, "DestinationRule", subset_elsewhere),
        found=[("wrong-subset", "error")],
        text="subset 'churn-v2' of the DestinationRule selects {'version': 'churn-v1'}, not deployment 'churn-v2'",
        command=FIX,
    ),
    "subset gone": Case(
        damage=lambda world: edit(world, "DestinationRule", no_subset),
        found=[("wrong-subset", "error")],
        text="deployment 'churn-v2' has no subset in the DestinationRule",
        command=FIX,
    ),
    "DestinationRule gone": Case(
        damage=lambda world: world.cluster.delete("DestinationRule", "churn"),
        found=[("no-destination-rule", "error")],
        text="its DestinationRule is gone",
        command=FIX,
    ),
    "subset without a deployment": Case(
        damage=lambda world: edit(world, "DestinationRule", another_subset),
        found=[("empty-subset", "warning")],
        text="subset 'gone' of the DestinationRule has no deployment",
        command=FIX,
    ),
    "idle deployment gone": Case(
        damage=lambda world: world.cluster.delete("Deployment", "churn-v3"),
        found=[("gone-deployment", "warning"), ("registry-drift", "warning")],
        text="deployment 'churn-v3' is gone, but its header route is there",
        command=FIX,
    ),
    "deployment with traffic gone": Case(
        damage=lambda world: world.cluster.delete("Deployment", "churn-v2"),
        found=[("gone-deployment", "error"), ("registry-drift", "warning")],
        text="deployment 'churn-v2' is gone, but requests are sent to it",
        command="mlflow-istio rollback churn -t {target} --to 4",
        by_hand=lambda world: back(world, 4),
    ),
    "candidate not ready": Case(
        damage=unready("churn-v2"),
        found=[("not-ready", "error")],
        text="deployment 'churn-v2' has 0 of 1 replicas ready and gets traffic",
        command="mlflow-istio rollback churn -t {target}",
    ),
    "stable not ready": Case(
        damage=unready("churn-v1"),
        found=[("not-ready", "error")],
        text="deployment 'churn-v1' has 0 of 1 replicas ready and gets traffic",
        command="mlflow deployments get -t {target} --name churn-v1, and read its log",
    ),
    "stable without replicas": Case(
        damage=lambda world: edit(world, "Deployment", lambda obj: obj["spec"].update(replicas=0), "churn-v1"),
        found=[("not-ready", "error")],
        text="deployment 'churn-v1' has 0 of 0 replicas ready",
        command="mlflow deployments update -t {target} --name churn-v1 -C replicas=1",
        by_hand=lambda world: update(world.context, "churn-v1", replicas=1),
    ),
    "control left over": Case(
        damage=lambda world: edit(
            world,
            "Deployment",
            lambda obj: obj["metadata"]["annotations"].update({"mlflow-istio.org/control-of": "churn-v1"}),
            "churn-v3",
        ),
        found=[("left-over-control", "warning")],
        text="deployment 'churn-v3' is the control of a release that is over, and nothing says when it goes",
        command=FIX,
    ),
    "removal not finished": Case(
        damage=unpinned,
        found=[("unrouted-deployment", "warning")],
        text="deployment 'churn-v3' runs, but no route leads to it",
        command="mlflow deployments delete -t {target} --name churn-v3",
        by_hand=lambda world: removal.delete(world.context, "churn-v3"),
    ),
    "changes wait": Case(
        damage=with_registry_down(lambda world: shifting.shift(world.context, "churn", TrafficRequest(weight=30))),
        found=[("registry-drift", "warning"), ("unrecorded", "warning")],
        text="the registry says something else than the endpoint: tags of churn/1, tags of churn/2",
        command=FIX,
    ),
    "tags and aliases differ": Case(
        damage=drift,
        found=[("registry-drift", "warning")],
        text="tags of churn/1, alias 'champion' of churn (is 3, should be 1)",
        command=FIX,
    ),
    "tags of a version that is gone": Case(
        damage=left_tags,
        found=[("registry-drift", "warning")],
        text="tags of churn/3",
        command=FIX,
    ),
    "orphan run": Case(
        damage=orphan,
        found=[("orphan-run", "warning")],
        text="run run-prod-churn-died of release 'died' is open in the registry, but the release is not",
        command=FIX,
    ),
    "a served version deleted": Case(
        damage=lambda world: world.registry.deleted.add("churn/1"),
        found=[("version-gone", "warning")],
        text="churn/1 is served but gone from the registry (deleted, or its model was renamed)",
        command="mlflow-istio release churn models:/MODEL/VERSION -t {target}",
        by_hand=another_version,
    ),
    "a change is lost": Case(
        damage=lost,
        found=[("lost-changes", "warning")],
        text="the registry does not have change 1 any more",
        command="mlflow runs restore, or mlflow experiments restore, then mlflow-istio history churn -t {target}",
    ),
    "state annotation damaged": Case(
        damage=damaged("state", "{", kept=True),
        found=[("damaged", "error")],
        text="annotation mlflow-istio.org/state.churn is not JSON",
        command=FIX,
    ),
    "state annotation gone": Case(
        damage=damaged("state", None, kept=True),
        found=[("damaged", "error")],
        text="VirtualService 'churn' has lost annotation mlflow-istio.org/state.churn",
        command=FIX,
    ),
    "release annotation damaged, and the ledger has nothing": Case(
        damage=damaged("release", "[]]", kept=False),
        found=[("damaged-for-good", "error")],
        text="annotation mlflow-istio.org/release.churn is not JSON",
        command="mlflow-istio delete-endpoint churn --force -t {target}",
        by_hand=lambda world: removal.delete_endpoint(world.context, "churn", force=True),
    ),
    "deletion not finished": Case(
        damage=marked,
        found=[("half-deleted", "warning")],
        text="a deletion was begun and not finished",
        command="mlflow deployments delete-endpoint -t {target} --endpoint churn",
        by_hand=lambda world: removal.delete_endpoint(world.context, "churn"),
    ),
    "VirtualService gone": Case(
        damage=lambda world: world.cluster.delete("VirtualService", "churn"),
        found=[("orphan-objects", "warning"), ("orphan-run", "warning"), ("registry-drift", "warning")],
        text="there is no such endpoint any more, but Service, DestinationRule, deployment 'churn-v1'",
        command="mlflow deployments delete-endpoint -t {target} --endpoint churn",
        by_hand=lambda world: removal.delete_endpoint(world.context, "churn"),
    ),
    "two VirtualServices of one host": Case(
        damage=two_hosts,
        found=[("host-conflict", "error")],
        text="belongs to VirtualService 'theirs' already",
        command="kubectl edit virtualservice churn",
        by_hand=lambda world: world.cluster.delete("VirtualService", "theirs"),
    ),
    "proxies don't answer": Case(
        damage=lambda world: setattr(world.cluster, "unroutable", True),
        found=[("proxy-behind", "error")],
        text="a proxy does not answer with the newest change",
        command="{up}",
        by_hand=lambda world: setattr(world.cluster, "unroutable", False),
    ),
    "registry down": Case(
        damage=lambda world: setattr(world.registry, "down", True),
        found=[("registry-unreachable", "warning")],
        text="the registry can't be asked",
        command="make MLFLOW_TRACKING_URI reachable, then mlflow-istio doctor -t {target}",
        by_hand=lambda world: setattr(world.registry, "down", False),
    ),
    "no right to read the history": Case(
        damage=no_right_to_read,
        found=[("registry-unreachable", "warning")],
        text="its history can't be read: user 'ada' lacks a right there",
        command="mlflow-istio doctor churn -t {target}, once that is mended",
    ),
}


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return sorted((finding.code, finding.severity) for finding in findings)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    world = with_canary()
    assert examine(world.context, "churn") == []
    assert examine(world.context) == []


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("all_of_them", [False, True], ids=["one endpoint", "all"])
def test_each_damage_is_found_with_the_command_that_mends_it(case: Case, all_of_them: bool) -> None:
    world = with_canary()
    case.damage(world)
    findings = examine(world.context, None if all_of_them else "churn")
    assert told(findings) == case.found
    (meant,) = [finding for finding in findings if finding.code == case.found[0][0]]
    assert case.text in meant.text
    assert meant.command == case.command
    assert "\n" not in meant.text


@pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.by_hand or case.command == FIX], ids=lambda case: case.text[:40]
)
def test_what_was_found_is_mended_by_what_was_said(case: Case) -> None:
    world = with_canary()
    case.damage(world)
    before = world.cluster.get("VirtualService", "churn")
    if case.by_hand is not None:
        mended = mend(
            world.context, [finding for finding in examine(world.context, "churn") if finding.code == case.found[0][0]]
        )
        assert mended == [], "what changes what users get is never mended by --fix"
        assert world.cluster.get("VirtualService", "churn") == before
        case.by_hand(world)
        mend(world.context, examine(world.context, "churn"))  # tags and runs that are left over
    else:
        assert all(not one.problem for one in mend(world.context, examine(world.context, "churn")))
    assert [one for one in examine(world.context) if one.severity != INFO] == []


def test_mending_changes_nothing_of_what_users_get() -> None:
    for case in CASES.values():
        if case.command != FIX or case.found[0][0] == "damaged":
            continue
        world = with_canary()
        case.damage(world)
        before = world.endpoint()
        mend(world.context, examine(world.context, "churn"))
        after = world.endpoint()
        assert (after.traffic.split, after.traffic.arms, after.stable, after.release) == (
            before.traffic.split,
            before.traffic.arms,
            before.stable,
            before.release,
        )


def test_a_foreign_subset_stays() -> None:
    world = with_canary()
    edit(world, "DestinationRule", another_subset)
    mend(world.context, examine(world.context, "churn"))
    rule = world.cluster.get("DestinationRule", "churn")
    assert rule is not None
    assert [one["name"] for one in rule["spec"]["subsets"] if one["name"] in ("gone", "theirs")] == ["theirs"]


def test_a_version_that_had_its_release_is_said_to_be_left_over_and_is_no_fault() -> None:
    world = a_world("churn-v1", "churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=10))
    shifting.abort(world.context, "churn")
    (finding,) = examine(world.context, "churn")
    assert (finding.code, finding.severity) == ("idle", "info")
    assert finding.command == "mlflow deployments delete -t {target} --name churn-v2"


def test_the_way_back_of_the_last_promotion_is_no_left_over() -> None:
    world = with_canary()
    shifting.promote(world.context, "churn")
    assert [finding.what for finding in examine(world.context, "churn")] == ["churn-v3"]


def test_an_endpoint_that_is_gone_for_good_is_looked_for_in_the_registry_only() -> None:
    world = with_canary()
    removal.delete_endpoint(world.context, "churn", force=True)
    assert examine(world.context) == []
    world.registry.tags["churn/1"] = {"istio.prod.churn.weight": "100"}
    (finding,) = examine(world.context, "churn")
    assert finding.code == "registry-drift"
    assert [one.problem for one in mend(world.context, [finding])] == [""]
    assert examine(world.context) == []


def test_an_endpoint_that_never_was_is_named() -> None:
    with pytest.raises(NotFound, match="there is no endpoint 'chrun'"):
        examine(with_canary().context, "chrun")


def test_a_first_create_that_was_killed_is_finished_or_taken_away() -> None:
    """Nothing of it is in the ledger, and the VirtualService comes last."""
    world, whole = a_world(), with_canary()
    for kind, name in (("Deployment", "churn-v1"), ("Service", "churn"), ("DestinationRule", "churn")):
        stands = whole.cluster.get(kind, name)
        assert stands is not None
        world.cluster.apply(stands)
    (finding,) = examine(world.context, "churn")
    assert finding.code == "orphan-objects"
    assert finding.text == (
        "its first create did not end, and left Service, DestinationRule, deployment 'churn-v1': give it again to finish it, or "
        "take away what is there"
    )
    assert finding.command == "mlflow deployments delete-endpoint -t {target} --endpoint churn"


def test_what_can_not_be_mended_says_why_and_does_not_hold_back_the_rest() -> None:
    world = with_canary()
    edit(world, "DestinationRule", no_subset)
    drift(world)
    findings = examine(world.context, "churn")
    world.registry.down = True
    problems = {one.finding.code: one.problem for one in mend(world.context, findings)}
    assert problems["wrong-subset"] == ""
    assert "can't be reached" in problems["registry-drift"]


def test_a_difference_of_traffic_is_told_in_words() -> None:
    one = Traffic(split=(WeightedDestination(destination=Destination(host="m", subset="a"), weight=100),), pins=("a",))
    from dataclasses import replace

    mirror = Mirror(destination=Destination(host="m", subset="b"), percentage=5)
    assert traffic_difference(one, one) == ""
    assert traffic_difference(one, replace(one, mirrors=(mirror,))) == "mirrors: b was added"
    assert "mirrored shares" in traffic_difference(
        replace(one, mirrors=(mirror,)), replace(one, mirrors=(replace(mirror, percentage=6),))
    )
