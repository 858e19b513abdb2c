"""Before its first user: ask a fresh version, through its header route, until it answers as fast as it will.

These requests are no evidence: they are asked before the release is open, so that no look begins before their end. Replicas that a
step adds are asked before that step, and latency counts for nothing meanwhile. A replica that is ready gets its part of the traffic
that its version has already: nothing holds that back, so few users may be among those who warm it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import cycle
from typing import Any

from mlflow_istio.core.basics.objects import Object, name_of, ready_replicas
from mlflow_istio.core.mesh.manifests import runtime_of_deployment
from mlflow_istio.core.mesh.pods import variables_in
from mlflow_istio.core.release.plan import LONGEST_WARMING as LONGEST
from mlflow_istio.core.release.progress import Progress
from mlflow_istio.core.release.warming import Window, has_settled, last_windows
from mlflow_istio.errors import ClusterError, InvalidInput, MlflowIstioError, NotFound, RegistryError
from mlflow_istio.ports.models import Models
from mlflow_istio.ports.records import Records
from mlflow_istio.ports.scoring import Score
from mlflow_istio.releases.context import Context, address_of, deployments_of, endpoint_of, pin_headers, versions_of
from mlflow_istio.releases.driving.drive import Drive

MOST_INPUTS = 200
"""Recorded requests that are asked, the newest; then they are asked again."""

PATIENCE = 5
"""Failures in a row after which a version is not asked any more: its release will judge it."""

_SLICE = 5.0
"""Seconds at most for which a look asks replicas that a step adds: the release is looked at meanwhile."""

_RECORDING = "MLFLOW_ISTIO_RECORD"


def warm_up(
    context: Context,
    models: Models,
    score: Score,
    name: str,
    deployments: Sequence[str],
    *,
    records: Callable[[], Records] | None = None,
    timeout: float,
) -> bool:
    """Ask deployments, one after the other, until each has settled or its time is over; what came of it is said.

    Nothing of it stops a release: a version that can't be warmed, or fails, gets its users as before.

    Args:
        context: The ports.
        models: What model versions say of themselves: their input examples.
        score: Sends one request.
        name: The endpoint.
        deployments: Whom to ask: candidates, and a control.
        records: Makes the recorders of model servers; None: nobody knows any.
        timeout: Seconds for one answer.

    Returns:
        Whether all of them have settled.
    """
    by_name = {name_of(obj): obj for obj in deployments_of(context.cluster, name)}
    recorded = _recorded(context, by_name, name, records)
    settled = []
    for deployment in deployments:
        inputs = recorded or _example(context, models, by_name, deployment)
        if not inputs:
            context.tell(
                f"'{deployment}' is not warmed before its first user: there is no input example that it could be asked, and no "
                "recorded request; its first "
                "answers count for nothing, as 'warmup' and 'warm_requests' say"
            )
        else:
            context.tell(f"warming '{deployment}' before its first user, for at most {LONGEST:g} s")
        settled.append(_to_the_end(_warming(context, score, name, deployment, inputs, by_name, timeout)))
    return bool(settled) and all(settled)


def warm_added(drive: Drive, progress: Progress, deployments: Mapping[str, Object]) -> str:
    """Warm the replicas that candidates and a control have got since they were warm, a little at each look.

    A successor does not know how far that had come, and begins anew: what is warm answers alike at once.

    Args:
        drive: The driver; it remembers who is warm.
        progress: Where the release stands.
        deployments: The endpoint's Deployments.

    Returns:
        Why a step waits and this look tells nothing; empty when all are warm.
    """
    plan, context, models = progress.plan, drive.context, drive.dependencies.models
    if plan.warm != "auto" or models is None or progress.watch is not None:
        return ""
    for deployment in (name for name in (*plan.candidates, progress.evidence.control) if name in deployments):
        replicas = ready_replicas(deployments[deployment])
        if replicas <= drive.warm.get(deployment, replicas):
            continue
        if deployment not in drive.warming:
            recorded = _recorded(context, deployments, drive.name, drive.dependencies.records)
            inputs = recorded or _example(context, models, deployments, deployment)
            if inputs:
                context.tell(f"warming the new replicas of '{deployment}', for at most {LONGEST:g} s")
            timeout = min(drive.dependencies.timeout, plan.heartbeat / 2)
            drive.warming[deployment] = _warming(
                context, drive.dependencies.score, drive.name, deployment, inputs, deployments, timeout
            )
        begin = context.clock.monotonic()
        over = all(context.clock.monotonic() - begin < min(_SLICE, plan.interval) for _ in drive.warming[deployment])
        drive.cold_until = context.clock.now() + timedelta(seconds=max(plan.interval, plan.settle))
        if not over:
            return f"Waiting until the new replicas of '{deployment}' are warm."
        del drive.warming[deployment]
        drive.warm[deployment] = replicas
    return ""


def _to_the_end(warming: Generator[None, None, bool]) -> bool:
    while True:
        try:
            next(warming)
        except StopIteration as end:
            return bool(end.value)


def _recorded(
    context: Context, deployments: Mapping[str, Object], name: str, records: Callable[[], Records] | None
) -> list[Any]:
    """The newest requests that the stable has answered, as far as its servers keep them."""
    stable = deployments.get(endpoint_of(context.cluster, name).stable.name)
    if records is None or stable is None or not _records_itself(stable):
        return []
    try:
        kept = records().read(name, name_of(stable), max(1, ready_replicas(stable))).records
    except MlflowIstioError as exc:
        context.tell(f"the requests that '{name_of(stable)}' has recorded can't be read: {exc.message}")
        return []
    inputs = [record["input"] for record in kept if record.get("status") == 200 and record.get("input")]
    return inputs[-MOST_INPUTS:]


def _records_itself(deployment: Object) -> bool:
    return any(entry.get("name") == _RECORDING for entry in variables_in(deployment))


def _example(context: Context, models: Models, deployments: Mapping[str, Object], deployment: str) -> list[Any]:
    label = versions_of(list(deployments.values())).get(deployment, "")
    if deployment in deployments and runtime_of_deployment(deployments[deployment]).body == "none":
        return []  # nobody but its own clients knows how it is asked
    try:
        example = models.card(label).example
    except (NotFound, RegistryError) as exc:
        context.tell(f"the input example of '{deployment}' can't be read: {exc.message}")
        return []
    return [] if example is None else [json.loads(example)]


def _warming(
    context: Context,
    score: Score,
    name: str,
    deployment: str,
    inputs: list[Any],
    deployments: Mapping[str, Object],
    timeout: float,
) -> Generator[None, None, bool]:
    """Ask one after the other; after each, whoever drives may do something else. In the end, whether it has settled."""
    if not inputs:
        return False
    replicas = max(1, ready_replicas(deployments[deployment])) if deployment in deployments else 1
    seconds: list[float] = []
    for took in _answers(context, score, name, deployment, inputs, timeout):
        if took is None:
            return False
        seconds.append(took)
        if len(seconds) % 10 == 0 and has_settled(seconds, replicas):
            (_, last) = last_windows(seconds, replicas) or (None, Window.of(seconds))
            context.tell(
                f"'{deployment}' is warm: {1000 * last.median:.3g} ms at the median, {1000 * last.slow:.3g} ms at the 90th "
                f"percentile, after {len(seconds):,} requests"
            )
            return True
        if sum(seconds) >= LONGEST:
            break
        yield
    context.tell(
        f"'{deployment}' had not settled after {LONGEST:g} s and {len(seconds):,} requests: its first answers count for nothing, "
        "as 'warmup' and 'warm_requests' say"
    )
    return False


def _answers(
    context: Context, score: Score, name: str, deployment: str, inputs: Sequence[Any], timeout: float
) -> Iterator[float | None]:
    """Seconds of one answer after the other; None once it fails too often. An input that the model refuses counts as no answer."""
    failed = 0
    address = address_of(context.cluster, name, deployment)
    pinned = pin_headers(context.cluster, name, deployment)
    for payload in cycle(inputs):
        begin = context.clock.monotonic()
        try:
            score(address, payload, headers=pinned, timeout=timeout)
        except (ClusterError, InvalidInput) as exc:
            failed += 1
            if failed >= PATIENCE:
                context.warn(f"'{deployment}' is not warmed: it fails what it is asked ({exc.message})")
                yield None
                return
            continue
        failed = 0
        yield context.clock.monotonic() - begin
