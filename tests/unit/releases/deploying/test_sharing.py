"""Several endpoints under one host, on in-memory ports: each with its own release, none in another's way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import CustomRoute, Fault, PolicyRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError, StateConflict
from mlflow_istio.releases.context import address_of, entrance_of
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.mending import mend
from mlflow_istio.releases.deploying.removal import delete_endpoint
from mlflow_istio.releases.deploying.sharing import HostShare
from mlflow_istio.releases.moving import policy, shifting
from mlflow_istio.releases.reading.doctor import examine
from mlflow_istio.releases.reading.views import endpoint_view
from tests.support.in_memory import World, a_request

CHAT = HostShare(under="models", claim=Claim(path="/api/v1/chat"))
RANK = HostShare(under="models", claim=Claim(header=("model-version", "rank")))


def request(name: str, endpoint: str, share: HostShare | None = None, **changes: Any) -> DeployRequest:
    return a_request(name, endpoint=endpoint, share=share, **changes)


def a_world() -> World:
    world = World()
    world.deploy("churn-v1", endpoint="chat", share=CHAT)
    world.deploy("forest-v1", endpoint="rank", share=RANK)
    return world


def root_of(world: World, name: str = "models") -> Object:
    found = world.cluster.get("VirtualService", name)
    assert found is not None
    return found


def delegates(world: World) -> list[str]:
    return [route["delegate"]["name"] for route in root_of(world)["spec"]["http"]]


def test_endpoints_share_a_host_each_with_a_release_and_a_ledger_of_its_own() -> None:
    world = a_world()
    assert root_of(world)["spec"]["hosts"] == ["models"]
    assert delegates(world) == ["chat", "chat", "rank"]
    chat = world.cluster.get("VirtualService", "chat")
    assert chat is not None
    assert not {"hosts", "gateways"} & set(chat["spec"])
    world.deploy("churn-v2", endpoint="chat", strategy="canary", traffic_request=TrafficRequest(weight=10))
    assert world.endpoint("chat").traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert world.endpoint("rank").release is None
    shifting.promote(world.context, "chat")
    assert world.history("chat") == [(1, "deploy"), (2, "deploy"), (3, "start"), (4, "promote")]
    assert world.history("rank") == [(1, "deploy")]
    assert world.warnings == []


def test_the_address_of_each_leads_through_the_root() -> None:
    world = a_world()
    view = endpoint_view(world.cluster, "chat")
    assert view["url"] == "http://models.invalid/api/v1/chat"
    assert view["scoring_url"] == "http://models.invalid/api/v1/chat/invocations"
    assert dict(address_of(world.cluster, "rank").headers) == {"model-version": "rank"}
    assert address_of(world.cluster, "rank").url == "http://models.invalid"
    assert entrance_of(world.cluster, "chat").handed_on == "/invocations"


def test_removing_one_leaves_the_others_and_the_last_takes_the_root_along() -> None:
    world = a_world()
    before = root_of(world)["spec"]["http"][2:]
    assert delete_endpoint(world.context, "chat")
    assert root_of(world)["spec"]["http"] == before
    assert world.endpoint("rank").traffic.weights == {"forest-v1": 100}
    assert delete_endpoint(world.context, "rank")
    assert world.objects() == []


def test_a_root_of_somebody_elses_stays_as_it_was() -> None:
    world = World()
    theirs: Object = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "models"},
        "spec": {"hosts": ["models.example"], "http": [{"route": [{"destination": {"host": "web"}}]}]},
    }
    world.cluster.apply(theirs)
    world.deploy("churn-v1", endpoint="chat", share=CHAT)
    assert world.endpoint("chat").traffic.weights == {"churn-v1": 100}
    delete_endpoint(world.context, "chat")
    found = root_of(world)
    assert (found["spec"], found["metadata"].get("annotations")) == (theirs["spec"], None)


def test_another_endpoints_host_can_be_shared_and_is_not_deleted_under_the_others() -> None:
    world = World()
    world.deploy("churn-v1", endpoint="models")
    world.deploy("forest-v1", endpoint="chat", share=CHAT)
    world.deploy("churn-v2", endpoint="models", strategy="canary", traffic_request=TrafficRequest(weight=20))
    assert world.endpoint("models").traffic.weights == {"churn-v1": 80, "churn-v2": 20}
    shifting.promote(world.context, "models")
    with pytest.raises(StateConflict, match="'models' has the host of chat: delete that first"):
        delete_endpoint(world.context, "models")
    delete_endpoint(world.context, "chat")
    assert world.endpoint("models").traffic.weights == {"churn-v2": 100}
    delete_endpoint(world.context, "models")
    assert world.objects() == []


@pytest.mark.parametrize(
    ("deployment", "endpoint", "share", "changes", "error", "words"),
    [
        (
            "churn-v2",
            "other",
            CHAT,
            {},
            StateConflict,
            "endpoint 'other' can't have /api/v1/chat, which belongs to endpoint 'chat'",
        ),
        (
            "churn-v2",
            "chat",
            HostShare(under="models", claim=Claim(path="/b")),
            {},
            StateConflict,
            "has /api/v1/chat and can't have",
        ),
        ("churn-v2", "models", CHAT, {}, InvalidInput, "can't stand under itself"),
        (
            "churn-v2",
            "other",
            HostShare(under="chat", claim=Claim(path="/a")),
            {},
            StateConflict,
            "is itself a delegate",
        ),
        (
            "churn-v2",
            "other",
            HostShare(under="models", claim=Claim(path="/a")),
            {"hosts": ("a.b",)},
            InvalidInput,
            "'host' has no",
        ),
    ],
)
def test_what_can_not_be_is_refused_with_nothing_written(
    deployment: str, endpoint: str, share: HostShare, changes: Any, error: type[MlflowIstioError], words: str
) -> None:
    world = a_world()
    world.cluster.writes.clear()
    with pytest.raises(error, match=words):
        world.deploy(deployment, endpoint=endpoint, share=share, **changes)
    assert world.cluster.writes == []


def test_an_endpoint_with_hosts_of_its_own_is_not_moved_under_another() -> None:
    world = World()
    world.deploy("churn-v1", endpoint="chat")
    with pytest.raises(StateConflict, match="exists already and is not under 'models'"):
        world.deploy("churn-v2", endpoint="chat", share=CHAT)


def test_a_root_that_lost_the_endpoint_is_named_and_the_create_command_mends_it() -> None:
    world = a_world()
    broken = root_of(world)
    broken["spec"]["http"] = broken["spec"]["http"][2:]
    del broken["metadata"]["annotations"]["mlflow-istio.org/delegate.chat"]
    world.cluster.apply(broken)
    with pytest.raises(MlflowIstioError, match="does not delegate to endpoint 'chat'"):
        world.deploy("churn-v2", endpoint="chat")
    world.deploy("churn-v2", endpoint="chat", share=CHAT)
    assert delegates(world) == ["chat", "chat", "rank"]


@pytest.mark.parametrize(
    ("match", "reached"),
    [
        ({"headers": {"x-user": {"exact": "staff"}}}, True),
        ({"uri": {"exact": "/api/v1/chat/special"}}, True),
        ({"uri": {"prefix": "/api/v1/chat/special"}}, True),
        ({"uri": {"exact": "/special"}}, False),
        ({"uri": {"regex": "/api/v1/chat/.*"}}, False),
        ({"uri": {"prefix": "/API/v1/chat/"}, "ignoreUriCase": True}, False),
    ],
)
def test_a_route_that_istio_would_leave_out_without_a_word_is_refused(match: Object, reached: bool) -> None:
    world = a_world()
    world.deploy("churn-v2", endpoint="chat")
    rule = CustomRoute(name="special", deployment="churn-v2", match=(match,))
    before = world.cluster.get("VirtualService", "chat")
    if reached:
        policy.set_rule(world.context, "chat", rule)
        assert [one.name for one in world.endpoint("chat").traffic.policy.rules] == ["special"]
        return
    fields = ", ".join(sorted(match))
    words = rf"'mlflow-istio.chat.rule.special' matches on {fields} outside of what 'models' hands on .*/api/v1/chat\)"
    with pytest.raises(InvalidInput, match=words):
        policy.set_rule(world.context, "chat", rule)
    assert world.cluster.get("VirtualService", "chat") == before


def test_a_fault_on_the_header_that_chose_the_endpoint_is_refused_when_it_asks_for_another_value() -> None:
    world = a_world()
    until = world.context.clock.now() + timedelta(seconds=60)
    other = Fault(abort=503, until=until, match=({"headers": {"model-version": {"exact": "other"}}},))
    with pytest.raises(InvalidInput, match="would reach it"):
        policy.start_fault(world.context, "rank", other)
    policy.start_fault(world.context, "rank", replace(other, match=({"headers": {"x-user": {"exact": "staff"}}},)))


def test_a_route_that_its_roots_owner_cut_off_does_not_hold_up_a_rollback() -> None:
    world = a_world()
    world.deploy("churn-v2", endpoint="chat", strategy="canary", traffic_request=TrafficRequest(weight=10))
    rule = CustomRoute(name="special", deployment="churn-v2", match=({"uri": {"prefix": "/api/v1/chat/special"}},))
    policy.set_rule(world.context, "chat", rule)
    moved = root_of(world)
    moved["spec"]["http"][1]["match"] = [{"uri": {"prefix": "/api/v2/"}}]
    world.cluster.apply(moved)
    shifting.rollback(world.context, "chat")
    assert world.endpoint("chat").traffic.weights == {"churn-v1": 100}


@pytest.mark.parametrize("force", [False, True])
def test_a_root_is_no_endpoint_and_is_not_deleted_under_those_that_share_it(force: bool) -> None:
    world = a_world()
    before = world.objects()
    with pytest.raises(StateConflict, match="'models' has the host of chat, rank: delete them first"):
        delete_endpoint(world.context, "models", force=force)
    with pytest.raises(StateConflict, match="'models' is the host that chat, rank share, not an endpoint"):
        world.deploy("churn-v2", endpoint="models")
    assert world.objects() == before


def test_the_doctor_finds_nothing_at_a_healthy_root_and_names_a_claim_without_an_endpoint() -> None:
    world = a_world()
    assert examine(world.context) == []
    world.cluster.delete("VirtualService", "chat")
    found = [finding for finding in examine(world.context) if finding.code == "stale-claim"]
    assert [(one.endpoint, one.text) for one in found] == [
        (
            "chat",
            "VirtualService 'models' hands /api/v1/chat on to it, but there is no such endpoint, so Istio leaves that route out",
        )
    ]
    assert [one.problem for one in mend(world.context, found)] == [""]
    assert delegates(world) == ["rank"]
    delete_endpoint(world.context, "chat")
    assert [one for one in examine(world.context) if one.code == "stale-claim"] == []


def test_the_doctor_names_a_claim_that_can_not_be_read() -> None:
    world = a_world()
    broken = root_of(world)
    broken["metadata"]["annotations"]["mlflow-istio.org/delegate.chat"] = "{"
    world.cluster.apply(broken)
    assert ("models", "damaged-claim") in [(one.endpoint, one.code) for one in examine(world.context)]


@pytest.mark.parametrize("gone", [False, True])
def test_an_endpoint_that_its_root_no_longer_knows_is_deleted_in_one_go(gone: bool) -> None:
    world = a_world()
    cut = root_of(world)
    cut["spec"]["http"] = cut["spec"]["http"][2:]
    world.cluster.apply(cut)
    if gone:
        world.cluster.delete("VirtualService", "models")
    assert delete_endpoint(world.context, "chat")
    assert world.history("chat") == [(1, "deploy"), (2, "delete")]
    assert world.cluster.get("VirtualService", "chat") is None
    assert delete_endpoint(world.context, "rank")
    assert world.objects() == []


def lost(world: World, name: str = "chat") -> list[Any]:
    codes = ("stale-claim", "lost-claim", "claim-elsewhere")
    return [one for one in examine(world.context) if one.code in codes and one.endpoint == name]


def forget(world: World, *, annotation: bool, routes: slice, root: str = "models") -> None:
    """What somebody does who edits the root, or applies an older copy of it."""
    found = root_of(world, root)
    if annotation:
        del found["metadata"]["annotations"]["mlflow-istio.org/delegate.chat"]
    del found["spec"]["http"][routes]
    world.cluster.apply(found)


@pytest.mark.parametrize("annotation", [False, True], ids=["routes", "routes and annotation"])
@pytest.mark.parametrize(("routes", "severity"), [(slice(0, 2), "error"), (slice(1, 2), "warning")], ids=["all", "one"])
def test_what_a_root_of_ours_lost_is_found_and_written_again(annotation: bool, routes: slice, severity: str) -> None:
    world = a_world()
    before = root_of(world)["spec"]
    forget(world, annotation=annotation, routes=routes)
    (found,) = lost(world)
    assert (found.code, found.severity, found.safe, found.what) == ("lost-claim", severity, True, "models")
    assert "requests on to it any more (/api/v1/chat)" in found.text
    assert [one.problem for one in mend(world.context, [found])] == [""]
    assert root_of(world)["spec"] == before
    assert lost(world) == []
    assert entrance_of(world.cluster, "chat").scoring == "/api/v1/chat/invocations"


def test_what_the_owner_of_a_root_took_away_is_found_and_left_to_the_owner() -> None:
    world = World()
    theirs = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "models"},
        "spec": {"hosts": ["models.example"], "http": [{"route": [{"destination": {"host": "web"}}]}]},
    }
    world.cluster.apply(theirs)
    world.deploy("churn-v1", endpoint="chat", share=CHAT)
    world.cluster.apply(theirs)  # as Git has it
    (found,) = lost(world)
    assert (found.code, found.safe) == ("lost-claim", False)
    assert found.command == "the create command of 'chat' with under=models again"
    world.deploy("churn-v1", endpoint="chat", share=CHAT)
    assert lost(world) == []


def test_a_claim_whose_requests_are_somebody_elses_by_now_says_so() -> None:
    world = a_world()
    forget(world, annotation=True, routes=slice(0, 2))
    aliases = {"stable_alias": "other-champion", "candidate_alias": "other-challenger"}
    world.deploy("churn-v3", endpoint="other", share=CHAT, settings=aliases)
    (found,) = lost(world)
    assert (found.code, found.safe) == ("lost-claim", False)
    assert "which belongs to endpoint 'other': choose another path or header" in found.text


def test_a_root_that_is_gone_is_said_and_the_command_makes_it_again() -> None:
    world = a_world()
    world.cluster.delete("VirtualService", "models")
    (found,) = lost(world)
    assert (found.safe, found.text) == (False, "VirtualService 'models' is gone")
    world.deploy("churn-v1", endpoint="chat", share=CHAT)
    assert lost(world) == []


@pytest.mark.parametrize(
    "share", [None, HostShare(under="others", claim=CHAT.claim)], ids=["own hosts", "another root"]
)
def test_an_endpoint_that_is_made_elsewhere_leaves_no_claim_behind(share: HostShare | None) -> None:
    """Somebody deleted its VirtualService by hand, and its root still handed requests on to that name."""
    world = a_world()
    for kind, name in (
        ("VirtualService", "chat"),
        ("DestinationRule", "chat"),
        ("Deployment", "churn-v1"),
        ("Service", "chat"),
    ):
        world.cluster.delete(kind, name)
    world.deploy("churn-v1", endpoint="chat", share=share)
    assert delegates(world) == ["rank"]
    assert lost(world) == []
    delete_endpoint(world.context, "chat")
    assert delegates(world) == ["rank"]


def test_a_claim_on_an_endpoint_with_hosts_of_its_own_leads_to_nothing_and_is_taken_away() -> None:
    world = a_world()
    before = root_of(world)
    delete_endpoint(world.context, "chat")
    world.deploy("churn-v1", endpoint="chat")
    world.cluster.apply(before)  # an older copy of the root
    (found,) = lost(world)
    assert (found.code, found.safe) == ("stale-claim", True)
    assert "but it has hosts of its own, so Istio leaves that route out" in found.text
    assert [one.problem for one in mend(world.context, [found])] == [""]
    assert (delegates(world), lost(world)) == (["rank"], [])
    assert world.endpoint("chat").traffic.weights == {"churn-v1": 100}


def test_a_claim_of_another_root_that_still_gets_requests_is_named_and_left() -> None:
    world = a_world()
    before = root_of(world)
    delete_endpoint(world.context, "chat")
    world.deploy("churn-v1", endpoint="chat", share=HostShare(under="others", claim=CHAT.claim))
    world.cluster.apply(before)
    (found,) = lost(world)
    assert (found.code, found.safe, found.what) == ("claim-elsewhere", False, "models")
    assert "but it stands under 'others'" in found.text


def test_a_root_that_sends_http_to_https_hands_requests_on_there() -> None:
    """The usual first route of a public host: whoever comes by https gets past it."""
    world = World()
    theirs = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "models"},
        "spec": {
            "hosts": ["models.example"],
            "gateways": ["infra/front"],
            "http": [
                {"name": "secure", "match": [{"scheme": {"exact": "http"}}], "redirect": {"scheme": "https"}},
                {"route": [{"destination": {"host": "web"}}]},
            ],
        },
    }
    world.cluster.apply(theirs)
    outcome = world.deploy("churn-v1", endpoint="chat", share=CHAT)
    assert [
        "(requests reach it by https alone): the change is stored, not proved" in one for one in outcome.warnings
    ] == [True]
    assert [route.get("delegate", {}).get("name") for route in root_of(world)["spec"]["http"]] == [
        None,
        "chat",
        "chat",
        None,
    ]
    theirs["spec"]["gateways"] = ["mesh"]  # type: ignore[index]
    theirs["metadata"] = {"name": "inside"}
    world.cluster.apply(theirs)
    with pytest.raises(StateConflict, match=r"route 'secure' \(scheme exact 'http'\) takes /x already"):
        world.deploy("forest-v1", endpoint="rank", share=HostShare(under="inside", claim=Claim(path="/x")))


def test_what_the_root_gives_its_requests_is_replaced_by_word_alone() -> None:
    world = a_world()
    theirs = root_of(world)
    theirs["spec"]["http"][0]["headers"] = {"request": {"set": {"x-tenant": "theirs"}}}
    world.cluster.apply(theirs)
    ours = PolicyRequest(changes={"headers": {"request": {"set": {"x-other": "1"}}}})
    with pytest.raises(
        StateConflict, match="'models' gives the requests that it hands on to endpoint 'chat' headers of its own"
    ):
        policy.set_policy(world.context, "chat", ours)
    assert policy.set_policy(world.context, "chat", PolicyRequest(changes={"timeout": "2s"})).changed
    assert policy.set_policy(world.context, "chat", replace(ours, replace=True)).changed
    assert policy.set_policy(world.context, "rank", ours).changed
