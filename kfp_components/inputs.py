"""From a component's typed parameters to the options of a verb, and their checks.

KFP has no "not given" that every runner knows (``kfp.local`` 2.17 can't pass None for a number), so an empty text and -1 mean it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.basics.model_version import parse_model_uri
from mlflow_istio.core.basics.names import check_endpoint_name, check_name, check_release_id
from mlflow_istio.core.basics.target import parse_target
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import (
    MAX_REASON,
    CreateOptions,
    DeleteEndpointOptions,
    DeleteOptions,
    UpdateEndpointOptions,
    parse_options,
)

Options = Mapping[str, Any]

_CUT = "..."
"""End of a text that was cut."""


def given(**named: Any) -> dict[str, Any]:
    """The parameters that were given: neither an empty text nor -1; of a reason, as much as a change may have."""
    reason = named.get("reason")
    if isinstance(reason, str) and len(reason) > MAX_REASON:  # a message of KFP's or of another step has any length
        named["reason"] = reason[: MAX_REASON - len(_CUT)] + _CUT
    return {name: value for name, value in named.items() if value not in ("", -1, None)}


def merged(options: Options | None, named: Options) -> dict[str, Any]:
    """Named parameters and further options together.

    Raises:
        InvalidInput: One is given twice.
    """
    twice = sorted(set(options or {}) & set(named))
    if twice:
        raise InvalidInput(f"option '{twice[0]}' is given twice: as a parameter and in 'options'")
    return {**(options or {}), **named}


def create_config(**parameters: Any) -> dict[str, Any]:
    """Options of ``create`` for a version that gets no traffic yet.

    Raises:
        InvalidInput: An option would give it traffic: that is another step's work.
    """
    named = given(reason=parameters.get("reason", ""), release_id=parameters.get("release_id", ""))
    options = merged(parameters.get("options"), named)
    early = sorted(set(options) & {"strategy", "weight", "weights", "mirror", "header", "cookie", "values"})
    if early:
        raise InvalidInput(
            f"option '{early[0]}' moves traffic: give it to set_traffic or release_version, not to deploy_version"
        )
    return options


def traffic_config(**parameters: Any) -> dict[str, Any]:
    """Options of ``update-endpoint`` for a step that moves traffic."""
    named = given(
        **{
            name: parameters.get(name, "")
            for name in ("strategy", "candidate", "weight", "mirror", "release_id", "reason")
        }
    )
    options = merged(parameters.get("options"), named)
    if "action" in options:
        raise InvalidInput("option 'action' has components of its own: promote_candidate, roll_back_release")
    return options


def release_config(**parameters: Any) -> dict[str, Any]:
    """Options of ``release``."""
    named = given(**{key: parameters.get(key, "") for key in ("name", "strategy", "steps", "release_id", "reason")})
    options = merged(parameters.get("options"), named)
    for useless in ("detach", "dry_run"):
        if options.get(useless):
            raise InvalidInput(
                f"option '{useless}' has no effect in a pipeline, whose step ends with the release: leave it out"
            )
    return options


def analyse_config(**parameters: Any) -> dict[str, Any]:
    """Options of ``analyse``."""
    return with_counts(parameters.get("options"), parameters.get("counts"))


def with_counts(options: Options | None, counts: Options | None) -> dict[str, Any]:
    """Options of an analysis with a KPI's counts that another step has made.

    Raises:
        InvalidInput: There are several KPIs, or the KPI has another source of its counts.
    """
    given_options = dict(options or {})
    if not counts:
        return given_options
    kpis = given_options.get("kpi") or {"kpi": {}}
    if not isinstance(kpis, Mapping) or len(kpis) != 1:
        raise InvalidInput(
            f"counts are those of one KPI: name it in the option 'kpi', such as {{'bought': {{}}}}, not {kpis!r}"
        )
    ((name, kpi),) = kpis.items()
    if not isinstance(kpi, Mapping) or set(kpi) & {"queries", "call", "counts"}:
        raise InvalidInput(f"KPI '{name}' has its counts twice: from the parameter 'counts' and in the option 'kpi'")
    return {**given_options, "kpi": {name: {**kpi, "counts": dict(counts)}}}


def delete_config(**parameters: Any) -> dict[str, Any]:
    """Options of ``delete`` and ``delete-endpoint``."""
    return merged(parameters.get("options"), given(reason=parameters.get("reason", "")))


def compare_config(**parameters: Any) -> dict[str, Any]:
    """Options of ``compare``.

    Raises:
        InvalidInput: The step itself says which look is the last.
    """
    options = dict(parameters.get("options") or {})
    if "final" in options:
        raise InvalidInput("option 'final' is the step's own: its last look is the final one; set wait_minutes")
    return options


def declare_config(**parameters: Any) -> dict[str, Any]:
    """Options of ``declare``."""
    options = with_counts(parameters.get("options"), parameters.get("counts"))
    return merged(options, given(winner=parameters.get("winner", ""), reason=parameters.get("reason", "")))


def check_deploy(constants: Options) -> None:
    """Check what of ``deploy_version`` is known."""
    kind = _check_common(constants)
    if "model_uri" in constants:
        parse_model_uri(constants["model_uri"])
    parse_options(CreateOptions, create_config(**constants), cluster=kind)


def check_traffic(constants: Options) -> None:
    """Check what of ``set_traffic`` is known."""
    kind = _check_common(constants)
    parse_options(UpdateEndpointOptions, traffic_config(**constants), cluster=kind)


def check_release(constants: Options) -> None:
    """Check what of ``release_version`` is known; the plan itself is made when it is known who is stable."""
    from mlflow_istio.options.release import ReleaseOptions, check_release_options

    kind = _check_common(constants)
    if "model_uri" in constants:
        parse_model_uri(constants["model_uri"])
    config = release_config(**constants)
    check_release_options(parse_options(ReleaseOptions, config, cluster=kind), config)


def check_analyse(constants: Options) -> None:
    """Check what of ``analyse_release`` is known."""
    from mlflow_istio.options.analysis import AnalyseOptions

    kind = _check_common(constants)
    check_waiting(constants)
    parse_options(AnalyseOptions, analyse_config(**_with_later_counts(constants)), cluster=kind).arms()


def check_compare(constants: Options) -> None:
    """Check what of ``compare_shadow`` is known."""
    from mlflow_istio.options import combinations
    from mlflow_istio.options.analysis import CompareOptions

    kind = _check_common(constants)
    check_waiting(constants)
    config = compare_config(**constants)
    # A scorer by name is imported by the step: what compiles the pipeline need not have it.
    combinations.check_compare(parse_options(CompareOptions, config, cluster=kind), config)


def check_declare(constants: Options) -> None:
    """Check what of ``declare_winner`` is known."""
    from mlflow_istio.options.analysis import DeclareOptions

    kind = _check_common(constants)
    parse_options(DeclareOptions, declare_config(**_with_later_counts(constants)), cluster=kind).arms()


def _with_later_counts(constants: Options) -> dict[str, Any]:
    """The constants, with counts that could be those which another step makes."""
    later = {"counts": {"arm": (1.0, 0.0)}} if "counts" in constants.get("later", ()) else {}
    return {**constants, **later}


def check_waiting(constants: Options) -> None:
    """Check how long a step waits.

    Raises:
        InvalidInput: It can't wait so long, or look so often.
    """
    if constants.get("wait_minutes", 0.0) < 0:
        raise InvalidInput(f"wait_minutes must be 0 or above, not {constants['wait_minutes']!r}")
    if not constants.get("poll_seconds", 1.0) > 0:
        raise InvalidInput(f"poll_seconds must be above 0, not {constants['poll_seconds']!r}")


def check_approval(constants: Options) -> None:
    """Check what of ``wait_for_approval`` is known."""
    _check_common(constants)
    if constants.get("default", "reject") not in ("approve", "reject"):
        raise InvalidInput(f"default must be 'approve' or 'reject', not {constants['default']!r}")
    for name in ("timeout_minutes", "poll_seconds"):
        if not constants.get(name, 1.0) > 0:
            raise InvalidInput(f"{name} must be above 0, not {constants[name]!r}")


def check_delete(constants: Options) -> None:
    """Check what of ``delete_deployment`` is known."""
    kind = _check_common(constants)
    parse_options(DeleteOptions, delete_config(**constants), cluster=kind)


def check_delete_endpoint(constants: Options) -> None:
    """Check what of ``delete_endpoint`` is known."""
    kind = _check_common(constants)
    parse_options(DeleteEndpointOptions, delete_config(**constants), cluster=kind)


def check_promote(constants: Options) -> None:
    """Check what of ``promote_candidate`` is known."""
    kind = _check_common(constants)
    named = given(keep_old=constants.get("keep_old", ""))
    parse_options(UpdateEndpointOptions, {"action": "promote", **named}, cluster=kind)


def check_names(constants: Options) -> None:
    """Check target, endpoint and deployment of any component."""
    _check_common(constants)


def _check_common(constants: Options) -> str:
    """Check what all components have; the target's kind, or ``istio`` where it is not known yet."""
    for name in ("endpoint", "name", "candidate", "winner"):
        if constants.get(name):
            for value in str(constants[name]).split(","):
                if name == "endpoint":
                    check_endpoint_name(value.strip())
                else:
                    check_name(value.strip(), "deployment")
    if constants.get("release_id"):
        check_release_id(constants["release_id"])
    return parse_target(constants["target"]).kind if constants.get("target") else "istio"
