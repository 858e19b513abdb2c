"""``python -m mlflow_istio.serving``: run one model server as the environment says.

Exit codes: 0 after SIGTERM or SIGINT, 2 for an environment variable that can't be right, 1 for anything else. The last
line on standard error says what was wrong.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotReady
from mlflow_istio.serving.configuration import ServingSettings, read_settings


def main() -> NoReturn:
    """Serve until told to stop, and exit."""
    # Nothing is to be finished before the first request. Without a handler, the first process of a container would
    # ignore SIGTERM while it loads the model.
    signal.signal(signal.SIGTERM, _leave)
    try:
        settings = read_settings(os.environ)
        _serve(settings)
    except MlflowIstioError as error:
        if error.detail:
            print(error.detail.rstrip(), file=sys.stderr)
        print(f"mlflow_istio.serving: {error.message}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
    sys.exit(0)


def _serve(settings: ServingSettings) -> None:
    # MLflow takes seconds to import, and mistakes in the settings are told before that. What it creates on the way stays
    # for good: searching it for garbage again and again, now and while serving, costs time and finds nothing.
    gc.disable()
    try:
        if settings.env_manager != "local":
            from mlflow_istio.serving.environments import replace_process

            replace_process(settings)
        from mlflow_istio.serving.server import run_server
    except ImportError as error:
        raise NotReady(
            f"{sys.executable} can't run a model server ({error}): install mlflow>=3.1 and prometheus-client there"
        ) from error
    gc.freeze()
    gc.enable()
    run_server(settings)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
