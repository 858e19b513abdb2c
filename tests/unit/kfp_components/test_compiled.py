"""The compiled components in the package are those of the code, and load."""

import re

import pytest
import yaml
from kfp import components

import kfp_components
from tests.support.compiled_components import FOLDER, PAGE, compiled, page


def test_the_compiled_components_are_current() -> None:
    committed = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.yaml")}
    assert committed == compiled(), "run 'make components'"


def test_the_page_of_components_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run 'make components'"


@pytest.mark.parametrize("name", kfp_components.__all__)
def test_a_component_loads_from_its_file(name: str) -> None:
    loaded = components.load_component_from_file(str(FOLDER / f"{name}.yaml"))
    declared = getattr(kfp_components, name)
    assert loaded.component_spec.inputs.keys() == declared.component_spec.inputs.keys()
    (executor,) = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["deploymentSpec"][
        "executors"
    ].values()
    body = " ".join(executor["container"]["command"])
    assert re.search(r"from kfp_components import (analysing, )?steps", body), "it works with the installed package"
