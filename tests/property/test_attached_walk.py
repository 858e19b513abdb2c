"""What holds after any commands in any order around something attached, whose owner does as he likes: it is never written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_istio.core.endpoint.traffic import attached_host
from mlflow_istio.core.mesh.attached import parse_attach
from mlflow_istio.core.runtime.profiles import ATTACHED
from mlflow_istio.releases.deploying import deployments
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.restoring import rollback_to
from tests.property.test_random_walk import (
    DEATH,
    Command,
    Step,
    _delete,
    _delete_endpoint,
    _deploy,
    _end,
    _shift,
    _start,
    carry_out,
    check_ledger,
    check_tags,
    the_endpoint,
)
from tests.support.in_memory import World, a_request, a_world
from tests.unit.releases.deploying.test_attach import PREDICTOR, its_service, theirs

NAME = "churn-v2"
"""What is attached; the others run here."""


def _request(name: str, uri: str) -> DeployRequest:
    request = replace(a_request(name), model_uri=uri, endpoint="churn")
    if name != NAME:
        return request
    return replace(request, attach=parse_attach(f"deployment/{PREDICTOR}"), runtime=ATTACHED)


def _attach() -> Command:
    return "attach", lambda context: deployments.deploy(context, _request(NAME, "models:/churn/2"))


def _back_to(number: int) -> Command:
    return f"rollback to {number}", lambda context: rollback_to(context, "churn", str(number), as_request=_request)


ANY_NAME = st.sampled_from(("churn-v1", NAME))
STRATEGY = st.sampled_from(("canary", "ab", "blue-green"))
WEIGHT = st.sampled_from((0, 1, 50, 100))
COMMANDS = st.one_of(
    st.builds(_attach),
    st.builds(_attach),
    st.just(_deploy("churn-v1")),
    st.builds(_start, ANY_NAME, STRATEGY, WEIGHT, st.booleans()),
    st.builds(_shift, WEIGHT),
    st.builds(_end, st.sampled_from(("promote", "rollback", "abort"))),
    st.builds(_back_to, st.integers(1, 6)),
    st.builds(_delete, ANY_NAME),
    st.builds(_delete_endpoint, st.booleans()),
)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    text, command = draw(COMMANDS)
    return Step(text=text, command=command, death=draw(st.none() | DEATH))


def _goes(world: World) -> None:
    world.cluster.delete("Deployment", PREDICTOR)


def _comes(replicas: int, image: str) -> Callable[[World], None]:
    return lambda world: world.cluster.apply(theirs(replicas=replicas, image=image)) and None


OWNERS = st.sampled_from((None, None, _goes, _comes(0, "a"), _comes(2, "a"), _comes(2, "b")))
BEGINNING = a_world("churn-v1")
BEGINNING.cluster.apply(theirs(image="a"))
BEGINNING.cluster.apply(its_service())


def stored(world: World) -> list[Any]:
    """What is theirs, with the version by which a write would show."""
    return [world.cluster.get(kind, PREDICTOR) for kind in ("Deployment", "Service")]


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(walk=st.lists(st.tuples(OWNERS, steps()), min_size=4, max_size=12))
def test_any_walk_leaves_it_to_its_owner_and_keeps_ledger_and_tags(walk: list[tuple[Any, Step]]) -> None:
    world = copy.deepcopy(BEGINNING)
    for owner, step in walk:
        if owner is not None:
            owner(world)
        before = stored(world)
        outcome = carry_out(world, step)
        assert stored(world) == before
        check_ledger(world)
        endpoint = the_endpoint(world)
        if outcome is not None and endpoint is not None and getattr(outcome, "endpoint", None) is not None:
            check_tags(world)
        reached = endpoint is not None and endpoint.traffic.reaches(NAME)
        for kind in ("Service", "DestinationRule") if reached else ():
            assert world.cluster.get(kind, attached_host(NAME)) is not None


def test_the_walks_world_is_the_one_that_commands_work_in() -> None:
    world = copy.deepcopy(BEGINNING)
    for command in (_attach(), _start(NAME, "canary", 50, False), _end("promote")):
        assert carry_out(world, Step(text=command[0], command=command[1])) is not None
    endpoint = the_endpoint(world)
    assert endpoint is not None
    assert endpoint.traffic.weights == {NAME: 100}
