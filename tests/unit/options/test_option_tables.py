"""The option tables in the docs are those of the models."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from mlflow_istio.options import analysis, base, release, routes
from tests.support.option_tables import PAGE, TABLES, Table, page


def test_the_tables_are_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run 'make options'"


def test_every_model_of_options_has_a_table() -> None:
    models = {
        model
        for module in (analysis, base, routes, release)
        for name, model in vars(module).items()
        if name.endswith("Options") and not name.startswith("_") and issubclass(model, BaseModel)
    }
    # What several verbs share is in each one's own table.
    shared = {base.ConnectionOptions, base.DryRunOptions, release.SourceOptions}
    assert models - {table.model for table in TABLES} == shared


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_option_says_what_it_means(table: Table) -> None:
    assert table.options
    assert [name for name, field in table.options.items() if not field.description] == []
