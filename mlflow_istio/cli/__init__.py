"""The ``mlflow-istio`` command: releases beside what ``mlflow deployments`` can say. Parses, calls a verb, prints.

May import showing, verbs and whatever lies below. Never in here: a decision, or an import of MLflow, pandas or kubernetes at the
head of a module: start-up matters, and the verbs that need them import them.
"""

from __future__ import annotations

import click

from mlflow_istio.cli import analysis, doctor, explain, gitops, local, policy, release, report, runtimes, traffic
from mlflow_istio.cli.options import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlflow-istio")
def main() -> None:
    """Release MLflow model versions through Istio: canary, A/B/n, blue-green, shadow."""


_FAMILIES = (
    traffic,
    release,
    analysis,
    gitops,
    doctor,
    explain,
    policy,
    report,
    runtimes,
    local,
)

for _family in _FAMILIES:
    for _command in _family.COMMANDS:
        main.add_command(_command)
