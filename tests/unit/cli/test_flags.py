"""A flag that stands for an option is the option's field: its words, its kind, whether it is required, and no second default."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from mlflow_istio.calls.request_body import CONTENT_TYPES
from mlflow_istio.cli import main, traffic
from mlflow_istio.cli.flags import ModelFlag, VerbCommand
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options import analysis, base, release, routes, shared
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.help_text import sentence

MODELS: dict[str, type[base.ConnectionOptions]] = {
    "adopt": base.AdoptOptions,
    "analyse": analysis.AnalyseOptions,
    "chaos": routes.ChaosOptions,
    "compare": analysis.CompareOptions,
    "declare": analysis.DeclareOptions,
    "delete-endpoint": base.DeleteEndpointOptions,
    "fault": routes.FaultOptions,
    "pins": routes.PinsOptions,
    "policy": routes.PolicyOptions,
    "rehearse": release.RehearseOptions,
    "release": release.ReleaseOptions,
    "resume": release.ResumeOptions,
    "route": routes.RouteOptions,
    "sweep": routes.SweepOptions,
    **dict.fromkeys(("promote", "rollback", "abort", "pause"), base.UpdateEndpointOptions),
    **dict.fromkeys(("approve", "reject", "doctor"), base.DryRunOptions),
    **dict.fromkeys(("history", "report"), base.ReadOptions),
}
"""Command to the model of what it takes; a flag by the name of one of its fields has to be that field."""


def flags() -> Iterator[tuple[str, click.Option]]:
    for command, model in MODELS.items():
        for flag in main.commands[command].params:
            if isinstance(flag, click.Option) and flag.name in model.model_fields:
                yield command, flag


FLAGS = tuple(flags())


@pytest.mark.parametrize(("command", "flag"), FLAGS, ids=[f"{command} --{flag.name}" for command, flag in FLAGS])
def test_a_flag_is_its_field(command: str, flag: click.Option) -> None:
    field = MODELS[command].model_fields[str(flag.name)]
    words = (flag.help or "").partition("  [default: ")[0]
    assert words == sentence(field)
    assert flag.is_flag == (field.annotation is bool)
    assert flag.required == field.is_required()
    assert flag.opts == ["--" + str(flag.name).replace("_", "-")]
    if not flag.is_flag:
        assert flag.type is click.STRING  # the model reads it, as it does -C and the environment


def test_every_command_that_takes_options_is_held_here() -> None:
    """Else a flag of a new command could say what it likes."""
    free = {
        name
        for name, command in main.commands.items()
        if any(parameter.name == "config" for parameter in command.params) and name not in MODELS
    }
    assert free == {"create-endpoint", "plan"}  # their flags are the deployment's, not options of create
    for name in free:
        fields = {*base.CreateOptions.model_fields, *base.UpdateEndpointOptions.model_fields}
        assert {parameter.name for parameter in main.commands[name].params} & fields == set()


def test_the_flags_are_made_from_models() -> None:
    made = [flag for name, flag in FLAGS if isinstance(main.commands[name], VerbCommand)]
    assert made == [flag for _, flag in FLAGS]
    assert len(made) >= 80
    for command in main.commands.values():
        assert not any(isinstance(parameter, ModelFlag) for parameter in command.params)


def own_fields() -> list[tuple[type[BaseModel], str]]:
    """Model and name of each option that a class body writes."""
    models = {
        model
        for module in (analysis, base, release, routes, shared)
        for _, model in inspect.getmembers(module, inspect.isclass)
        if issubclass(model, BaseModel) and model.__module__ == module.__name__
    }
    return [(model, name) for model in models for name in inspect.get_annotations(model) if name in model.model_fields]


def test_fields_are_written_once() -> None:
    """A name that has several fields means several things, and says so in other words."""
    fields = own_fields()
    names = {name for _, name in fields}
    print(f"{len(fields)} fields for {len(names)} names, {len(FLAGS)} flags made from them")
    assert len(fields) <= 1.2 * len(names)
    words: dict[str, set[str | None]] = {name: set() for name in names}
    for model, name in fields:
        words[name].add(model.model_fields[name].description)
    written = Counter(name for _, name in fields)
    repeated = {name for name in names if len(words[name]) < written[name]}
    assert repeated == {"image", "percentage"}  # two verbs with two defaults


def test_a_flag_that_is_not_given_leaves_the_environment_its_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    class Verbs:
        def update_endpoint(self, endpoint: str, options: dict[str, object]) -> None:
            asked.append(options)
            raise InvalidInput("seen")

    monkeypatch.setattr(traffic, "verbs_on", lambda _target: Verbs())
    monkeypatch.setenv("MLFLOW_ISTIO_REASON", "as every night")
    monkeypatch.setenv("MLFLOW_ISTIO_DRY_RUN", "true")
    CliRunner().invoke(main, ["promote", "churn"])
    options = parse_options(base.UpdateEndpointOptions, asked[0], cluster="istio-local")
    assert (options.action, options.reason, options.dry_run) == ("promote", "as every night", True)


def test_predict_names_the_forms_of_a_body_that_can_be_read() -> None:
    (option,) = (parameter for parameter in main.commands["predict"].params if parameter.name == "content_type")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == tuple(CONTENT_TYPES)


@pytest.mark.parametrize("words", ["--help", "status --help", "local status --help", "predict --help", "export --help"])
def test_what_takes_no_options_does_not_wait_for_their_models(words: str) -> None:
    script = (
        "import sys; from mlflow_istio.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "sys.exit(any(name in sys.modules for name in ('pydantic', 'pydantic_settings', 'mlflow_istio.calls')))"
    )
    done = subprocess.run([sys.executable, "-c", script, *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_no_help_waits_for_statistics() -> None:
    script = (
        "import sys; from mlflow_istio.cli import main\n"
        "for command in sys.argv[1:]: main([command, '--help'], standalone_mode=False)\n"
        "sys.exit('scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, *MODELS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == len(MODELS)
