"""Registered model versions and the ``models:/`` URIs that name them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlflow_istio.errors import InvalidInput

_STAGES = {"none", "staging", "production", "archived"}
_LOST_IN_URIS = re.compile(r"[?\n\r\t]")
"""Registered models may have such names, but no ``models:/`` URI of MLflow's own names them (``urllib`` takes them out)."""

_FORM = "use models:/NAME/VERSION or models:/NAME@ALIAS"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReference:
    """What a ``models:/`` URI names, before the registry is asked.

    Attributes:
        model: Registered model's name.
        version: Version number, or None when an alias or the latest version is meant.
        alias: Alias, or None. ``latest`` stands for the newest version.
    """

    model: str
    version: int | None = None
    alias: str | None = None

    @property
    def label(self) -> str | None:
        """``MODEL/VERSION`` where the URI itself says it; None where only the registry knows."""
        return None if self.version is None else f"{self.model}/{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """One registered model version.

    Attributes:
        model: Registered model's name.
        version: Version number.
        alias: The alias it was asked for by, if it was; kept for the record only.
        flavors: Names of the model's flavors; empty when not read.
        folder: Folder of its files where they lie on this machine; empty otherwise.
        streams: Whether it has ``predict_stream``, as its files say; False when not read.
    """

    model: str
    version: int
    alias: str | None = None
    flavors: tuple[str, ...] = ()
    folder: str = ""
    streams: bool = False

    @property
    def label(self) -> str:
        """``MODEL/VERSION``, as the response header and the ledger write it."""
        return f"{self.model}/{self.version}"

    @property
    def uri(self) -> str:
        """The pinned URI; never an alias, which may move while a pod starts."""
        return f"models:/{self.model}/{self.version}"


def parse_model_uri(uri: str) -> ModelReference:
    """Parse ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``models:/NAME/latest``.

    Raises:
        InvalidInput: Any other URI; the message says how to register a model that is not yet.
    """
    if not uri.startswith("models:/"):
        raise InvalidInput(
            f"model URI {uri!r} is not a registered model version: {_FORM}; "
            "register a logged model first with mlflow.register_model(uri, name)"
        )
    if not uri.isascii() and uri != uri.encode("utf-8", "replace").decode("utf-8"):
        raise InvalidInput(f"model URI {uri!r} is not UTF-8, as MLflow's names are: write it in UTF-8")
    lost = _LOST_IN_URIS.search(uri)
    if lost:
        raise InvalidInput(
            f"model URI {uri!r} can't be read: MLflow drops {lost.group()!r} and what follows from models:/ URIs, so no server "
            "could load the model: rename it"
        )
    path = uri[len("models:/") :].strip("/")
    name, slash, version = path.rpartition("/")
    if slash and name and "/" not in name:
        if re.fullmatch(r"[0-9]{1,18}", version):
            if int(version) < 1:
                raise InvalidInput(f"model URI {uri!r} names version {version}: versions start at 1")
            return ModelReference(model=name, version=int(version))
        if version.lower() == "latest":
            return ModelReference(model=name, alias="latest")
        if version.lower() in _STAGES:
            raise InvalidInput(f"model URI {uri!r} names a stage, which MLflow has deprecated: {_FORM}")
    if not slash and "@" in path:
        name, _, alias = path.rpartition("@")
        if name and re.fullmatch(r"[\w-]{1,255}", alias):
            return ModelReference(model=name, alias=alias)
    if not slash and path.startswith("m-"):
        raise InvalidInput(f"model URI {uri!r} names a logged model, not a registered version: {_FORM}")
    raise InvalidInput(f"model URI {uri!r} can't be read: {_FORM}")


def not_ready(version: ModelVersion, status: str) -> str:
    """The refusal of a version whose files MLflow does not have (yet).

    Args:
        version: The version.
        status: Its status in MLflow's words.
    """
    step = "wait for it" if status == "PENDING_REGISTRATION" else "register the model again"
    return f"{version.uri} can't be deployed, its status in the registry is {status}: {step}"


def parse_label(label: str) -> ModelVersion:
    """Read ``MODEL/VERSION`` back.

    Raises:
        InvalidInput: It is not of that form.
    """
    model, _, version = label.rpartition("/")
    if not model or not re.fullmatch(r"[0-9]{1,18}", version):
        shown = label if len(label) <= 80 else label[:77] + "..."
        raise InvalidInput(f"model version {shown!r} is not of the form MODEL/VERSION")
    return ModelVersion(model=model, version=int(version))
