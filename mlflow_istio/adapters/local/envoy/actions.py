"""What becomes of a matched request beside where it goes: redirect, direct answer, rewrite, retries, fault."""

from __future__ import annotations

from http import HTTPStatus

from mlflow_istio.adapters.local.envoy.types import FAULT, PREVIOUS_HOSTS, Config, filled, percentage
from mlflow_istio.adapters.local.supported_fields import Field
from mlflow_istio.core.basics.grpc_status import GRPC_CODES
from mlflow_istio.core.basics.names import nearest

DIRECT_BODY_LIMIT = 1024 * 1024
_REDIRECTS = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}
_DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_RETRY_ON = frozenset(
    {
        *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx"),
        *("refused-stream", "retriable-status-codes", "retriable-headers", "envoy-ratelimited"),
        *("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
    }
)


def redirect(field: Field) -> Config:
    """Envoy's redirect; 301 unless another status is given.

    Raises:
        Unsupported: A member or status that istiod or the local mesh does not carry out.
        InvalidInput: It changes nothing, or can't be right.
    """
    members = field.members("uri", "authority", "scheme", "port", "redirectCode")
    code = members["redirectCode"].integer(low=300, high=399) if members["redirectCode"] else 301
    if code not in _REDIRECTS:
        raise members["redirectCode"].unsupported("use 301, 302, 303, 307 or 308")
    scheme = members["scheme"].text() if members["scheme"] else ""
    if scheme not in ("", "http", "https"):
        raise members["scheme"].invalid("must be http or https")
    port = members["port"].integer(low=1, high=65535) if members["port"] else None
    if (port, scheme or "http") in ((80, "http"), (443, "https")):
        port = None
    if not any(members[key] for key in ("uri", "authority", "scheme", "port")):
        raise field.invalid("must have a uri, authority, scheme or port")
    return filled(
        {
            "host_redirect": members["authority"].text() if members["authority"] else None,
            "path_redirect": members["uri"].text() if members["uri"] else None,
            "scheme_redirect": scheme,
            "port_redirect": port,
            "response_code": _REDIRECTS[code],
        }
    )


def direct_response(field: Field) -> Config:
    """Envoy's direct answer."""
    members = field.members("status", "body")
    result: Config = {"status": members["status"].integer(low=200, high=599)}
    body = members["body"].members("string", "bytes")
    if body["string"] and body["bytes"]:
        raise members["body"].invalid("must have one of string and bytes")
    for key, inline in (("string", "inline_string"), ("bytes", "inline_bytes")):
        if body[key]:
            value = body[key].text()
            if len(value.encode()) > DIRECT_BODY_LIMIT:
                raise body[key].invalid(f"must not be longer than {DIRECT_BODY_LIMIT} bytes")
            if value:
                result["body"] = {inline: value}
    return result


def rewrite(field: Field) -> tuple[Config, str]:
    """Envoy's change of the path, and the new authority (empty when unchanged)."""
    members = field.members("uri", "authority", "uriRegexRewrite")
    if members["uri"] and members["uriRegexRewrite"]:
        raise field.invalid("must have one of uri and uriRegexRewrite")
    if not any(members.values()):
        raise field.invalid("must have a uri, uriRegexRewrite or authority")
    config: Config = {}
    if members["uri"]:
        config["prefix_rewrite"] = members["uri"].name()
    if members["uriRegexRewrite"]:
        regex = members["uriRegexRewrite"].members("match", "rewrite")
        config["regex_rewrite"] = {
            "pattern": {"regex": regex["match"].name()},
            "substitution": regex["rewrite"].text(),
        }
    return config, members["authority"].name() if members["authority"] else ""


def retry_policy(field: Field, *, hashed: bool) -> Config | None:
    """Envoy's retry policy: istiod's default when the field is absent, None when it says no attempts.

    Args:
        field: ``retries``.
        hashed: Whether a hash chooses the replica, so that a retry may go to the same one.
    """
    members = field.members("attempts", "perTryTimeout", "retryOn", "backoff", "retryIgnorePreviousHosts")
    policy: Config = {"retry_on": _DEFAULT_RETRY_ON, "num_retries": 2, "host_selection_retry_max_attempts": 5}
    elsewhere = members["retryIgnorePreviousHosts"]
    if elsewhere.flag() if elsewhere else not hashed:
        policy["retry_host_predicate"] = [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": PREVIOUS_HOSTS}}
        ]
    if not field:
        return policy
    attempts = members["attempts"].integer(low=0, high=2**31 - 1) if members["attempts"] else 0
    if attempts == 0:
        if any(members[key] for key in members if key != "attempts"):
            raise field.invalid("has no attempts, which turns retries off: leave out the rest")
        return None
    policy["num_retries"] = attempts
    if members["retryOn"] and members["retryOn"].text():
        policy.update(_retry_on(members["retryOn"]))
    if members["perTryTimeout"]:
        policy["per_try_timeout"] = members["perTryTimeout"].duration()
    if members["backoff"]:
        policy["retry_back_off"] = {"base_interval": members["backoff"].duration()}
    return policy


def fault(field: Field) -> Config:
    """Envoy's fault filter for one route. Without a percentage no request is faulted, as Istio has it."""
    members = field.members("delay", "abort")
    if not members["delay"] and not members["abort"]:
        raise field.invalid("must have a delay or an abort")
    result: Config = {"@type": FAULT}
    if members["delay"]:
        delay = members["delay"].members("fixedDelay", "percentage")
        result["delay"] = {"fixed_delay": delay["fixedDelay"].duration(), "percentage": _share(delay["percentage"])}
    if members["abort"]:
        abort = members["abort"].members("httpStatus", "grpcStatus", "percentage")
        if bool(abort["httpStatus"]) and bool(abort["grpcStatus"]):
            raise members["abort"].invalid("must have one of httpStatus and grpcStatus")
        if abort["grpcStatus"]:
            answer = {"grpc_status": _grpc_code(abort["grpcStatus"])}
        else:
            answer = {"http_status": abort["httpStatus"].integer(low=200, high=599)}
        result["abort"] = {**answer, "percentage": _share(abort["percentage"])}
    return result


def _grpc_code(field: Field) -> int:
    if field.text() not in GRPC_CODES:
        raise field.invalid(f"is no status of gRPC: {nearest(field.text(), GRPC_CODES)}")
    return GRPC_CODES[field.text()]


def _share(field: Field) -> Config:
    value = field.members("value")["value"]
    return percentage(value.number(low=0, high=100) if value else 0.0)


def _retry_on(field: Field) -> Config:
    conditions, codes = [], []
    for part in field.text().split(","):
        if part in _RETRY_ON:
            conditions.append(part)
        elif part.isdigit() and int(part) in HTTPStatus._value2member_map_:
            codes.append(int(part))
        else:
            raise field.invalid(f"has no condition {part!r}")
    if codes and "retriable-status-codes" not in conditions:
        conditions.append("retriable-status-codes")
    return filled({"retry_on": ",".join(conditions), "retriable_status_codes": codes})
