"""What to ask Prometheus for, and which counter of which deployment an answer is. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_istio.adapters.envoy.statistics import CALLS, call_of
from mlflow_istio.core.analysis.measures import ASSIGNMENTS, ERRORS, REQUESTS, latency_series
from mlflow_istio.core.basics.grpc_status import class_of_call
from mlflow_istio.core.endpoint.traffic import attached_host

_SECOND = 1000.0
_SERVICE = "destination_service_name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One metric of a dialect.

    Attributes:
        selector: What to ask for.
        deployment: The label set's deployment.
        counters: The label set's counters, in the words of ``core.measures``; each gets the sample's value, or 0 where false.
        told_by: The labels that tell deployment and counters; none: any may.
    """

    selector: str
    deployment: Callable[[Mapping[str, str]], str]
    counters: Callable[[Mapping[str, str]], Mapping[str, bool]]
    told_by: tuple[str, ...] = ()

    @property
    def summed(self) -> str:
        """The same summed over all other labels, process by process: a day of what each caller was answered is too much to send.

        The counters of a process start again together, so a sum of them falls when, and only when, they do.
        """
        return f"sum by (job,instance,{','.join(self.told_by)}) ({self.selector})" if self.told_by else self.selector


def istio_families(
    endpoint: str, deployments: Sequence[str], namespace: str | None, label: str, errors: str, protocol: str = "http"
) -> tuple[Family, ...]:
    """Istio's own series, as the callers' proxies report them: those see requests that never reached a pod.

    A caller who went away before the answer (``response_code="0"``) got none: it counts as an error over HTTP. Over gRPC, where
    callers cancel calls and end streams as they please, it counts as the caller's own (``CANCELLED``), as on the local mesh.

    Args:
        endpoint: The endpoint, which is its Service's name.
        deployments: The deployments.
        namespace: Their namespace.
        label: The label that names the deployment: ``destination_workload`` or ``destination_version``.
        errors: Classes of answers that count as errors: ``5``, or ``45``.
        protocol: What the endpoint speaks. Where that is ``grpc``, whatever else somebody sends there is none of its calls.
    """
    calls = protocol == "grpc"
    chosen = {
        "reporter": "source",
        **({"request_protocol": "grpc"} if calls else {}),
        **({"destination_workload_namespace": namespace} if namespace else {}),
    }
    # An attached workload is known by the Service of ours that leads to it: what its owner calls it, nobody here knows.
    attached = {attached_host(name): name for name in deployments}
    services = _quoted("|".join((endpoint, *attached)))
    matchers = _matchers(chosen) + f",{_SERVICE}=~{services}"

    def deployment(labels: Mapping[str, str]) -> str:
        return attached.get(labels.get(_SERVICE, ""), labels.get(label, ""))

    def requests(labels: Mapping[str, str]) -> Mapping[str, bool]:
        code, status = labels.get("response_code", ""), labels.get("grpc_response_status", "")
        if calls or (code == "200" and status):  # a call's status stands in its trailers, whatever HTTP's is
            code = class_of_call(status, labels.get("response_flags", "")) or code
        return {REQUESTS: True, ERRORS: code == "0" or code[:1] in tuple(errors)}

    return (
        Family(
            selector=f"istio_requests_total{{{matchers}}}",
            deployment=deployment,
            counters=requests,
            told_by=(label, _SERVICE, "response_code", "grpc_response_status", "response_flags"),
        ),
        Family(
            selector=f"istio_request_duration_milliseconds_bucket{{{matchers}}}",
            deployment=deployment,
            counters=_bucket,
            told_by=(label, _SERVICE, "le"),
        ),
    )


def envoy_families(
    endpoint: str, deployments: Sequence[str], errors: str, *, chosen: bool = False
) -> tuple[Family, ...]:
    """The series of the local mesh's Envoy, which counts apart what the weights gave (see ``adapters.envoy.metrics``)."""
    hosts = "|".join((endpoint, *map(attached_host, deployments)))
    cluster = f"outbound[|][0-9]+[|]({'|'.join(deployments)})[|]({hosts})"
    matchers = f"envoy_cluster_name=~{_quoted(cluster)}"

    def deployment(labels: Mapping[str, str]) -> str:
        return labels.get("envoy_cluster_name", "").split("|")[2]

    def counters(labels: Mapping[str, str]) -> Mapping[str, bool]:
        failed = labels.get("envoy_response_code_class") in tuple(errors)
        assigned = labels["__name__"].startswith("envoy_cluster_split_")
        return {REQUESTS: True, ERRORS: failed, **({ASSIGNMENTS: True} if assigned else {})}

    def calls(labels: Mapping[str, str]) -> Mapping[str, bool]:
        call = call_of(labels)
        if call is None or call[0] not in ("split", "arm")[: 1 + chosen]:
            return {}
        return {REQUESTS: True, ERRORS: call[1] in tuple(errors), **({ASSIGNMENTS: True} if call[0] == "split" else {})}

    # Both in one question each, so that they are of one moment.
    trees = "split|arm" if chosen else "split"
    name = f'__name__=~"envoy_cluster_({trees})_upstream_rq_xx"'
    times = f'__name__=~"envoy_cluster_({trees})(_calls)?_upstream_rq_time_bucket"'
    return (
        Family(selector=f"{{{name},{matchers}}}", deployment=deployment, counters=counters),
        Family(selector=f"{CALLS}{{{matchers}}}", deployment=deployment, counters=calls),
        Family(selector=f"{{{times},{matchers}}}", deployment=deployment, counters=_bucket),
    )


def _bucket(labels: Mapping[str, str]) -> Mapping[str, bool]:
    edge = float(labels["le"])
    return {latency_series(edge): True} if not math.isnan(edge) else {}


def _matchers(chosen: Mapping[str, str]) -> str:
    return ",".join(f"{name}={_quoted(value)}" for name, value in chosen.items())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
