"""Serves a model in the Python environment that MLflow recorded with it.

MLflow prepares the environment (:class:`mlflow.pyfunc.backend.PyFuncBackend`); this process then becomes the server
in it by ``exec``, so no parent stays behind. The environment is left as MLflow makes it: the wrapper and
``prometheus_client``, both plain Python without dependencies of their own, are reached through a folder of links
at the end of ``sys.path``.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import prometheus_client
from mlflow.artifacts import download_artifacts
from mlflow.environment_variables import MLFLOW_ENV_ROOT
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import FLAVOR_NAME
from mlflow.pyfunc.backend import PyFuncBackend
from mlflow.utils.process import ShellCommandException

from mlflow_istio import errors
from mlflow_istio.errors import NotReady
from mlflow_istio.serving.configuration import PREFIX, ServingSettings

_TOOLS = {"virtualenv": "pyenv", "uv": "uv"}
_READY = ".mlflow-istio-ready"
_LAUNCHER = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("mlflow_istio.serving: the model's environment has Python %d.%d, 3.10 is needed" % sys.version_info[:2])

# At the end, so that the environment's own packages win.
sys.path.append(sys.path.pop(0))

from mlflow_istio.serving.__main__ import main

main()
"""


def replace_process(settings: ServingSettings) -> NoReturn:
    """Prepare the model's environment and become its server.

    Args:
        settings: What to serve; ``env_manager`` is not ``local``.

    Raises:
        NotReady: The model can't be fetched, a tool is missing, or the environment can't be made.
    """
    environ = dict(os.environ)
    try:
        model_path = Path(download_artifacts(artifact_uri=settings.model_uri)).resolve()
        flavor = Model.load(str(model_path)).flavors.get(FLAVOR_NAME, {})
    except (MlflowException, OSError) as error:
        raise NotReady(f"model {settings.model_uri!r} can't be fetched: {' '.join(str(error).split())}") from error
    # Apart from the environments of `mlflow models serve`, which may be half-made or in the making without our knowing.
    root = Path(MLFLOW_ENV_ROOT.get()).expanduser().resolve() / "mlflow-istio"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / "lock"):
            activation = _prepared(settings.env_manager, flavor, model_path, root)
            launcher = _link_wrapper(root)
    except OSError as error:
        raise NotReady(f"{root} can't be written ({error}): set MLFLOW_ENV_ROOT to a folder that can") from error
    prefix = "CONDA_PREFIX" if settings.env_manager == "conda" else "VIRTUAL_ENV"
    command = " && ".join([*activation, f'exec "${prefix}/bin/python" {shlex.quote(str(launcher))}'])
    bash = shutil.which("bash")
    if bash is None:
        raise NotReady("bash is not on the PATH: MLflow activates an environment through it")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(bash, [bash, "-c", command], _inner_environment(environ, model_path, settings))


def _prepared(env_manager: str, flavor: Mapping[str, object], model_path: Path, root: Path) -> list[str]:
    """Shell commands that activate the environment, which is made first if it is not there."""
    if env_manager != "conda":  # which may be elsewhere, and MLflow knows where
        _find_tool(env_manager)
    elif "env" not in flavor:
        raise NotReady(f"the model in {model_path} has no environment recorded: set {PREFIX}ENV_MANAGER=local")
    present = set(root.iterdir())
    os.environ[MLFLOW_ENV_ROOT.name] = str(root)
    activation = _prepare(env_manager, flavor, model_path)
    if env_manager == "conda":
        return activation
    environment = Path(activation[0].removeprefix("source ")).parent.parent
    if environment in present and not (environment / _READY).exists():
        # A process that was killed left it half-made, and MLflow takes any folder for a whole environment.
        shutil.rmtree(environment)
        activation = _prepare(env_manager, flavor, model_path)
    (environment / _READY).touch()
    return activation


def _find_tool(env_manager: str) -> None:
    """Let MLflow find the manager's tool, which it looks for on the PATH; pip installs uv beside this interpreter."""
    tool, beside = _TOOLS[env_manager], str(Path(sys.executable).parent)
    if shutil.which(tool) is not None:
        return
    if shutil.which(tool, path=beside) is None:
        raise NotReady(f"{PREFIX}ENV_MANAGER={env_manager} needs {tool}, which is not on the PATH: install it")
    os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), beside]))


def _prepare(env_manager: str, flavor: Mapping[str, object], model_path: Path) -> list[str]:
    backend = PyFuncBackend(dict(flavor), env_manager=env_manager)
    try:
        environment = backend.prepare_env(str(model_path))
    except (ShellCommandException, MlflowException) as error:
        raise NotReady(
            f"the {env_manager} environment of the model in {model_path} can't be made: {' '.join(str(error).split())}"
        ) from error
    return [str(command) for command in environment.get_activate_command()]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time make environments: replicas of one deployment start together."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _link_wrapper(root: Path) -> Path:
    """A folder that Python can run, with nothing of this interpreter's packages but the wrapper's own."""
    serving = Path(__file__).resolve().parent
    links = {
        "mlflow_istio/serving": serving,
        "mlflow_istio/errors.py": Path(errors.__file__).resolve(),
        "prometheus_client": Path(prometheus_client.__file__).resolve().parent,
    }
    key = sha256(repr((_LAUNCHER, links)).encode()).hexdigest()[:16]
    folder = root / f"wrapper-{key}"
    if folder.exists():
        return folder
    draft = Path(tempfile.mkdtemp(prefix="wrapper-draft-", dir=root))
    (draft / "mlflow_istio").mkdir()
    (draft / "mlflow_istio" / "__init__.py").touch()
    (draft / "__main__.py").write_text(_LAUNCHER, encoding="utf-8")
    for name, target in links.items():
        (draft / name).symlink_to(target)
    draft.rename(folder)
    return folder


def _inner_environment(environ: Mapping[str, str], model_path: Path, settings: ServingSettings) -> dict[str, str]:
    """The variables of the server: the same settings, for a model that is here and an environment that is made."""
    # Paths of this interpreter's packages have no place in an environment that MLflow pinned.
    kept = {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {
        **kept,
        f"{PREFIX}MODEL_URI": str(model_path),
        f"{PREFIX}MODEL_VERSION": f"{settings.model_name}/{settings.model_version}",
        f"{PREFIX}ENV_MANAGER": "local",
    }
