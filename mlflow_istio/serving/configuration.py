"""What the environment says about one model server.

=============================== ============== ====================================================================
variable                        default        meaning
=============================== ============== ====================================================================
``MLFLOW_ISTIO_MODEL_URI``      required       ``models:/churn/2``, ``runs:/RUN/model`` or a path; never an alias
``MLFLOW_ISTIO_MODEL_VERSION``  from the URI   ``churn/2``: who answers, in the header ``x-mlflow-model-version``
``MLFLOW_ISTIO_DEPLOYMENT``     required       ``churn-v2``: the header ``x-mlflow-deployment``
``MLFLOW_ISTIO_HOST``           ``0.0.0.0``    IP address to listen on
``MLFLOW_ISTIO_PORT``           ``8080``       port to listen on
``MLFLOW_ISTIO_ENV_MANAGER``    ``local``      the Python that serves: ``local``, ``virtualenv``, ``conda``, ``uv``
``MLFLOW_ISTIO_ACCESS_LOG``     ``false``      one line per request on standard output
``MLFLOW_ISTIO_MAX_BODY``       16 MiB         most bytes of a request's body; a larger one is answered 413
``MLFLOW_ISTIO_CALLER_TIMEOUT`` ``60``         seconds in which a request's headers, its body, and some of its answer must move
``MLFLOW_ISTIO_RECORD``         ``0``          share of the requests to record, 0 to 1
``MLFLOW_ISTIO_RECORD_DIR``     if recording   folder for the records
``MLFLOW_ISTIO_RECORD_MAX_BYTES`` 64 MiB       most that one server's records may take; the oldest go first
``MLFLOW_ISTIO_RECORD_FIELDS``  ``output``     ``output``, ``input``, ``none``, and ``-NAME`` to drop a field
``MLFLOW_ISTIO_RECORD_TOKEN``   none           bearer token that ``/records`` asks for; without one it answers nobody
=============================== ============== ====================================================================

An empty variable counts as unset.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_istio.errors import InvalidInput

PREFIX = "MLFLOW_ISTIO_"
ENV_MANAGERS = ("local", "virtualenv", "conda", "uv")
MIN_RECORD_BYTES = 64 * 1024
"""Smallest ``MLFLOW_ISTIO_RECORD_MAX_BYTES``, in bytes: the log is kept as four files, and records must fit."""

MAX_BODY = 16 * 1024 * 1024
CALLER_TIMEOUT = 60

_RECORD_OPTIONS = ("RECORD", "RECORD_DIR", "RECORD_MAX_BYTES", "RECORD_FIELDS", "RECORD_TOKEN")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_REGISTERED = re.compile(r"models:/(?!/)(?P<name>.+?)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))")
_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadFields:
    """Which parts of a payload a record keeps.

    Attributes:
        output: Keep the answer's body.
        input: Keep the request's body.
        dropped: Names of columns and keys that are never kept, at any depth, in upper and lower case.
    """

    output: bool = True
    input: bool = False
    dropped: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordSettings:
    """How requests are recorded.

    Attributes:
        rate: Share of the request ids that is kept, above 0 and at most 1.
        directory: Folder for the records; several servers may share it.
        max_bytes: Most bytes that this server's records take on disk.
        fields: The parts of a payload that are kept.
        token: Bearer token that readers must show; None: nobody reads them over HTTP.
    """

    rate: float
    directory: Path
    max_bytes: int = 64 * 1024 * 1024
    fields: PayloadFields = PayloadFields()
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingSettings:
    """All that one model server needs to know.

    Attributes:
        model_uri: Where MLflow finds the model.
        model_name: Registered model, the part of ``MODEL/VERSION`` before the last slash.
        model_version: Its version, the part after it.
        deployment: The deployment that this replica belongs to; a DNS label.
        host: IP address to listen on.
        port: Port to listen on.
        env_manager: One of :data:`ENV_MANAGERS`.
        access_log: Whether each request is logged.
        max_body: Most bytes of a request's body.
        caller_timeout: Seconds that a caller may take for the headers, for the body, and for some of the answer.
        record: How to record, or None when recording is off.
    """

    model_uri: str
    model_name: str
    model_version: str
    deployment: str
    host: str = "0.0.0.0"  # every interface: a pod is reached by its own address
    port: int = 8080
    env_manager: str = "local"
    access_log: bool = False
    max_body: int = MAX_BODY
    caller_timeout: int = CALLER_TIMEOUT
    record: RecordSettings | None = None


def read_settings(environ: Mapping[str, str]) -> ServingSettings:
    """Read the settings of one model server.

    Args:
        environ: The environment's variables.

    Raises:
        InvalidInput: A variable is missing or malformed; the message names it.
    """
    values = {
        # A registered model's name may begin with a blank.
        name.removeprefix(PREFIX): value.rstrip() if name == f"{PREFIX}MODEL_VERSION" else value.strip()
        for name, value in environ.items()
        if name.startswith(PREFIX) and value.strip()
    }
    _refuse_unknown_record_options(values)
    model_uri = _required(values, "MODEL_URI", "the model to serve, such as models:/churn/2")
    name_in_uri, version_in_uri = _registered_version(model_uri)
    model_name, model_version = (
        _model_version(values["MODEL_VERSION"]) if "MODEL_VERSION" in values else (name_in_uri, version_in_uri)
    )
    if model_name is None or model_version is None:
        raise InvalidInput(
            f"{PREFIX}MODEL_VERSION is not set, and {model_uri!r} does not tell the version: give it as MODEL/VERSION, "
            "such as churn/2"
        )
    return ServingSettings(
        model_uri=model_uri,
        model_name=model_name,
        model_version=model_version,
        deployment=_deployment(values),
        host=_host(values),
        port=_whole_number(values, "PORT", 8080, 1, 65535),
        env_manager=_one_of(values, "ENV_MANAGER", "local", ENV_MANAGERS),
        access_log=_truth(values, "ACCESS_LOG"),
        max_body=_whole_number(values, "MAX_BODY", MAX_BODY, 1, 2**40),
        caller_timeout=_whole_number(values, "CALLER_TIMEOUT", CALLER_TIMEOUT, 1, 3600),
        record=_record_settings(values),
    )


def _record_settings(values: Mapping[str, str]) -> RecordSettings | None:
    rate = _share(values, "RECORD")
    max_bytes = _whole_number(values, "RECORD_MAX_BYTES", 64 * 1024 * 1024, MIN_RECORD_BYTES, 2**50)
    fields = _payload_fields(values.get("RECORD_FIELDS", "output"))
    token = values.get("RECORD_TOKEN")
    if rate == 0:
        return None
    directory = Path(_required(values, "RECORD_DIR", "the folder for the records, since recording is on"))
    return RecordSettings(rate=rate, directory=directory, max_bytes=max_bytes, fields=fields, token=token)


def _payload_fields(text: str) -> PayloadFields:
    kept: set[str] = set()
    dropped: set[str] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part.startswith("-") and len(part) > 1:
            dropped.add(part[1:])
        elif part in ("output", "input", "none"):
            kept.add(part)
        else:
            raise InvalidInput(
                f"{PREFIX}RECORD_FIELDS has {part!r}: give output, input, none, or -NAME to drop the field NAME"
            )
    if "none" in kept and len(kept) > 1:
        raise InvalidInput(f"{PREFIX}RECORD_FIELDS={text!r} has none beside other parts: give one or the other")
    # Only dropping fields leaves the default in force, so "-age" means the output without the age.
    return PayloadFields(output="output" in kept or not kept, input="input" in kept, dropped=frozenset(dropped))


def _registered_version(model_uri: str) -> tuple[str | None, str | None]:
    """Name and version in ``models:/NAME/VERSION``; nothing for other URIs."""
    if not (match := _REGISTERED.fullmatch(model_uri)):
        return None, None
    version = match["version"]
    if version is None or not version.isdecimal():
        # The subset's meaning never changes, but after a restart an alias or "latest" may name another version.
        raise InvalidInput(
            f"{PREFIX}MODEL_URI={model_uri!r} can move to another version: give models:/{match['name']}/NUMBER"
        )
    return match["name"], version


def _model_version(text: str) -> tuple[str, str]:
    name, _, version = text.rpartition("/")
    if not name or not version:
        raise InvalidInput(f"{PREFIX}MODEL_VERSION={text!r} is not MODEL/VERSION, such as churn/2")
    return name, version


def _deployment(values: Mapping[str, str]) -> str:
    name = _required(values, "DEPLOYMENT", "the name of the deployment that this server belongs to, such as churn-v2")
    if not _DNS_LABEL.fullmatch(name):
        raise InvalidInput(
            f"{PREFIX}DEPLOYMENT={name!r} is no DNS label: use up to 63 of a-z, 0-9 and '-', not '-' at either end"
        )
    return name


def _host(values: Mapping[str, str]) -> str:
    text = values.get("HOST", "0.0.0.0")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InvalidInput(
            f"{PREFIX}HOST={text!r} is no IP address: give one, such as 0.0.0.0, 127.0.0.1 or ::"
        ) from None


def _required(values: Mapping[str, str], option: str, meaning: str) -> str:
    try:
        return values[option]
    except KeyError:
        raise InvalidInput(f"{PREFIX}{option} is not set: give {meaning}") from None


def _whole_number(values: Mapping[str, str], option: str, default: int, low: int, high: int) -> int:
    text = values.get(option)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
        raise InvalidInput(f"{PREFIX}{option}={text!r} is no whole number from {low} to {high}")
    return int(text)


def _share(values: Mapping[str, str], option: str) -> float:
    text = values.get(option, "0")
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise InvalidInput(f"{PREFIX}{option}={text!r} is no number from 0 to 1")
    return share


def _truth(values: Mapping[str, str], option: str) -> bool:
    text = values.get(option, "false")
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise InvalidInput(f"{PREFIX}{option}={text!r} is neither true nor false") from None


def _one_of(values: Mapping[str, str], option: str, default: str, allowed: Iterable[str]) -> str:
    text = values.get(option, default)
    if text not in allowed:
        raise InvalidInput(
            f"{PREFIX}{option}={text!r} is unknown{_nearest(text, allowed)}: give {' or '.join(allowed)}"
        )
    return text


def _refuse_unknown_record_options(values: Mapping[str, str]) -> None:
    # A misspelt RECORD_FIELDS would record what it should have dropped. Other unknown variables are the plugin's.
    for option in values:
        if option.startswith("RECORD") and option not in _RECORD_OPTIONS:
            known = ", ".join(PREFIX + name for name in _RECORD_OPTIONS)
            raise InvalidInput(
                f"{PREFIX}{option} is unknown{_nearest(option, _RECORD_OPTIONS, PREFIX)}: there are {known}"
            )


def _nearest(text: str, allowed: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(text, list(allowed), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
