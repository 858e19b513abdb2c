"""Read the ledger of an endpoint."""

from typing import NamedTuple

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_names


@component(check_names)
def read_ledger(target: str, endpoint: str, table: dsl.Output[dsl.Markdown], release_id: str = "") -> NamedTuple(
    "Ledger", [("changes", list), ("last_action", str)]
):
    """Record what the registry does not have yet, and read an endpoint's routing changes, oldest first.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        table: The changes as a table.
        release_id: Only the changes of this release; empty: all.

    Returns:
        changes: One map for each change.
        last_action: The newest one's verb; empty when there is none.
    """
    from kfp_components import steps

    changes = steps.step(lambda: steps.read_ledger(target, endpoint, release_id))
    steps.write_text(table, steps.as_markdown(endpoint, changes))
    return (changes, changes[-1]["action"] if changes else "")
